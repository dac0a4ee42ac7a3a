/** A grid of tokens over an image: one button for each, reached by the arrow keys, mouse or touch. */

import { el } from "./dom.js";

const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/**
 * Makes the grid; it covers its parent, which shows the image.
 * @param {{label: string, onPress: function(number, boolean), onVisit: function(number)}} options
 *   onPress: a token was pressed, or painted over with the pointer held down (then `true`);
 *   onVisit: the pointer or the focus is on a token, null: on none.
 */
export function createTokenGrid({ label, onPress = () => {}, onVisit = () => {} }) {
  const node = el("div", { className: "tokens", role: "group", "aria-label": label });
  let columns = 0;
  const cells = () => node.children;
  const indexOf = (target) => {
    const cell = target.closest?.(".tokens > button");
    return cell && cell.parentElement === node ? Number(cell.dataset.index) : null;
  };

  const setSize = (rows, width) => {
    if (rows * width === node.children.length && width === columns) return;
    columns = width;
    node.style.gridTemplateColumns = `repeat(${width}, 1fr)`;
    node.style.gridTemplateRows = `repeat(${rows}, 1fr)`;
    const cell = (_, index) => {
      const button = el("button", { type: "button", tabIndex: index ? -1 : 0 });
      button.dataset.index = index;
      return button;
    };
    node.replaceChildren(...Array.from({ length: rows * width }, cell));
  };

  const focus = (index) => {
    for (const cell of cells()) cell.tabIndex = -1;
    cells()[index].tabIndex = 0;
    cells()[index].focus();
  };
  node.addEventListener("keydown", (event) => {
    const index = indexOf(event.target);
    const move = MOVES[event.key];
    if (index === null || !move) return;
    event.preventDefault();
    event.stopPropagation();
    const [row, column] = [Math.floor(index / columns) + move[0], (index % columns) + move[1]];
    const inside = row >= 0 && column >= 0 && column < columns && row * columns < cells().length;
    if (inside) focus(row * columns + column);
  });
  node.addEventListener("click", (event) => {
    // A click of the pointer was handled when it went down; here only keys remain.
    if (event.detail === 0 && indexOf(event.target) !== null) onPress(indexOf(event.target), false);
  });
  node.addEventListener("pointerdown", (event) => {
    const index = indexOf(event.target);
    if (index === null || event.button !== 0) return;
    event.target.releasePointerCapture?.(event.pointerId);
    onPress(index, false);
  });
  node.addEventListener("pointerover", (event) => {
    const index = indexOf(event.target);
    onVisit(index);
    if (index !== null && event.buttons === 1 && event.pointerType === "mouse") onPress(index, true);
  });
  node.addEventListener("pointerleave", () => onVisit(null));
  node.addEventListener("focusin", (event) => onVisit(indexOf(event.target)));

  /** Gives each token its classes and its name: `describe(index)` -> {className, label}. */
  const describe = (of) => {
    [...cells()].forEach((cell, index) => {
      const { className, label: name, pressed } = of(index);
      cell.className = className;
      cell.setAttribute("aria-label", name);
      if (pressed !== undefined) cell.setAttribute("aria-pressed", pressed);
    });
  };
  return { node, setSize, describe };
}
