/** A strip of images to choose from, such as candidates: previews while they decode, then results. */

import { button, el } from "./dom.js";

const THUMBNAIL = 96; // CSS pixels, the longer side

/**
 * Makes a strip. An item is {url, alt, caption, width, height}, or with `draw(context, scale)`
 * instead of a url.
 * @param {function(number)} select Called with the index of the chosen item.
 */
export function createStrip(container, label, select) {
  const list = el("div", { className: "strip", role: "group", "aria-label": label });
  container.append(list);

  function thumbnail({ url, alt, draw, width, height }) {
    const scale = THUMBNAIL / Math.max(width, height);
    const [w, h] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
    if (url) {
      const image = el("img", { src: url, alt, width: w, height: h, draggable: false });
      image.classList.toggle("pixelated", scale > 1.5);
      return image;
    }
    const ratio = window.devicePixelRatio || 1;
    const canvas = el("canvas", { width: w * ratio, height: h * ratio, role: "img", "aria-label": alt });
    canvas.style.width = `${w}px`;
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    draw(context, scale);
    return canvas;
  }

  /** Shows items; `chosen` is the index of the one in the canvas. */
  function show(items, chosen) {
    list.hidden = !items.length;
    const focused = [...list.children].indexOf(document.activeElement);
    list.replaceChildren(...items.map((item, index) => {
      const node = button("", () => select(index), { className: "item", "aria-pressed": String(index === chosen) });
      node.replaceChildren(thumbnail(item), el("span", {}, item.caption));
      return node;
    }));
    list.children[focused]?.focus({ preventScroll: true });
    const pressed = list.querySelector('[aria-pressed="true"]');
    if (pressed) list.scrollLeft = pressed.offsetLeft - list.offsetLeft - 40;
  }

  list.addEventListener("keydown", (event) => {
    const place = [...list.children].indexOf(document.activeElement);
    const next = list.children[place + { ArrowRight: 1, ArrowLeft: -1 }[event.key]];
    if (place < 0 || !next) return;
    event.preventDefault();
    event.stopPropagation();
    next.focus();
    next.click();
  });
  return { show };
}
