/** What pointers and keys do on the image: brush, eraser, rectangle, box, and a cursor on the grid. */

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/** Returns the box between two points, inside an image and not empty. */
function boxBetween([x0, y0], [x1, y1], { width, height }) {
  const inside = (value, side) => Math.min(Math.max(value, 0), side);
  const range = (a, b, side) => {
    const start = Math.min(side - 1, Math.floor(inside(Math.min(a, b), side)));
    return [start, Math.max(start + 1, Math.ceil(inside(Math.max(a, b), side)))];
  };
  const [[top, bottom], [left, right]] = [range(y0, y1, height), range(x0, x1, width)];
  return [top, left, bottom, right];
}

/**
 * Returns {pointer, key, cursor, ring, box, reset}.
 * @param {{mask, mode, tools, compare, view, changed, ended, moved, setBox, announce}} owner
 *   `mask()` and `mode()` are the current ones; `changed(box)` after each part of a stroke and
 *   `ended(change)` after it; `compare(on)` returns whether a press compares; `moved()` redraws.
 */
export function createPainter(owner) {
  const { tools } = owner;
  let last = null; // point
  let start = null; // of a rectangle
  let corner = null; // token where a box starts that is made by keys
  const state = { cursor: null, ring: null, box: null };
  let erasing = false;
  let comparing = false;

  const stroke = (from, to) => {
    const box = owner.mask().stroke(from, to, tools.size / 2, !erasing, tools.snap);
    owner.changed(box);
  };
  const drag = (point) => {
    const mask = owner.mask();
    const box = boxBetween(start, point, mask);
    state.box = tools.snap ? mask.snapBox(box) : box;
    if (owner.mode() === "replace") owner.setBox(state.box);
    owner.moved();
  };

  const pointer = {
    down(point, event) {
      comparing = owner.compare(true);
      if (comparing) return;
      state.cursor = null;
      erasing = tools.tool === "eraser" || (event.altKey && tools.tool !== "brush");
      if (owner.mode() === "replace" || (owner.mode() === "inpaint" && tools.tool === "rectangle")) {
        start = point;
        drag(point);
      } else if (owner.mode() === "inpaint") {
        owner.mask().begin();
        last = point;
        state.ring = { point, radius: tools.size / 2 };
        stroke(point, point);
      }
    },
    move(points) {
      const point = points.at(-1);
      if (start) drag(point);
      if (!last) return;
      for (const next of points) {
        stroke(last, next);
        last = next;
      }
      state.ring = { point, radius: tools.size / 2 };
      owner.moved();
    },
    up() {
      if (comparing) owner.compare(false);
      const mask = owner.mask();
      if (start && owner.mode() === "inpaint") {
        mask.begin();
        owner.changed(mask.fill(state.box, !erasing));
        owner.ended(mask.end());
      }
      if (last) owner.ended(mask.end());
      pointer.forget();
    },
    cancel() {
      if (comparing) owner.compare(false);
      if (last) owner.changed(owner.mask().cancel());
      pointer.forget();
    },
    hover(point) {
      const paints = owner.mode() === "inpaint" && tools.tool !== "rectangle";
      state.ring = point && paints ? { point, radius: tools.size / 2 } : null;
      owner.moved();
    },
    forget() {
      last = start = state.box = state.ring = null;
      comparing = false;
      owner.moved();
    },
  };

  const tokenAt = ([row, column]) => row * owner.mask().grid[1] + column;
  const place = () => {
    const [rows, columns] = owner.mask().grid;
    if (state.cursor === null) state.cursor = tokenAt([rows >> 1, columns >> 1]);
    return [Math.floor(state.cursor / columns), state.cursor % columns];
  };
  const pixels = (token) => {
    const { rows, columns, grid } = owner.mask();
    const [[top, bottom], [left, right]] = [rows.inner[Math.floor(token / grid[1])], columns.inner[token % grid[1]]];
    return [top, left, bottom, right];
  };
  const paintToken = (masked) => {
    const mask = owner.mask();
    mask.begin();
    owner.changed(mask.setToken(state.cursor, masked));
    owner.ended(mask.end());
  };
  const extendBox = () => {
    const [a, b] = [pixels(corner ?? state.cursor), pixels(state.cursor)];
    owner.setBox([Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[2], b[2]), Math.max(a[3], b[3])]);
  };
  const say = () => {
    const [row, column] = place();
    const masked = owner.mode() === "inpaint" && owner.mask().tokens[state.cursor];
    owner.announce(`Row ${row + 1}, column ${column + 1}${masked ? ", masked" : ""}. `);
  };

  /** Handles a key on the image; returns whether it did something. */
  function key(event) {
    const mode = owner.mode();
    if (event.ctrlKey || event.metaKey || (mode !== "inpaint" && mode !== "replace")) return false;
    if (event.key in ARROWS) {
      const fresh = state.cursor === null;
      const [rows, columns] = owner.mask().grid;
      const [row, column] = place();
      const [down, right] = fresh ? [0, 0] : ARROWS[event.key];
      corner = event.shiftKey ? corner ?? state.cursor : null;
      const next = [Math.min(rows - 1, Math.max(0, row + down)), Math.min(columns - 1, Math.max(0, column + right))];
      state.cursor = tokenAt(next);
      const [top, left, bottom, end] = pixels(state.cursor);
      owner.view().reveal([left, top]);
      owner.view().reveal([end, bottom]);
      if (event.shiftKey && mode === "inpaint") paintToken(tools.tool !== "eraser");
      if (event.shiftKey && mode === "replace") extendBox();
    } else if (event.key === " ") {
      const fresh = state.cursor === null;
      place();
      if (fresh) corner = null; // the first key only shows the cursor
      else if (mode === "inpaint") paintToken(!owner.mask().tokens[state.cursor]);
      else {
        corner = state.cursor;
        extendBox();
      }
    } else return false;
    say();
    owner.moved();
    return true;
  }

  return {
    pointer,
    key,
    state,
    /** Forgets the cursor and what is being drawn. */
    reset() {
      last = start = corner = null;
      Object.assign(state, { cursor: null, ring: null, box: null });
    },
  };
}
