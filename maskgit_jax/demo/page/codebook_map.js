/** The tokens of an image drawn in the colours of their codes, and what is known of each code. */

import { getJson } from "./api.js";
import { el } from "./dom.js";
import { createTokenGrid } from "./token_grid.js";

const codebooks = new Map();

/** Returns the codebook of a run: for each level the colours and the nearest codes. */
async function codebookOf(run) {
  if (!codebooks.has(run)) {
    const { levels } = await getJson(`runs/${encodeURIComponent(run)}/codebook`);
    codebooks.set(run, levels.map((level) => ({ ...level, colors: stretch(level.colors) })));
  }
  return codebooks.get(run);
}

/** Spreads colours over the whole range: the codes of some tokenizers differ by little. */
function stretch(colors) {
  const parts = colors.map((color) => [1, 3, 5].map((place) => parseInt(color.slice(place, place + 2), 16)));
  const all = parts.flat().sort((one, other) => one - other);
  const [low, high] = [0.01, 0.99].map((share) => all[Math.round(share * (all.length - 1))]);
  const spread = (part) => Math.min(255, Math.max(0, (255 * (part - low)) / (high - low || 1)));
  return parts.map((color) => `rgb(${color.map((part) => Math.round(spread(part))).join(" ")})`);
}

function swatch(level, code, className = "") {
  const color = el("span", { className: `code-color ${className}` });
  color.style.background = level.colors[code];
  return color;
}

/** Describes a code: its number, and its nearest ones. */
function information(level, code, where) {
  const near = level.nearest[code].filter((other) => other !== code);
  const items = near.map((other) => el("li", {}, swatch(level, other), String(other)));
  return [
    el("p", { className: "row" }, swatch(level, code, "large"), el("strong", {}, `Code ${code}`), where),
    el("p", { className: "muted" }, `${level.colors.length} codes; the nearest ones in the codebook:`),
    el("ul", { className: "codes" }, ...items),
  ];
}

/** Draws the tokens of one level. */
function createLevel(level, tokens, [rows, columns], title, say) {
  const canvas = el("canvas", { width: columns, height: rows, className: "pixelated", "aria-hidden": true });
  const context = canvas.getContext("2d");
  tokens.forEach((code, index) => {
    context.fillStyle = level.colors[code];
    context.fillRect(index % columns, Math.floor(index / columns), 1, 1);
  });
  const place = (index) => `row ${Math.floor(index / columns) + 1}, column ${(index % columns) + 1}`;
  const visit = (index) => {
    const code = index === null ? null : tokens[index];
    grid.describe((other) => ({
      className: tokens[other] === code ? "same" : "",
      label: `Code ${tokens[other]}, ${place(other)}`,
    }));
    if (code !== null) say(information(level, code, place(index)));
  };
  const grid = createTokenGrid({ label: title, onVisit: visit });
  grid.setSize(rows, columns);
  visit(null);
  const used = new Set(tokens).size;
  const words = `${rows}×${columns} tokens, ${used} codes`;
  return el(
    "figure", {}, el("div", { className: "view" }, canvas, grid.node), el("figcaption", {}, title, el("span", {}, words)),
  );
}

/**
 * Makes a map of the tokens of each level.
 * @param {number[][]} tokens Of each level, row by row.
 * @param {HTMLElement} text Where the code under the pointer is described.
 * @returns {Promise<HTMLElement[]>}
 */
export async function createCodebookMaps(run, tokens, text) {
  const levels = await codebookOf(run.name);
  const hint = el("p", { className: "muted" }, "Point at a token, or move over them with the arrow keys.");
  text.replaceChildren(hint);
  const title = (place) => (levels.length > 1 ? `Tokens of level ${place + 1}` : "Codebook map");
  const say = (nodes) => text.replaceChildren(...nodes);
  return tokens.map((codes, place) => createLevel(levels[place], codes, run.grids[place], title(place), say));
}
