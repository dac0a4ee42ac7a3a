/** The frame of an image, whose edges are dragged outwards to outpaint. */

import { el } from "./dom.js";
import { frameOf } from "./layers.js";

export const NO_BORDER = Object.freeze({ left: 0, right: 0, top: 0, bottom: 0 });
const SIDES = ["left", "right", "top", "bottom"];
const OUTWARDS = { left: "ArrowLeft", right: "ArrowRight", top: "ArrowUp", bottom: "ArrowDown" };
const INWARDS = { left: "ArrowRight", right: "ArrowLeft", top: "ArrowDown", bottom: "ArrowUp" };
const across = (side) => side === "left" || side === "right";

/**
 * Makes the handles on the frame's edges, and a number for each side.
 * @param {View} view Of the image; the handles lie in its box.
 * @param {HTMLElement} fields Where the numbers go.
 * @param {{step: function(side): number, snap: function(): boolean, change: function(boolean)}} owner
 *   step: pixels of a token; change: called with whether the user still drags.
 */
export function createFrame(view, fields, { step, snap, change }) {
  let border = { ...NO_BORDER };
  let size = { width: 1, height: 1 };
  const handles = Object.fromEntries(SIDES.map((side) => [side, makeHandle(side)]));
  const inputs = Object.fromEntries(SIDES.map((side) => [side, makeInput(side)]));
  view.box.append(...Object.values(handles));
  fields.append(...SIDES.map((side) => el("label", {}, el("span", {}, side[0].toUpperCase() + side.slice(1)), inputs[side])));

  function makeHandle(side) {
    const handle = el("div", {
      className: `frame-handle ${side}`,
      role: "slider",
      tabIndex: 0,
      "aria-label": `Pixels to add on the ${side}`,
      "aria-orientation": across(side) ? "horizontal" : "vertical",
      "aria-valuemin": 0,
      title: "Drag outwards, or use the arrow keys",
    }, el("span"));
    let start = null;
    handle.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      handle.setPointerCapture(event.pointerId);
      start = { point: view.point(event), pixels: border[side] };
      event.preventDefault();
      handle.focus({ preventScroll: true });
    });
    handle.addEventListener("pointermove", (event) => {
      if (!start) return;
      const [x, y] = view.point(event);
      const moved = across(side) ? x - start.point[0] : y - start.point[1];
      set(side, round(side, start.pixels + (side === "left" || side === "top" ? -moved : moved)), true);
    });
    const end = () => {
      if (start) change(false);
      start = null;
    };
    handle.addEventListener("pointerup", end);
    handle.addEventListener("pointercancel", end);
    handle.addEventListener("keydown", (event) => {
      const sign = event.key === OUTWARDS[side] ? 1 : event.key === INWARDS[side] ? -1 : 0;
      if (!sign) return;
      event.preventDefault();
      event.stopPropagation();
      const by = event.altKey ? 1 : step(side) * (event.shiftKey ? 4 : 1);
      set(side, Math.max(0, Math.round(border[side] + sign * by)));
    });
    return handle;
  }

  function makeInput(side) {
    const input = el("input", { type: "number", min: 0, step: 1, value: 0, "aria-label": `Pixels to add on the ${side}` });
    input.addEventListener("change", () => {
      const pixels = Math.round(Number(input.value));
      set(side, Number.isFinite(pixels) ? Math.max(0, pixels) : 0);
    });
    return input;
  }

  function round(side, pixels) {
    const unit = snap() ? step(side) : 1;
    return Math.max(0, Math.round(Math.round(pixels / unit) * unit));
  }

  function set(side, pixels, dragging = false) {
    border = { ...border, [side]: pixels };
    show();
    change(dragging);
  }

  function show() {
    for (const side of SIDES) {
      inputs[side].value = border[side];
      handles[side].setAttribute("aria-valuenow", border[side]);
      handles[side].setAttribute("aria-valuetext", `${border[side]} pixels`);
      handles[side].firstChild.textContent = border[side] ? `+${border[side]}` : "";
    }
  }

  show();
  return {
    get border() {
      return border;
    },
    get empty() {
      return SIDES.every((side) => border[side] === 0);
    },
    /** Sets the image's size and its borders. */
    set(newSize, newBorder = NO_BORDER) {
      size = newSize;
      border = { ...newBorder };
      show();
    },
    /** Puts the handles where the frame's edges are; called whenever the view is drawn. */
    place(visible) {
      const [x, y, width, height] = frameOf(size, border).map((value) => value * view.scale);
      const [left, top] = [view.x + x, view.y + y];
      const inside = (place, side) => Math.min(Math.max(place, 14), side - 14);
      const places = {
        left: [left, top + height / 2],
        right: [left + width, top + height / 2],
        top: [left + width / 2, top],
        bottom: [left + width / 2, top + height],
      };
      for (const side of SIDES) {
        const [px, py] = [inside(places[side][0], view.width), inside(places[side][1], view.height)];
        handles[side].hidden = !visible;
        handles[side].style.transform = `translate(${px}px, ${py}px)`;
      }
    },
  };
}
