/** Draws what the Edit tab shows: image, mask, token grid, box, frame, and candidates as they decode. */

import { el } from "./dom.js";

const LARGEST_TINT = 4e6; // pixels; masks of larger images are drawn at a lower resolution
const MASK_COLOR = "#e8368f";
const GREY = "rgb(128 128 128 / 72%)"; // covers masked tokens
const layer = el("canvas");

/** A canvas that is opaque where the image is masked. */
export class Tint {
  constructor(mask) {
    this.step = Math.ceil(Math.sqrt((mask.width * mask.height) / LARGEST_TINT));
    const [width, height] = [mask.width, mask.height].map((side) => Math.ceil(side / this.step));
    this.canvas = el("canvas", { width, height });
    this.mask = mask;
    this.update([0, 0, mask.height, mask.width]);
  }

  /** Draws a box of the mask again. */
  update(box) {
    if (!box) return;
    const { step, mask } = this;
    const [top, left, bottom, right] = box.map((side, i) => (i < 2 ? Math.floor : Math.ceil)(side / step));
    if (bottom <= top || right <= left) return;
    const pixels = new ImageData(right - left, bottom - top);
    for (let y = top, place = 3; y < bottom; y++) {
      for (let x = left; x < right; x++, place += 4) {
        if (mask.data[y * step * mask.width + x * step]) pixels.data[place] = 255;
      }
    }
    this.canvas.getContext("2d").putImageData(pixels, left, top);
  }
}

/** Returns the part of the plane that an image with added borders takes: x, y, width, height. */
export const frameOf = ({ width, height }, { left, right, top, bottom }) =>
  [-left, -top, width + left + right, height + top + bottom];

function cleanLayer(context) {
  layer.width = context.canvas.width;
  layer.height = context.canvas.height;
  const other = layer.getContext("2d");
  other.setTransform(context.getTransform());
  return other;
}

function drawLayer(context, alpha = 1) {
  context.save();
  context.resetTransform();
  context.globalAlpha = alpha;
  context.drawImage(layer, 0, 0);
  context.restore();
}

/** Draws an image; its pixels stay square where they are large. */
function drawImage(context, image, x, y, width, height, view) {
  const enlarged = (width * view.scale) / (image.naturalWidth || image.width);
  context.imageSmoothingEnabled = enlarged < 3;
  context.imageSmoothingQuality = "high";
  context.drawImage(image, ...onView(view, x, y, width, height));
}

/** Returns a rectangle of the image in CSS pixels of the view. */
const onView = (view, x, y, width, height) =>
  [view.x + x * view.scale, view.y + y * view.scale, width * view.scale, height * view.scale];

/** Draws lines that are seen on dark and on bright images. */
function drawLines(context, path, alpha = 1, color = "white") {
  for (const [style, width, share] of [["black", 3, 0.45], [color, color === "white" ? 1 : 2, 1]]) {
    context.globalAlpha = alpha * share;
    context.strokeStyle = style;
    context.lineWidth = width;
    context.stroke(path);
  }
  context.globalAlpha = 1;
}

let pattern = null;

/** Returns the stripes of masked parts. */
function hatch(context) {
  if (pattern) return pattern;
  const tile = el("canvas", { width: 8, height: 8 });
  const brush = tile.getContext("2d");
  brush.fillStyle = MASK_COLOR;
  brush.fillRect(0, 0, 8, 8);
  brush.strokeStyle = "rgb(255 255 255 / 45%)";
  brush.lineWidth = 1.4;
  brush.beginPath();
  for (const shift of [-8, 0, 8]) {
    brush.moveTo(shift - 1, 9);
    brush.lineTo(shift + 9, -1);
  }
  brush.stroke();
  return (pattern = context.createPattern(tile, "repeat"));
}

/** Draws the part that is generated over the image, from the server's preview of a step. */
function drawPreview(context, view, { preview, index = 0, task, size, border, tint, area }) {
  const { image, width, height, masked } = preview;
  const other = cleanLayer(context);
  const target = onView(view, ...frameOf(size, border));
  other.imageSmoothingEnabled = width !== size.width || view.scale < 3;
  other.drawImage(image, 0, index * height, width, height, ...target);
  const side = Math.sqrt((width * height) / masked[0].length);
  const columns = Math.round(width / side);
  const [w, h] = [(target[2] * side) / width, (target[3] * side) / height];
  other.fillStyle = GREY;
  const cells = (values, each) => values.forEach((value, i) => {
    const place = [target[0] + (i % columns) * w, target[1] + Math.floor(i / columns) * h];
    if (value) each.rect(...place, w + 0.3, h + 0.3);
  });
  other.beginPath();
  cells(masked[index] ?? masked[0], other);
  other.fill();
  other.globalCompositeOperation = "destination-in";
  other.imageSmoothingEnabled = false;
  const whole = onView(view, 0, 0, size.width, size.height);
  if (tint) other.drawImage(tint, ...whole);
  if (area) {
    other.beginPath();
    cells(area, other);
    other.fill();
  }
  if (task === "outpaint") {
    other.globalCompositeOperation = "destination-out";
    other.fillRect(...whole);
  }
  drawLayer(context);
}

