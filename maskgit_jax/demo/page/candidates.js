/** Candidates of an edit: previews while they decode, then results to compare, accept or discard. */

import { imageUrl } from "./api.js";
import { button, el } from "./dom.js";
import { setScaling } from "./frames.js";
import { drawScene, frameOf } from "./layers.js";

const THUMBNAIL = 96; // CSS pixels, the longer side

/**
 * Makes a strip. An item is {url, alt, caption, width, height}, or with `draw(context, scale)`
 * instead of a url.
 * @param {function(number)} select Called with the index of the chosen item.
 */
function createStrip(container, label, select) {
  const list = el("div", { className: "candidates", role: "group", "aria-label": label });
  container.append(list);
  const made = new Map(); // by address, so that images don't flicker when the strip is shown again

  function thumbnail({ url, alt, draw, width, height }) {
    if (made.has(url)) return made.get(url);
    const scale = THUMBNAIL / Math.max(width, height);
    const [w, h] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
    if (url) {
      const image = el("img", { src: url, alt, width: w, height: h, draggable: false });
      setScaling(image, width);
      made.set(url, image);
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
    if (!items.length) made.clear();
    const focused = [...list.children].indexOf(document.activeElement);
    list.replaceChildren(...items.map((item, index) => {
      const node = button("", () => select(index), { className: "item", "aria-pressed": String(index === chosen) });
      node.replaceChildren(thumbnail(item), el("span", {}, item.caption));
      return node;
    }));
    list.children[focused]?.focus({ preventScroll: true });
    const pressed = list.querySelector('[aria-pressed="true"]');
    if (pressed) list.scrollLeft = pressed.offsetLeft - list.offsetLeft - list.firstChild.offsetWidth - 16;
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

/**
 * Makes the strips of candidates and of accepted images, and what is done with a candidate.
 * @param {{compared: function(), another: function(), showError: function(string)}} on compared:
 *   whether the image before the edit is shown has changed; another: another image is wanted.
 */
export function createResults(container, session, on) {
  const strip = createStrip(container, "Candidates", (index) => session.choose(index ? index - 1 : null));
  const accept = button("Accept", () => session.accept().catch((error) => on.showError(error.message)), {
    className: "primary", title: "The candidate becomes the image",
  });
  const hold = button("Hold to compare", () => {}, { title: "Shows the image before the edit while it is pressed (key C)" });
  const discard = button("Discard", () => session.discard(), { title: "Removes the candidate; the mask stays" });
  const download = el("a", { className: "button" }, "Download");
  const another = button("Open another image", on.another, { className: "quiet" });
  const actions = el("div", { className: "row" }, accept, hold, discard, download, another);
  container.append(actions);
  const versions = createStrip(container, "Images so far", (index) => session.goTo(session.doc.versions[index]));
  const badge = el("p", { className: "badge", hidden: true });
  let comparing = false;

  const presses = { pointerdown: true, pointerup: false, pointerleave: false, pointercancel: false, blur: false, keyup: false };
  for (const [name, pressed] of Object.entries(presses)) hold.addEventListener(name, () => compare(pressed));
  hold.addEventListener("keydown", (event) => [" ", "Enter"].includes(event.key) && compare(true));
  hold.addEventListener("contextmenu", (event) => event.preventDefault());

  /** Shows the image before the edit instead of the candidate, or no longer. */
  function compare(wanted) {
    const before = comparing;
    comparing = wanted && Boolean(session.candidate);
    if (comparing === before) return;
    showBadge();
    on.compared();
  }

  function showBadge() {
    badge.hidden = !session.candidate;
    if (session.candidate) {
      badge.textContent = comparing ? "Before the edit" : `${session.candidate.caption}, seed ${session.candidate.seed}. Hold to compare.`;
    }
  }

  /** Returns the items of candidates that are being decoded. */
  function decoding({ num, size, border, ...running }) {
    const [x, y, width, height] = frameOf(size, border);
    return Array.from({ length: num }, (_, index) => {
      const draw = (context, scale) => {
        const view = { x: -x * scale, y: -y * scale, scale, width: width * scale, height: height * scale };
        const scene = { image: session.doc.image.element, size, running: { ...running, size, border, index }, cursor: null };
        drawScene(context, view, scene);
      };
      return { width, height, draw, caption: "Decoding", alt: `Candidate ${index + 1}, being decoded` };
    });
  }

  /** Shows the candidates, with those of `running` as they decode, and the accepted images. */
  function show(running) {
    const { doc, candidate } = session;
    const item = ({ image, caption }) => ({ ...image, caption, alt: "" });
    const items = [...doc.candidates.map(item), ...(running ? decoding(running) : [])];
    const before = { ...doc.image, caption: "Before", alt: "" };
    strip.show(items.length ? [before, ...items] : [], doc.chosen === null ? 0 : doc.chosen + 1);
    const images = doc.versions.map((image) => ({ ...image, alt: "" }));
    versions.show(images.length > 1 ? images : [], doc.versions.indexOf(doc.image));
    for (const node of [accept, hold, discard]) node.hidden = !candidate;
    const { image, caption } = candidate ?? { image: doc.image, caption: doc.image.caption };
    download.href = imageUrl(image.id, `${caption.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-")}.png`);
    download.title = `Download: ${caption}`;
    showBadge();
  }

  return { badge, show, compare, get comparing() {
    return comparing;
  } };
}
