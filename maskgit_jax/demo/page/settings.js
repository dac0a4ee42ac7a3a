/** Controls whose values the address of the page holds: settings of sampling, numbers, classes. */

import { button, el } from "./dom.js";

const MAIN = ["decoder", "steps", "guidance"];
const MANY_CLASSES = 24;
const LARGEST_SEED = 2 ** 31 - 1;
let fields = 0;

/** "guidance_schedule" -> "Guidance schedule". */
const title = (name) => name[0].toUpperCase() + name.slice(1).replaceAll("_", " ");

/** Returns the value that a text stands for, undefined if it is none of this setting. */
function parse(setting, text) {
  const number = (word) => (word.trim() === "" ? NaN : Number(word));
  if (setting.type === "bool") return text === "true";
  if (setting.type === "range") {
    const pair = text.split(",").map(number);
    return pair.length === 2 && pair.every(Number.isFinite) ? pair : undefined;
  }
  if (setting.type === "int" || setting.type === "float") {
    const value = number(text);
    const whole = setting.type === "float" || Number.isInteger(value);
    return Number.isFinite(value) && whole ? value : undefined;
  }
  return text;
}

const format = (value) => (value === null || value === undefined ? "" : String(value));

/** Returns the allowed values in words, such as "at least 1 and at most 64". */
function range({ type, minimum, maximum, above, choices }) {
  if (choices?.length || type === "bool" || type === "text") return "";
  const known = (value) => value !== null && value !== undefined;
  const words = [];
  if (known(minimum) && known(maximum)) return `${minimum} to ${maximum}`;
  if (known(above)) words.push(`above ${above}`);
  if (known(minimum)) words.push(`at least ${minimum}`);
  if (known(maximum)) words.push(`at most ${maximum}`);
  return words.join(" and ");
}

/** Returns what is wrong with a text as the value of a setting, in one line; "" if nothing is. */
function problem(setting, text) {
  const value = parse(setting, text);
  const kind = { int: "a whole number", float: "a number", range: "two numbers" }[setting.type];
  const allowed = range(setting);
  const message = `${title(setting.name)} must be ${[kind, allowed].filter(Boolean).join(", ")}.`;
  if (value === undefined) return message;
  if (setting.choices?.length) return setting.choices.includes(value) ? "" : message;
  const tooSmall = value < (setting.minimum ?? -Infinity) || value <= (setting.above ?? -Infinity);
  return typeof value === "number" && (tooSmall || value > (setting.maximum ?? Infinity))
    ? message
    : "";
}

/** Makes the input of a setting: {node, read, write}; values are texts. */
function control(setting, id, change) {
  const described = { id, "aria-describedby": `${id}-help`, onchange: change };
  if (setting.choices?.length) {
    const options = setting.choices.map((value) => el("option", { value }, title(value)));
    const select = el("select", described, ...options);
    return { node: select, read: () => select.value, write: (text) => (select.value = text) };
  }
  if (setting.type === "bool") {
    const box = el("input", { type: "checkbox", ...described });
    const write = (text) => (box.checked = text === "true");
    return { node: box, read: () => String(box.checked), write };
  }
  const numeric = setting.type === "int" || setting.type === "float";
  const input = el("input", { ...described, type: numeric ? "number" : "text" });
  if (setting.type === "int") input.step = 1;
  else if (numeric) input.step = "any";
  for (const [attribute, limit] of [["min", setting.minimum], ["max", setting.maximum]]) {
    if (numeric && limit !== null && limit !== undefined) input[attribute] = limit;
  }
  const write = (text) => (input.value = text);
  if (!MAIN.includes(setting.name) || !numeric) return { node: input, read: () => input.value, write };
  return withSlider(setting, input, change);
}

/** Adds a slider over the usual values to a number. */
function withSlider(setting, input, change) {
  const usual = Math.max(4 * setting.default, 4);
  const slider = el("input", {
    type: "range",
    min: setting.minimum ?? 0,
    max: Math.min(setting.maximum ?? usual, usual),
    step: setting.type === "int" ? 1 : 0.25,
    tabIndex: -1,
    "aria-hidden": true,
    oninput: () => (input.value = slider.value),
    onchange: change,
  });
  input.addEventListener("input", () => (slider.value = input.value));
  const write = (text) => (slider.value = input.value = text);
  return { node: el("div", { className: "slider" }, slider, input), read: () => input.value, write };
}

