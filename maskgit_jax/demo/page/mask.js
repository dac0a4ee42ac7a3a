/** The mask of an image as a bitmap (1 = masked) and the tokens it costs. Nothing here needs a page. */

/** A box of pixels is [top, left, bottom, right]; bottom and right are the first outside it. */
const joinBoxes = (a, b) =>
  !a ? b : !b ? a : [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[2], b[2]), Math.max(a[3], b[3])];

/**
 * Returns which tokens each pixel of one side of an image belongs to, as the editor resizes masks:
 * `first` and `last` token of each pixel, and of each token the pixels [start, end) that cost no
 * other token (`inner`) and all that touch it (`outer`).
 */
export function tokenAxis(length, tokens, patch) {
  const first = new Int32Array(length).fill(tokens), last = new Int32Array(length).fill(-1);
  const touch = (pixel, token) => {
    first[pixel] = Math.min(first[pixel], token);
    last[pixel] = Math.max(last[pixel], token);
  };
  if (tokens * patch < length) {
    for (let i = 0; i < length; i++) touch(i, Math.floor(((2 * i + 1) * tokens - 1) / (2 * length)));
  } else {
    for (let i = 0; i < tokens * patch; i++) {
      touch(Math.floor(((2 * i + 1) * length) / (2 * tokens * patch)), Math.floor(i / patch));
    }
  }
  const outer = Array.from({ length: tokens }, () => [length, 0]);
  const inner = Array.from({ length: tokens }, () => [length, 0]);
  for (let i = 0; i < length; i++) {
    for (let token = first[i]; token <= last[i]; token++) {
      for (const ranges of first[i] === last[i] ? [outer, inner] : [outer]) {
        ranges[token] = [Math.min(ranges[token][0], i), i + 1];
      }
    }
  }
  return { first, last, outer, inner: inner.map((range, t) => (range[0] < range[1] ? range : outer[t])) };
}

/** Returns the pixels [start, end) of each row within `radius` of the line between two points. */
export function strokeSpans(width, height, from, to, radius) {
  const [x0, y0] = from, [x1, y1] = to, length = Math.hypot(x1 - x0, y1 - y0) || 1;
  const nx = (-(y1 - y0) / length) * radius, ny = ((x1 - x0) / length) * radius;
  const corners = [[x0 + nx, y0 + ny], [x1 + nx, y1 + ny], [x1 - nx, y1 - ny], [x0 - nx, y0 - ny]];
  const spans = [];
  const add = (row, start, end) => {
    const [left, right] = [Math.max(0, start), Math.min(width, end)];
    if (row >= 0 && row < height && left < right) spans.push([row, left, right]);
  };
  const top = Math.max(0, Math.floor(Math.min(y0, y1) - radius));
  const bottom = Math.min(height - 1, Math.ceil(Math.max(y0, y1) + radius));
  for (let row = top; row <= bottom; row++) {
    const y = row + 0.5, xs = [];
    for (const [cx, cy] of [from, to]) {
      const half = Math.sqrt(radius * radius - (y - cy) ** 2);
      if (half >= 0) xs.push(cx - half, cx + half);
    }
    corners.forEach(([ax, ay], i) => {
      const [bx, by] = corners[(i + 1) % 4];
      if (ay <= y !== by <= y) xs.push(ax + ((y - ay) * (bx - ax)) / (by - ay));
    });
    if (xs.length) add(row, Math.ceil(Math.min(...xs) - 0.5), Math.floor(Math.max(...xs) + 0.5));
  }
  for (const [x, y] of [from, to]) add(Math.floor(y), Math.floor(x), Math.floor(x) + 1); // thin brushes
  return spans;
}