/** Draws the mask as a hatched tint. */
function drawMask(context, view, scene) {
  const other = cleanLayer(context);
  other.imageSmoothingEnabled = false;
  other.drawImage(scene.tint.canvas, ...onView(view, 0, 0, scene.size.width, scene.size.height));
  other.globalCompositeOperation = "source-in";
  other.fillStyle = hatch(other);
  other.fillRect(0, 0, view.width, view.height);
  drawLayer(context, 0.62);
}

/** Draws the outline of masked tokens, or all tokens' edges. */
function drawTokens(context, view, scene) {
  const [rows, columns] = scene.grid;
  const [x, y, width, height] = onView(view, 0, 0, scene.size.width, scene.size.height);
  const [w, h] = [width / columns, height / rows];
  if (scene.showGrid) {
    const path = new Path2D();
    for (let column = 0; column <= columns; column++) {
      path.moveTo(x + column * w, y);
      path.lineTo(x + column * w, y + height);
    }
    for (let row = 0; row <= rows; row++) {
      path.moveTo(x, y + row * h);
      path.lineTo(x + width, y + row * h);
    }
    drawLines(context, path, w < 6 ? 0.25 : 0.5);
  }
  if (!scene.tokens) return;
  const masked = (row, column) =>
    row >= 0 && row < rows && column >= 0 && column < columns && scene.tokens[row * columns + column];
  const edges = new Path2D();
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      if (!masked(row, column)) continue;
      const [left, top] = [x + column * w, y + row * h];
      const edge = (other, x0, y0, x1, y1) => {
        if (other) return;
        edges.moveTo(x0, y0);
        edges.lineTo(x1, y1);
      };
      edge(masked(row - 1, column), left, top, left + w, top);
      edge(masked(row + 1, column), left, top + h, left + w, top + h);
      edge(masked(row, column - 1), left, top, left, top + h);
      edge(masked(row, column + 1), left + w, top, left + w, top + h);
    }
  }
  drawLines(context, edges, 1, MASK_COLOR);
}

function drawFrame(context, view, scene) {
  const { left, right, top, bottom } = scene.border;
  if (!(left || right || top || bottom)) return;
  const path = new Path2D();
  path.rect(...onView(view, ...frameOf(scene.size, scene.border)));
  path.rect(...onView(view, 0, 0, scene.size.width, scene.size.height));
  context.save();
  context.globalAlpha = 0.4;
  context.fillStyle = hatch(context);
  context.fill(path, "evenodd");
  context.restore();
  drawLines(context, path);
}

function drawBox(context, view, [top, left, bottom, right]) {
  const path = new Path2D();
  path.rect(...onView(view, left, top, right - left, bottom - top));
  context.save();
  context.globalAlpha = 0.3;
  context.fillStyle = hatch(context);
  context.fill(path);
  drawLines(context, path);
  context.restore();
}

function drawRing(context, view, [x, y], radius) {
  const path = new Path2D();
  path.arc(view.x + x * view.scale, view.y + y * view.scale, Math.max(3, radius * view.scale), 0, 7);
  drawLines(context, path);
}

function drawCursor(context, view, scene) {
  const [rows, columns] = scene.grid;
  const [w, h] = [scene.size.width / columns, scene.size.height / rows];
  const [row, column] = [Math.floor(scene.cursor / columns), scene.cursor % columns];
  const path = new Path2D();
  path.rect(...onView(view, column * w, row * h, w, h));
  context.save();
  context.lineWidth = 5;
  context.strokeStyle = "#000";
  context.stroke(path);
  context.lineWidth = 3;
  context.strokeStyle = "#ffd400";
  context.stroke(path);
  context.restore();
}

/**
 * Draws a scene: {image, size, grid, border} and, where they are shown, candidate {image {element}, border},
 * running {preview, index, task, size, border, tint, area}, tint, tokens, box, ring {point, radius}, cursor.
 */
export function drawScene(context, view, scene) {
  const { image, size, candidate } = scene;
  if (candidate) {
    drawImage(context, candidate.image.element, ...frameOf(size, candidate.border), view);
    return;
  }
  drawImage(context, image, 0, 0, size.width, size.height, view);
  if (scene.running) {
    if (scene.running.preview) drawPreview(context, view, scene.running);
    return;
  }
  if (scene.frame) drawFrame(context, view, scene);
  if (scene.tint) drawMask(context, view, scene);
  if (scene.grid && (scene.showGrid || scene.tokens)) drawTokens(context, view, scene);
  if (scene.box) drawBox(context, view, scene.box);
  if (scene.ring) drawRing(context, view, scene.ring.point, scene.ring.radius);
  if (scene.cursor !== null) drawCursor(context, view, scene);
}