/** A setting with its label, help, and a button that resets it to the run's default. */
function createField(setting, app) {
  const id = `field-${++fields}`;
  const usual = format(setting.default);
  const error = el("p", { className: "error", hidden: true });
  const input = control(setting, id, () => {
    const text = input.read();
    show(text);
    if (!problem(setting, text)) app.state(setting.name, text === usual ? null : text);
  });
  const reset = button("Reset", () => (app.state(setting.name, null), refresh()), {
    className: "quiet small",
    title: `Reset to ${usual || "nothing"}, the default of this model`,
    "aria-label": `Reset ${title(setting.name)} to ${usual || "nothing"}`,
  });
  const show = (text) => {
    error.textContent = problem(setting, text);
    error.hidden = !error.textContent;
    reset.hidden = text === usual;
  };
  const refresh = () => {
    const text = app.state(setting.name) ?? usual;
    const valid = problem(setting, text) ? usual : text;
    input.write(valid);
    show(valid);
  };
  const allowed = range(setting);
  const help = `${setting.help}${allowed ? ` ${title(allowed)}.` : ""}`;
  const head = el("div", { className: "head" }, el("label", { htmlFor: id }, title(setting.name)), reset);
  const node = el(
    "div", { className: `field ${setting.type}` },
    head, input.node, error, el("p", { className: "help", id: `${id}-help` }, help),
  );
  const read = () => {
    const wrong = problem(setting, input.read());
    if (wrong) throw new Error(wrong);
    return input.read() === usual ? undefined : parse(setting, input.read());
  };
  refresh();
  return { node, refresh, read };
}

/**
 * Shows the settings of the run: the main ones, and the others under "More settings".
 * @param {string[]|null} names Settings to show; null: all.
 * @param {HTMLElement[]} after Other controls, shown after the main settings.
 * @returns {{values: function(): object, set: function(object)}} `values` are those that differ
 *   from the defaults of the run; it throws an Error with one line if one is not allowed.
 */
export function createSettings(container, app, names = null, after = []) {
  const shown = new Map();
  const build = () => {
    shown.clear();
    const settings = app.run.settings.filter(({ name }) => !names || names.includes(name));
    for (const setting of settings) shown.set(setting.name, createField(setting, app));
    let main = MAIN.filter((name) => shown.has(name));
    if (!main.length) main = [...shown.keys()].slice(0, 3);
    const nodes = (wanted) => [...shown].filter(wanted).map(([, field]) => field.node);
    const more = nodes(([name]) => !main.includes(name));
    container.replaceChildren(...main.map((name) => shown.get(name).node), ...after);
    if (!more.length) return;
    container.append(el("details", {}, el("summary", {}, "More settings"), ...more));
  };
  app.addEventListener("run", build);
  app.addEventListener("state", ({ detail }) => {
    if (detail === null) shown.forEach((field) => field.refresh());
    else shown.get(detail)?.refresh();
  });
  build();
  const values = () => {
    const entries = [...shown].map(([name, field]) => [name, field.read()]);
    return Object.fromEntries(entries.filter(([, value]) => value !== undefined));
  };
  const set = (wanted) => {
    for (const [name, value] of Object.entries(wanted)) app.state(name, format(value));
  };
  return { values, set };
}

/**
 * A whole number that the address holds, such as the seed.
 * @param {{key, label, minimum, maximum, value, dice}} options value: the default, or a function
 *   that returns it; dice: with a button for a random number.
 * @returns {{node, value: function(): number, set: function(number), setMaximum: function(number)}}
 */