/** Returns a bitmap with every pixel set that is within `radius` of a set one. */
export function dilate(data, width, height, radius) {
  const far = Math.ceil(radius) + 1, distance = new Int32Array(width * height); // along the column
  for (let x = 0; x < width; x++) {
    for (let i = x, near = far; i < data.length; i += width) distance[i] = near = data[i] ? 0 : near + 1;
    for (let i = data.length - width + x, near = far; i >= 0; i -= width) {
      near = data[i] ? 0 : near + 1;
      if (near < distance[i]) distance[i] = near;
    }
  }
  const result = new Uint8Array(data.length), change = new Int32Array(width + 1);
  for (let row = 0; row < height; row++) {
    change.fill(0);
    for (let x = 0; x < width; x++) {
      const d = distance[row * width + x];
      if (d > radius) continue;
      const half = Math.floor(Math.sqrt(radius * radius - d * d));
      change[Math.max(0, x - half)]++;
      change[Math.min(width, x + half + 1)]--;
    }
    for (let x = 0, open = 0; x < width; x++) {
      open += change[x];
      result[row * width + x] = open > 0 ? 1 : 0;
    }
  }
  return result;
}

/** Returns a bitmap without the pixels within `radius` of an unset one; outside counts as set. */
export const erode = (data, width, height, radius) =>
  dilate(data.map((value) => 1 - value), width, height, radius).map((value) => 1 - value);

/** Returns the token mask of a class-conditional edit of a box: the box, one token wider. */
export function boxTokens([top, left, bottom, right], size, grid, patch) {
  const [rows, columns] = grid;
  const side = (value, length, tokens) => Math.floor(roundHalfEven(value * ((tokens * patch) / length)) / patch);
  const [t, h] = [top, bottom - top].map((value) => side(value, size.height, rows));
  const [l, w] = [left, right - left].map((value) => side(value, size.width, columns));
  return Uint8Array.from({ length: rows * columns }, (_, i) => {
    const [row, column] = [Math.floor(i / columns), i % columns];
    return row >= t - 1 && row < t + h + 1 && column >= l - 1 && column < l + w + 1 ? 1 : 0;
  });
}

/** Rounds as Python does, halves to the even number. */
export const roundHalfEven = (x) => (x % 1 === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));

/** Returns a token mask dilated by a square of 2 * by + 1 tokens. */
export function dilateTokens(tokens, [rows, columns], by) {
  const result = new Uint8Array(tokens.length);
  tokens.forEach((value, i) => {
    if (!value) return;
    const [row, column] = [Math.floor(i / columns), i % columns];
    for (let r = Math.max(0, row - by); r <= Math.min(rows - 1, row + by); r++) {
      result.fill(1, r * columns + Math.max(0, column - by), r * columns + Math.min(columns, column + by + 1));
    }
  });
  return result;
}

export const count = (values) => values.reduce((sum, value) => sum + value, 0);

/** A mask [height, width] with the tokens [rows, columns] that it costs, kept up to date. */
export class Mask {
  constructor(width, height, grid, patch) {
    Object.assign(this, { width, height, grid, patch });
    this.data = new Uint8Array(width * height);
    this.rows = tokenAxis(height, grid[0], patch);
    this.columns = tokenAxis(width, grid[1], patch);
    this.tokens = new Uint8Array(grid[0] * grid[1]);
    this.changed = this.before = null;
  }

  /** Starts a change: what follows until `end` is undone at once. */
  begin() {
    this.before = this.data.slice();
    this.tokensBefore = this.tokens.slice();
    this.changed = null;
  }

  /** Ends a change; returns what `swap` needs to undo it, or null if nothing changed. */
  end() {
    const { before, changed } = this;
    this.before = null;
    if (!changed) return null;
    const old = packBits(before, this.width, changed), now = packBits(this.data, this.width, changed);
    return old.every((byte, i) => byte === now[i]) ? null : { box: changed, bits: old };
  }

  /** Gives up the change that is being made. */
  cancel() {
    if (!this.before) return null;
    this.data.set(this.before);
    this.before = null;
    return this.#touch(this.changed);
  }

  /** Puts back what a change replaced; returns the change that undoes this. */
  swap({ box, bits }) {
    const now = { box, bits: packBits(this.data, this.width, box) };
    unpackBits(bits, this.data, this.width, box);
    this.#touch(box);
    return now;
  }

