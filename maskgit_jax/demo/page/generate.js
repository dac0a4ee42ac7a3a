/** The tab "Generate": samples images of classes and shows them while they are decoded. */

import { button, el, reveal } from "./dom.js";
import { createGallery } from "./gallery.js";
import { createJobBar } from "./job_bar.js";
import { createClassPicker, createNumber, createSettings } from "./settings.js";

const USUAL_NUMBER = 8;

/** Fills the panel, and returns the tab. */
export function create(panel, app) {
  const controls = el("form", { className: "controls", "aria-label": "What to generate" });
  const stage = el("div", { className: "stage" });
  panel.replaceChildren(el("div", { className: "columns" }, controls, stage));

  const classes = createClassPicker(controls, app, { multiple: true });
  const pair = el("div", { className: "pair" });
  controls.append(pair);
  const number = createNumber(pair, app, {
    key: "num", label: "Number", minimum: 1, maximum: app.run.limits.num, value: USUAL_NUMBER,
  });
  const seed = createNumber(pair, app, { key: "seed", label: "Seed", value: 0, dice: true });
  const sampling = el("div", { className: "controls" });
  const settings = createSettings(sampling, app);
  const actions = el("div", { className: "actions" });
  actions.append(button("Generate", null, { className: "primary", type: "submit" }));
  controls.append(sampling, actions);

  const bar = createJobBar(actions, app);
  const result = el("p", { className: "muted", hidden: true });
  const empty = el("p", { className: "empty" }, "Choose classes and press Generate. The images appear here while they are decoded.");
  const gallery = createGallery(stage, app);
  stage.prepend(empty, result);

  const say = (text) => {
    result.hidden = !text;
    result.textContent = text;
  };
  const names = (labels, num, value) => {
    const name = (label) => (label === null || label === undefined ? "" : `${app.run.classes[label]}, `);
    return Array.from({ length: num }, (_, i) => `${name(labels[i % labels.length])}image ${i + 1} of ${num}, seed ${value}`);
  };

  const generate = async () => {
    let request;
    try {
      const labels = classes.value();
      const common = { seed: seed.value(), num: number.value(), settings: settings.values() };
      request = { run: app.run.name, task: "generate", labels, ...common };
    } catch (error) {
      bar.showError(error.message);
      return;
    }
    const titles = names(request.labels, request.num, request.seed);
    say("");
    let begun = false;
    const begin = () => {
      if (begun) return;
      begun = empty.hidden = true;
      gallery.begin(titles);
      reveal(stage);
    };
    const onEvent = (event) => {
      if (event.type !== "step") return;
      begin();
      gallery.step(event);
    };
    const done = await bar.start(request, onEvent);
    if (!done) return;
    begin(); // priors without decoding steps
    await gallery.finish(done);
    const count = request.num === 1 ? "1 image" : `${request.num} images`;
    say(`${count} in ${done.seconds.toFixed(2)} s, seed ${done.seed}.`);
    app.announce(`${count} generated.`);
  };
  controls.addEventListener("submit", (event) => {
    event.preventDefault();
    generate();
  });
  app.addEventListener("run", () => {
    bar.cancel();
    number.setMaximum(app.run.limits.num);
    gallery.begin([]);
    empty.hidden = false;
    say("");
  });
  return { show: () => {} };
}