export function createNumber(container, app, { key, label, minimum = 0, maximum, value, dice }) {
  let largest = maximum ?? LARGEST_SEED;
  const id = `field-${++fields}`;
  const input = el("input", { id, type: "number", min: minimum, max: largest, step: 1 });
  const valid = () => input.value !== "" && input.checkValidity();
  const set = (number) => app.state(key, number === value ? null : number);
  input.addEventListener("change", () => valid() && set(Number(input.value)));
  const refresh = () => {
    const usual = typeof value === "function" ? value() : value;
    input.value = app.state(key) ?? usual;
    if (!valid()) input.value = usual;
  };
  const random = () => set(Math.floor(Math.random() * Math.min(1e6, largest + 1)));
  const name = `Random ${label.toLowerCase()}`;
  const roll = button("⚄", random, { className: "square", title: name, "aria-label": name, hidden: !dice });
  const row = el("div", { className: "row" }, input, roll);
  const node = el("div", { className: "field" }, el("label", { htmlFor: id }, label), row);
  container.append(node);
  app.addEventListener("state", refresh);
  refresh();
  const read = () => {
    if (valid()) return Number(input.value);
    throw new Error(`${label} must be a whole number from ${minimum} to ${largest}.`);
  };
  const setMaximum = (limit) => {
    largest = input.max = limit;
    refresh();
  };
  return { node, value: read, set, setMaximum };
}

/**
 * Picks classes by name, with a search where there are many.
 * @param {{multiple, none, key, label}} options multiple: several classes, by default all in turn;
 *   none: also "Any class", where the run can generate without a class; key: of the state.
 * @returns {{value: function(), set: function()}} With `multiple` a list of labels, of which null
 *   is any class; else one label, or null.
 */
export function createClassPicker(container, app, options = {}) {
  const { multiple = false, none = true, label = multiple ? "Classes" : "Class" } = options;
  const key = options.key ?? (multiple ? "labels" : "label");
  const group = `classes-${++fields}`;
  const list = el("div", { className: "chips" });
  const search = el("input", { type: "search", placeholder: "Search", "aria-label": `Search ${label}` });
  const head = el("span", { className: "legend" }, label);
  const picker = el("fieldset", { className: "field classes", "aria-label": label }, head, search, list);
  const any = () => none && app.run.null_label;
  const first = () => (multiple ? "all" : any() ? "any" : "0");
  container.append(picker);

  const boxes = () => [...list.querySelectorAll("input")];
  const checked = () => boxes().filter((box) => box.checked).map((box) => box.value);
  const changed = (event) => {
    const own = event.target.value;
    const alone = (word) => word === "all" || word === "any";
    if (alone(own)) return write(event.target.checked ? own : "");
    return write(checked().filter((word) => !alone(word)).join(","));
  };
  const write = (text) => app.state(key, text === first() ? null : text || null);
  const chip = (value, name) => {
    const type = multiple ? "checkbox" : "radio";
    const box = el("input", { type, name: group, value, onchange: changed });
    return el("label", { className: "chip" }, box, el("span", {}, name));
  };
  const refresh = () => {
    const words = (app.state(key) ?? first()).split(",");
    const known = boxes().map((box) => box.value);
    const wanted = words.some((word) => known.includes(word)) ? words : first().split(",");
    for (const box of boxes()) box.checked = wanted.includes(box.value);
    filter();
  };
  const filter = () => {
    const text = search.value.trim().toLowerCase();
    for (const box of boxes()) {
      const name = box.parentElement.textContent.toLowerCase();
      box.parentElement.hidden = !box.checked && !name.includes(text);
    }
  };
  const build = () => {
    const { classes } = app.run;
    picker.hidden = !classes.length;
    search.hidden = classes.length <= MANY_CLASSES;
    search.value = "";
    const chips = classes.map((name, index) => chip(String(index), name));
    if (any()) chips.unshift(chip("any", "Any class"));
    if (multiple) chips.unshift(chip("all", "All in turn"));
    list.replaceChildren(...chips);
    refresh();
  };
  const set = (value) => write([value].flat().map((index) => index ?? "any").join(","));
  search.addEventListener("input", filter);
  search.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault(); // of the form; instead the first class that is found is chosen
    const found = boxes().find((box) => !box.checked && !box.parentElement.hidden);
    if (search.value.trim() && found) found.click();
  });
  app.addEventListener("run", build);
  app.addEventListener("state", ({ detail }) => (detail === key || detail === null) && refresh());
  build();
  const value = () => {
    const words = checked();
    if (words[0] === "all") return app.run.classes.map((_, index) => index).slice(0, app.run.limits.num);
    const labels = words.map((word) => (word === "any" ? null : Number(word)));
    if (!labels.length) labels.push(null); // of a run without classes
    return multiple ? labels : labels[0];
  };
  return { node: picker, value, set };
}
