/** The controls of the Edit tab: the mode, what it asks for, class, number, seed and settings. */

import { el } from "./dom.js";
import { createClassPicker, createNumber, createSettings } from "./settings.js";

/** Title, help and button of each mode, in the order of the menu. */
export const MODES = {
  inpaint: ["Inpaint", "Paint over the part that is to be generated.", "Inpaint"],
  replace: ["Replace", "Draw a box and pick the class to show in it.", "Replace"],
  outpaint: ["Outpaint", "Drag the edges of the image outwards.", "Outpaint"],
  variations: ["Variations", "Generate a random part of the image again.", "Generate variations"],
};
const STRENGTH = 50; // percent
const MOST_CANDIDATES = 16;

/** Makes a row of buttons of which one is chosen; `state` in the address holds it. */
export function createModes(container, app, onChange) {
  const help = el("p", { className: "help" });
  const radios = {};
  const labels = Object.entries(MODES).map(([mode, [title]]) => {
    radios[mode] = el("input", { type: "radio", name: "edit-mode", value: mode, onchange: () => app.state("mode", mode) });
    return el("label", { className: "chip" }, radios[mode], el("span", {}, title));
  });
  container.append(el("fieldset", { className: "field modes", "aria-label": "What to do" }, el("div", { className: "chips" }, ...labels), help));
  const possible = (mode) => mode !== "replace" || app.run.classes.length > 0;
  const mode = () => {
    const wanted = app.state("mode");
    return wanted in MODES && possible(wanted) ? wanted : "inpaint";
  };
  const refresh = () => {
    labels.forEach((label, place) => (label.hidden = !possible(Object.keys(MODES)[place])));
    radios[mode()].checked = true;
    help.textContent = MODES[mode()][1];
    onChange();
  };
  app.addEventListener("run", refresh);
  app.addEventListener("state", ({ detail }) => (detail === "mode" || detail === null) && refresh());
  return { mode, refresh };
}

/**
 * Makes the fields below the modes.
 * @param {{onBox: function(box), onChange: function(), masks: HTMLElement[]}} owner `masks`: buttons
 *   shown with inpainting.
 */
export function createControls(container, app, owner) {
  const part = (mode, ...nodes) => el("div", { className: "part", "data-mode": mode }, ...nodes);
  const around = el("div");
  const border = el("div", { className: "sides" });
  const boxInputs = ["top", "left", "height", "width"].map((name) => el("input", {
    type: "number", min: 0, step: 1, "aria-label": `${name[0].toUpperCase()}${name.slice(1)} of the box in pixels`, onchange: () => readBox(),
  }));
  const boxLabels = boxInputs.map((input, i) => el("label", {}, el("span", {}, ["Top", "Left", "Height", "Width"][i]), input));
  const strength = el("input", { id: "edit-strength", type: "range", min: 5, max: 95, step: 5 });
  const percent = el("output", { htmlFor: "edit-strength" });
  const legend = (text) => el("span", { className: "legend" }, text);
  const parts = [
    part("inpaint", el("div", { className: "field", role: "group", "aria-label": "Mask" }, legend("Mask"), el("div", { className: "sides two" }, ...owner.masks)), around),
    part("replace", el("div", { className: "field", role: "group", "aria-label": "Box in pixels" }, legend("Box in pixels"), el("div", { className: "sides" }, ...boxLabels))),
    part("outpaint", el("div", { className: "field", role: "group", "aria-label": "Pixels to add" }, legend("Pixels to add"), border)),
    part("variations", el("div", { className: "field" },
      el("div", { className: "head" }, el("label", { htmlFor: "edit-strength" }, "Strength"), percent), strength,
      el("p", { className: "help" }, "Share of the tokens that are generated again. Each candidate keeps other tokens."))),
  ];
  const common = el("div", { className: "controls" });
  const [masks, ...others] = parts;
  container.append(...others, common);
  const dilate = createNumber(around, app, { key: "dilate", label: "Tokens around the mask", maximum: 8, value: 0 });
  around.firstChild.append(el("p", { className: "help" }, "They are generated too, but their pixels outside the mask are kept."));
  const label = createClassPicker(common, app, { none: true, label: "Class" });
  const pair = el("div", { className: "pair" });
  common.append(pair);
  const num = createNumber(pair, app, { key: "candidates", label: "Candidates", minimum: 1, maximum: MOST_CANDIDATES, value: 4 });
  const seed = createNumber(pair, app, { key: "seed", label: "Seed", value: 0, dice: true });
  const sampling = el("div", { className: "controls" });
  common.append(masks, sampling);
  const settings = createSettings(sampling, app);

  strength.addEventListener("input", () => {
    percent.textContent = `${strength.value}%`;
    owner.onChange();
  });
  strength.addEventListener("change", () => app.state("strength", Number(strength.value) === STRENGTH ? null : strength.value));
  const readStrength = () => {
    strength.value = app.state("strength") ?? STRENGTH;
    percent.textContent = `${strength.value}%`;
  };
  app.addEventListener("state", ({ detail }) => {
    if (detail === "strength" || detail === null) readStrength();
    if (["strength", "dilate", null].includes(detail)) owner.onChange();
  });
  readStrength();

  function readBox() {
    const [top, left, height, width] = boxInputs.map((input) => Math.round(Number(input.value)) || 0);
    owner.onBox([top, left, top + height, left + width]);
  }

  return {
    label, num, seed, settings, dilate, border,
    /** Tokens around the mask, 0 while the number is not valid. */
    around() {
      try {
        return dilate.value();
      } catch {
        return 0;
      }
    },
    /** Share of the tokens that variations generate again. */
    strength: () => Number(strength.value) / 100,
    showBox(box) {
      const [top, left, bottom, right] = box ?? [0, 0, 0, 0];
      [top, left, bottom - top, right - left].forEach((value, i) => (boxInputs[i].value = value));
    },
    showMode(mode) {
      for (const node of parts) node.hidden = node.dataset.mode !== mode;
    },
  };
}