  /** Paints (or erases) a line; with `snap`, all tokens that it touches. Returns the changed box. */
  stroke(from, to, radius, masked, snap) {
    const spans = strokeSpans(this.width, this.height, from, to, radius);
    if (snap) {
      const touched = new Set();
      for (const [row, start, end] of spans) {
        for (let r = this.rows.first[row]; r <= this.rows.last[row]; r++) {
          for (let c = this.columns.first[start]; c <= this.columns.last[end - 1]; c++) {
            touched.add(r * this.grid[1] + c);
          }
        }
      }
      return [...touched].reduce((box, token) => joinBoxes(box, this.setToken(token, masked)), null);
    }
    let box = null;
    for (const [row, start, end] of spans) {
      this.data.fill(masked ? 1 : 0, row * this.width + start, row * this.width + end);
      box = joinBoxes(box, [row, start, row + 1, end]);
    }
    return this.#touch(box);
  }

  /** Masks or unmasks a token; masking costs no other token unless pixels are larger than tokens. */
  setToken(token, masked) {
    const row = Math.floor(token / this.grid[1]), column = token % this.grid[1];
    const range = masked ? "inner" : "outer";
    const [[top, bottom], [left, right]] = [this.rows[range][row], this.columns[range][column]];
    return this.fill([top, left, bottom, right], masked);
  }

  /** Masks or unmasks a box. */
  fill([top, left, bottom, right], masked) {
    for (let row = top; row < bottom; row++) {
      this.data.fill(masked ? 1 : 0, row * this.width + left, row * this.width + right);
    }
    return this.#touch([top, left, bottom, right]);
  }

  /** Replaces the whole bitmap. */
  set(data) {
    this.data.set(data);
    return this.#touch([0, 0, this.height, this.width]);
  }

  invert() {
    return this.set(this.data.map((value) => 1 - value));
  }

  clear() {
    return this.set(new Uint8Array(this.data.length));
  }

  /** Grows the mask by a radius in pixels, or shrinks it where the radius is below 0. */
  grow(radius) {
    const change = radius > 0 ? dilate : erode;
    return this.set(change(this.data, this.width, this.height, Math.abs(radius)));
  }

  /** Returns the smallest box of whole tokens around a box. */
  snapBox([top, left, bottom, right]) {
    const { rows, columns } = this;
    return [
      rows.inner[rows.first[top]][0], columns.inner[columns.first[left]][0],
      rows.inner[rows.last[bottom - 1]][1], columns.inner[columns.last[right - 1]][1],
    ];
  }

  get empty() {
    return !this.tokens.includes(1);
  }

  /** Number of tokens that are masked. */
  get cost() {
    return count(this.tokens);
  }

  /** Tokens that the change being made has masked (above 0) or unmasked (below 0). */
  get strokeCost() {
    return this.before ? this.cost - count(this.tokensBefore) : 0;
  }

  #touch(box) {
    if (!box) return null;
    this.changed = joinBoxes(this.changed, box);
    const { rows, columns, data, width } = this;
    const lastRow = rows.last[box[2] - 1], lastColumn = columns.last[box[3] - 1];
    for (let r = rows.first[box[0]]; r <= lastRow; r++) {
      for (let c = columns.first[box[1]]; c <= lastColumn; c++) {
        const [top, bottom] = rows.outer[r], [left, right] = columns.outer[c];
        let masked = 0;
        for (let row = top; row < bottom && !masked; row++) {
          masked = data.subarray(row * width + left, row * width + right).includes(1) ? 1 : 0;
        }
        this.tokens[r * this.grid[1] + c] = masked;
      }
    }
    return box;
  }
}

/** Returns the pixels of a box, eight in a byte. */
function packBits(data, width, [top, left, bottom, right]) {
  const bits = new Uint8Array(Math.ceil(((bottom - top) * (right - left)) / 8));
  let place = 0;
  for (let row = top; row < bottom; row++) {
    for (let x = row * width + left; x < row * width + right; x++, place++) {
      if (data[x]) bits[place >> 3] |= 1 << (place & 7);
    }
  }
  return bits;
}

function unpackBits(bits, data, width, [top, left, bottom, right]) {
  let place = 0;
  for (let row = top; row < bottom; row++) {
    for (let x = row * width + left; x < row * width + right; x++, place++) {
      data[x] = (bits[place >> 3] >> (place & 7)) & 1;
    }
  }
}
