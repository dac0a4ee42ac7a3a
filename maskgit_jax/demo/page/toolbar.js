/** The tools above the image: what paints, changes of the whole mask, undo, grid and zoom. */

import { el } from "./dom.js";

const ICONS = {
  brush: "M13.5 3.5l3 3-7 7-3-3zM6.5 10.5c-2 0-3 1.3-3 3 0 1.2-.6 2-1.5 2.5 2.5 1 6.5.5 7-2.5",
  eraser: "M8 16.5h9M11.5 3.5l5 5-7.5 7.5h-3l-3-3z M7.5 7.5l5 5",
  rectangle: "M3.5 5h13v10h-13z",
  invert: "M10 3a7 7 0 1 0 0 14zM10 3a7 7 0 0 1 0 14",
  grow: "M7.5 7.5h5v5h-5zM3 7V3h4M13 3h4v4M17 13v4h-4M7 17H3v-4",
  shrink: "M3 3h14v14H3zM6 8h2V6M14 8h-2V6M14 12h-2v2M6 12h2v2",
  clear: "M4 6h12M8 6V4h4v2M5.5 6l1 11h7l1-11",
  undo: "M7 4L3.5 7.5 7 11M4 7.5h8a4.5 4.5 0 0 1 0 9H8",
  redo: "M13 4l3.5 3.5L13 11M16 7.5H8a4.5 4.5 0 0 0 0 9h4",
  grid: "M3 3h14v14H3zM7.7 3v14M12.3 3v14M3 7.7h14M3 12.3h14",
  snap: "M5 3v7a5 5 0 0 0 10 0V3h-3.5v7a1.5 1.5 0 0 1-3 0V3zM5 6.5h3.5M11.5 6.5H15",
  out: "M4 10h12",
  fit: "M3 7V3h4M13 3h4v4M17 13v4h-4M7 17H3v-4",
  in: "M4 10h12M10 4v12",
};
const SIZE_STEP = 1.25;

/** Returns an icon of 20 x 20 pixels. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** Name, text, key, help, and the modes that have the tool (all, where none are named). */
const TOOLS = [
  ["brush", "Brush", "B", "Masks what it touches", ["inpaint"]],
  ["eraser", "Eraser", "E", "Unmasks what it touches", ["inpaint"]],
  ["rectangle", "Rectangle", "R", "Masks a rectangle; with Alt, unmasks it", ["inpaint"]],
];
const MASK_ACTIONS = [
  ["invert", "Invert", "I", "Masks what is not masked, and the other way round", ["inpaint"]],
  ["grow", "Grow", "", "Makes the mask larger on all sides", ["inpaint"]],
  ["shrink", "Shrink", "", "Makes the mask smaller on all sides", ["inpaint"]],
  ["clear", "Clear", "", "Unmasks everything", ["inpaint"]],
];
const HISTORY = [
  ["undo", "Undo", "Z", "Takes back the last change of the mask or the image", null],
  ["redo", "Redo", "Y", "Makes the change again", null],
];
const TOGGLES = [
  ["grid", "Grid", "G", "Shows the tokens' edges", null],
  ["snap", "Snap", "S", "Paints, draws and drags whole tokens", ["inpaint", "replace", "outpaint"]],
];
const ZOOM = [
  ["out", "Zoom out", "-", "Zooms out", null],
  ["fit", "Fit", "0", "Shows the whole image", null],
  ["in", "Zoom in", "+", "Zooms in", null],
];

/**
 * Makes the toolbar, and the buttons that zoom, which go to `zoomed`.
 * @param {function(string)} act Called with the name of an action, such as "invert".
 * @param {function()} change Called when the tool, its size, the grid or snapping has changed.
 */
export function createToolbar(container, zoomed, act, change) {
  const state = { tool: "brush", size: 8, largest: 64, snap: false, grid: false };
  const buttons = {};
  const keys = { "[": "smaller", "]": "larger", "=": "in" };
  const make = (onclick) => ([name, text, key, help, modes]) => {
    const title = `${help}${key ? ` (key ${key})` : ""}`;
    const node = el("button", { type: "button", className: "tool", title, "aria-label": text, onclick: () => onclick(name) });
    if (key) node.setAttribute("aria-keyshortcuts", key);
    if (key) keys[key.toLowerCase()] = name;
    node.append(icon(name), el("span", {}, text));
    buttons[name] = { node, modes };
    return node;
  };
  const group = (label, ...nodes) => el("div", { className: "toolgroup", role: "group", "aria-label": label }, ...nodes);
  const slider = el("input", { type: "range", min: 0, max: 100, step: "any", "aria-label": "Size in pixels" });
  const output = el("output", {});
  slider.addEventListener("input", () => setSize(state.largest ** (slider.value / 100)));
  const size = el("label", { className: "size", title: "Size of brush and eraser (keys [ and ])" }, el("span", {}, "Size"), slider, output);
  buttons.size = { node: size, modes: ["inpaint"] };
  const zoom = group("Zoom", ...ZOOM.map(make(act)));
  zoom.classList.add("zoom");
  zoomed.append(zoom);
  container.append(
    group("Tool", ...TOOLS.map(make(setTool)), size),
    group("Whole mask", ...MASK_ACTIONS.map(make(act))),
    group("History", ...HISTORY.map(make(act))),
    group("Tokens", ...TOGGLES.map(make(toggle))),
  );

  function show() {
    for (const [name] of TOOLS) buttons[name].node.setAttribute("aria-pressed", state.tool === name);
    for (const [name] of TOGGLES) buttons[name].node.setAttribute("aria-pressed", state[name]);
    slider.value = (100 * Math.log(state.size)) / Math.log(Math.max(2, state.largest));
    slider.setAttribute("aria-valuetext", `${state.size} pixels`);
    output.textContent = `${state.size} px`;
  }

  function setTool(tool) {
    state.tool = tool;
    show();
    change();
  }

  function toggle(name) {
    state[name] = !state[name];
    show();
    change();
  }

  function setSize(pixels) {
    state.size = Math.min(state.largest, Math.max(1, Math.round(pixels)));
    show();
    change();
  }

  /** Makes brush and eraser a step larger or smaller, at least by a pixel. */
  function resize(larger) {
    const size = state.size * (larger ? SIZE_STEP : 1 / SIZE_STEP);
    setSize(larger ? Math.max(size, state.size + 1) : Math.min(size, state.size - 1));
  }

  show();
  return {
    state,
    setTool,
    toggle,
    resize,
    /** Sets the usual and the largest size, for another image. */
    setSizes(usual, largest) {
      state.largest = Math.max(2, largest);
      state.size = Math.min(usual, state.largest);
      show();
    },
    /** Returns the name of the action that a key stands for in a mode, "" if none. */
    actionOf(event, mode) {
      const letter = event.key.toLowerCase();
      if (event.ctrlKey || event.metaKey) {
        return letter === "z" ? (event.shiftKey ? "redo" : "undo") : letter === "y" ? "redo" : "";
      }
      const name = keys[letter] ?? "";
      const { node, modes } = buttons[name === "smaller" || name === "larger" ? "size" : name] ?? {};
      return node && !node.disabled && (!modes || modes.includes(mode)) ? name : "";
    },
    /** Shows the tools of a mode, and disables those of `disabled`. */
    update(mode, disabled) {
      for (const [name, { node, modes }] of Object.entries(buttons)) {
        node.hidden = Boolean(modes) && !modes.includes(mode);
        node.disabled = disabled.includes(name);
      }
      for (const node of container.children) node.hidden = [...node.children].every((child) => child.hidden);
    },
  };
}
