/** The tab "Watch": a decoding step by step, of one or two decoders, and going on from any step. */

import { button, el } from "./dom.js";
import { createJobBar } from "./job_bar.js";
import { createClassPicker, createNumber, createSettings } from "./settings.js";
import { createTrack } from "./track.js";

const MILLISECONDS_A_STEP = 450;

/** Fills the panel, and returns the tab. */
export function create(panel, app) {
  const controls = el("form", { className: "controls", "aria-label": "What to watch" });
  const stage = el("div", { className: "stage" });
  panel.replaceChildren(el("div", { className: "columns" }, controls, stage));

  const label = createClassPicker(controls, app, {});
  const seed = createNumber(controls, app, { key: "seed", label: "Seed", value: 0, dice: true });
  const sampling = el("div", { className: "controls" });
  const second = createSecond(app);
  const settings = createSettings(sampling, app, null, [second.node]);
  const actions = el("div", { className: "actions" });
  actions.append(button("Decode", null, { className: "primary", type: "submit" }));
  controls.append(sampling, actions);
  const bar = createJobBar(actions, app);

  const empty = el("p", { className: "empty" }, "Press Decode to watch one image being decoded, step by step.");
  const timeline = createTimeline((step) => tracks.forEach((track) => track.show(step)));
  const tools = createTools();
  const list = el("div", { className: "tracks" });
  stage.append(empty, timeline.node, tools.node, list);
  let tracks = [];

  const setTracks = (wanted) => {
    tracks = wanted;
    list.replaceChildren(...tracks.map((track) => track.node));
    empty.hidden = tracks.length > 0;
    timeline.node.hidden = tools.node.hidden = !tracks.length;
  };

  /** Decodes into a new track below those of `above`; the slider follows. */
  const decode = async (above, options, request) => {
    const { run } = app;
    const track = createTrack(app, { ...options, tool: tools.value });
    let waiting = Promise.resolve();
    timeline.pause();
    const onEvent = (event) => {
      if (event.type !== "step") return;
      waiting = waiting.then(() => track.push(event)).then(() => {
        if (!tracks.includes(track)) setTracks([...above, track]);
        timeline.set(event.step, event.steps);
      });
    };
    const done = await bar.start({ run: run.name, num: 1, trace: true, ...request }, onEvent);
    await waiting;
    if (done) track.finish(done.images[0]);
    if (done) app.announce(`${options.title}: decoded.`);
    return done && app.run === run ? track : null;
  };

  /** Returns what the controls say; null, with a line at the button, if something is not allowed. */
  const read = (from) => {
    try {
      return { label: label.value(), seed: from.value(), settings: settings.values() };
    } catch (error) {
      bar.showError(error.message);
      return null;
    }
  };
  const nameOf = (values) => values.settings.decoder ?? app.run.settings.find(({ name }) => name === "decoder")?.default;

  const start = async () => {
    const values = read(seed);
    if (!values) return;
    const wanted = [values];
    if (second.value()) wanted.push({ ...values, settings: { ...values.settings, decoder: second.value() } });
    let above = [];
    for (const each of wanted) {
      const options = { title: `Decoder ${nameOf(each)}, seed ${each.seed}` };
      options.goOn = (state) => goOn(track, each, state);
      const request = { task: "generate", labels: [each.label], seed: each.seed, settings: each.settings };
      const track = await decode(above, options, request);
      if (!track) return;
      above = [...above, track];
    }
  };

  const goOn = async (source, values, state) => {
    const now = read(tools.seed);
    if (!now) return;
    const { step, ...tokens } = state;
    const each = { ...now, label: values.label, settings: { ...now.settings, decoder: nameOf(values) } };
    const options = {
      title: `Decoder ${nameOf(values)}, from step ${step} on, seed ${each.seed}`,
      before: source.last().tokens[0],
      locked: [...state.locked.keys()].filter((index) => state.locked[index]),
      goOn: (next) => goOn(track, each, next),
    };
    const track = await decode([source], options, { task: "resume", ...tokens, ...each });
  };

  const clear = () => {
    bar.cancel();
    timeline.pause();
    setTracks([]);
  };
  tools.attach(app);
  setTracks([]);
  controls.addEventListener("submit", (event) => {
    event.preventDefault();
    start();
  });
  app.addEventListener("run", clear);
  return { show: () => {} };
}

/** The choice of a second decoder to compare with. */
function createSecond(app) {
  const select = el("select", { id: "second-decoder" });
  const label = el("label", { htmlFor: "second-decoder" }, "Compare with");
  const help = el("p", { className: "help" }, "Decodes a second image from the same seed with another decoder.");
  const node = el("div", { className: "field" }, label, select, help);
  const build = () => {
    const decoder = app.run.settings.find(({ name }) => name === "decoder");
    const title = (name) => name[0].toUpperCase() + name.slice(1).replaceAll("_", " ");
    const options = (decoder?.choices ?? []).map((value) => el("option", { value }, title(value)));
    select.replaceChildren(el("option", { value: "" }, "Nothing"), ...options);
    node.hidden = !decoder;
    select.value = app.state("second") ?? "";
  };
  select.addEventListener("change", () => app.state("second", select.value));
  app.addEventListener("run", build);
  app.addEventListener("state", ({ detail }) => detail === null && (select.value = app.state("second") ?? ""));
  build();
  return { node, value: () => select.value };
}

/** What a press on a token does, and the seed of going on. */
function createTools() {
  const group = el("div", { className: "row", role: "group", "aria-label": "A press on a token" });
  const node = el("div", { className: "tools" });
  let chosen = "back";
  const names = { back: "Take back", lock: "Lock" };
  const buttons = Object.entries(names).map(([value, text]) =>
    button(text, () => choose(value), { className: "small" }),
  );
  const choose = (value) => {
    chosen = value;
    buttons.forEach((each, index) => each.setAttribute("aria-pressed", Object.keys(names)[index] === value));
  };
  choose(chosen);
  group.append(el("span", { className: "muted" }, "Click tokens of the image to"), ...buttons);
  const tools = { node, value: () => chosen };
  tools.attach = (app) => {
    const field = el("div", { className: "seed" });
    tools.seed = createNumber(field, app, { key: "again", label: "Seed to go on with", value: () => app.state("seed") ?? 0, dice: true });
    node.append(group, field);
  };
  return tools;
}

/** The slider over the steps with its button; the space bar plays, the arrow keys move. */
function createTimeline(show) {
  const slider = el("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": "Step" });
  const play = button("Play", () => (timer ? pause() : start()), { className: "play" });
  const text = el("output", { className: "muted" });
  const node = el("div", { className: "timeline" }, play, slider, text);
  let timer = null;

  const set = (step) => {
    slider.value = step;
    text.textContent = `Step ${slider.value} of ${slider.max}`;
    slider.setAttribute("aria-valuetext", text.textContent);
    show(Number(slider.value));
  };
  const pause = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  };
  const start = () => {
    const last = Number(slider.max);
    set(Number(slider.value) >= last ? 0 : Number(slider.value));
    play.textContent = "Pause";
    timer = setInterval(() => {
      set(Number(slider.value) + 1);
      if (Number(slider.value) >= last) pause();
    }, MILLISECONDS_A_STEP);
  };
  slider.addEventListener("input", () => (pause(), set(slider.value)));
  slider.addEventListener("keydown", (event) => {
    if (event.key !== " ") return;
    event.preventDefault();
    play.click();
  });
  const setBoth = (step, steps) => {
    slider.max = steps;
    set(step);
  };
  return { node, set: setBoth, pause };
}
