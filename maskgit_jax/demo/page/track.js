/** One decoding, step by step: the image, which tokens are masked, and their confidence. */

import { button, el } from "./dom.js";
import { coverMasked, drawFrame, loadImage, setScaling, tokenGrid } from "./frames.js";
import { heatColor, heatLegend } from "./heat.js";
import { createTokenGrid } from "./token_grid.js";

/** Draws one colour for each token; null: masked. */
function drawCells(canvas, [rows, columns], colorOf) {
  Object.assign(canvas, { width: columns, height: rows });
  canvas.classList.add("pixelated");
  const context = canvas.getContext("2d");
  const masked = getComputedStyle(canvas).getPropertyValue("--masked");
  for (let index = 0; index < rows * columns; index++) {
    context.fillStyle = colorOf(index) ?? masked;
    context.fillRect(index % columns, Math.floor(index / columns), 1, 1);
  }
}

const sample = (className, text) => el("span", {}, el("span", { className: `swatch ${className}` }), text);

/**
 * Makes the views of a decoding.
 * @param {{title: string, tool: function(): string, goOn: function(object), before: number[]|null,
 *   locked: number[]}} options tool: what a press on a token does, "back" or "lock"; goOn: takes
 *   {tokens, mask, locked, confidence, step} of the shown step; before: tokens to compare with;
 *   locked: places of the tokens that were locked when it began.
 */
export function createTrack(app, { title, tool, goOn, before = null, locked = [] }) {
  const canvases = [0, 1, 2].map(() => el("canvas", { role: "img" }));
  const tokens = createTokenGrid({ label: "Tokens of the image", onPress: press });
  const frame = (canvas, name, legend, ...over) =>
    el("figure", {}, el("div", { className: "view" }, canvas, ...over), el("figcaption", {}, name, legend));
  const maskLegend = el(
    "span", { className: "legend-row" },
    sample("masked", "masked"), sample("kept", "accepted"), sample("new", "new"),
  );
  const heat = heatLegend();
  const note = el("p", { className: "muted note" });
  const go = button("Go on from here", () => goOn(state()), {
    disabled: true, className: "go", title: "Decodes on from this step; locked tokens never change.",
  });
  const edit = button("Edit the image", null, { className: "quiet", hidden: true });
  const clear = button("Clear marks", () => (marks.clear(), redraw()), { className: "quiet", hidden: true });
  const node = el(
    "section", { className: "track", "aria-label": title },
    el("div", { className: "head" }, el("h2", {}, title), el("div", { className: "row" }, clear, edit, go)),
    el(
      "div", { className: "views" },
      frame(canvases[0], "Image", "", tokens.node),
      frame(canvases[1], "Tokens", maskLegend), frame(canvases[2], "Confidence", heat.node),
    ),
    note,
  );
  /** @type {{event: object, preview: HTMLImageElement}[]} */
  const frames = [];
  const marks = new Map(locked.map((index) => [index, "lock"]));
  let place = -1;
  let painted = null;
  let largest = 10; // confidence in per cent, of tokens that are not locked
  const grid = (event) => tokenGrid(app.run, event.width, event.height);
  const isMasked = (index, at = place) => frames[at]?.event.masked[0][index] === 1;

  /** A press toggles the mark of a token; painting on gives the others the same mark. */
  function press(index, painting) {
    if (place < 0 || (isMasked(index) && marks.get(index) === undefined)) return;
    if (!painting) painted = marks.get(index) === tool() ? null : tool();
    if (painted === null) marks.delete(index);
    else marks.set(index, painted);
    redraw();
  }

  const push = async (event) => {
    frames.push({ event, preview: await loadImage(event.preview) });
    const own = event.confidence[0].filter((_, index) => !locked.includes(index));
    largest = Math.max(largest, 10 * Math.ceil(Math.max(...own) / 10));
    heat.setLargest(largest);
  };

  /** The decoding is done: its image can be edited. */
  const finish = ({ id, width, height }) => {
    edit.onclick = () => app.openTab("edit", { id, width, height, grid: tokenGrid(app.run, width, height) });
    edit.hidden = !app.run.tabs.includes("edit");
  };

  const state = () => {
    const { event } = frames[place];
    const marked = (mark) => (_, index) => Number(marks.get(index) === mark);
    const mask = event.masked[0].map((value, index) => value | marked("back")(value, index));
    const fixed = event.masked[0].map(marked("lock")).map((value, index) => value & (1 - mask[index]));
    const { step, tokens: [codes], confidence: [confidence] } = event;
    return { tokens: codes, mask, locked: fixed, confidence, step };
  };

  const last = () => frames.at(-1)?.event;
  const isChanged = (index) => before && !isMasked(index) && frames[place].event.tokens[0][index] !== before[index];

  const describe = (index) => {
    const { event } = frames[place];
    const [, columns] = grid(event);
    const mark = marks.get(index);
    const words = isMasked(index) ? "masked" : `code ${event.tokens[0][index]}, confidence ${event.confidence[0][index]}%`;
    const states = { back: "taken back", lock: "locked" };
    const where = `Row ${Math.floor(index / columns) + 1}, column ${(index % columns) + 1}`;
    const all = [where, words, states[mark], isChanged(index) && "changed"].filter(Boolean);
    const classes = [mark, isChanged(index) && "changed"].filter(Boolean);
    return { className: classes.join(" "), label: all.join(", "), pressed: Boolean(mark) };
  };

  const showNote = (event) => {
    const masked = event.masked[0].filter(Boolean).length;
    const total = event.masked[0].length;
    const parts = [`Step ${event.step} of ${event.steps}: ${masked} of ${total} tokens masked.`];
    const counts = [...marks.values()];
    const [back, lock] = ["back", "lock"].map((mark) => counts.filter((value) => value === mark).length);
    if (back) parts.push(`${back} taken back.`);
    if (lock) parts.push(`${lock} locked.`);
    const changed = event.masked[0].filter((_, index) => isChanged(index)).length;
    if (before) parts.push(`${changed} differ from the decoding above (marked at a corner).`);
    note.textContent = parts.join(" ");
    clear.hidden = !counts.length;
    go.disabled = !masked && !back;
  };

  /** Shows the state after a step; before the first one that there is, that one. */
  const show = (step) => {
    if (!frames.length) return;
    place = Math.max(0, frames.findLastIndex(({ event }) => event.step <= step));
    const { event, preview } = frames[place];
    const [mask, size] = [event.masked[0], grid(event)];
    const style = getComputedStyle(node);
    drawFrame(canvases[0], preview, 0, event);
    coverMasked(canvases[0], mask, size);
    const [kept, fresh] = ["--kept", "--accent"].map((name) => style.getPropertyValue(name));
    const isNew = (token) => place > 0 && isMasked(token, place - 1);
    drawCells(canvases[1], size, (token) => (mask[token] ? null : isNew(token) ? fresh : kept));
    drawCells(canvases[2], size, (token) => (mask[token] ? null : heatColor(event.confidence[0][token] / largest)));
    const names = ["Image", "Masked and accepted tokens", "Confidence of the tokens"];
    canvases.forEach((canvas, i) => canvas.setAttribute("aria-label", `${names[i]} at step ${event.step}`));
    setScaling(canvases[0], event.width);
    tokens.setSize(...size);
    tokens.describe(describe);
    showNote(event);
  };
  const redraw = () => show(frames[place].event.step);
  return { node, push, show, finish, last };
}
