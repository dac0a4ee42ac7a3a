/** The view of the edited image: a canvas with zoom, and pointers, touches and keys on it. */

const LARGEST_SCALE = 64;
const ZOOM_STEP = 1.4;

/** Shows image pixels at `scale` CSS pixels each, the image's corner at (`x`, `y`). */
export class View {
  scale = 1;
  x = 0;
  y = 0;
  extent = [0, 0, 1, 1]; // what "fit" shows: top, left, bottom, right in image pixels
  margin = 0; // around it, as a share of the view

  /** @param {function(CanvasRenderingContext2D, View)} paint Draws everything. */
  constructor(box, canvas, paint) {
    Object.assign(this, { box, canvas, paint, fitted: true, asked: false });
    new ResizeObserver(() => (this.fitted ? this.fit() : this.redraw())).observe(box);
  }

  get width() {
    return this.box.clientWidth;
  }

  get height() {
    return this.box.clientHeight;
  }

  /** Draws once before the browser shows its next frame. */
  redraw() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      if (!this.width || !this.height) return; // hidden
      const ratio = window.devicePixelRatio || 1;
      const [width, height] = [Math.round(this.width * ratio), Math.round(this.height * ratio)];
      if (this.canvas.width !== width) this.canvas.width = width;
      if (this.canvas.height !== height) this.canvas.height = height;
      const context = this.canvas.getContext("2d");
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, this.width, this.height);
      this.paint(context, this);
    });
  }

  /** Shows a part of the image's plane as large as fits. */
  fit(extent = this.extent, margin = this.margin) {
    Object.assign(this, { extent, margin, fitted: true });
    const [top, left, bottom, right] = extent;
    this.box.style.aspectRatio = String(Math.min(2.4, Math.max(0.6, (right - left) / (bottom - top))));
    const share = 1 - 2 * margin;
    const room = [this.width - 4, this.height - 4].map((side) => Math.max(1, side * share));
    this.scale = Math.min(room[0] / (right - left), room[1] / (bottom - top), LARGEST_SCALE);
    this.x = (this.width - (left + right) * this.scale) / 2;
    this.y = (this.height - (top + bottom) * this.scale) / 2;
    this.redraw();
  }

  /** Zooms by a step. */
  zoomStep(larger) {
    this.zoom(larger ? ZOOM_STEP : 1 / ZOOM_STEP);
  }

  /** Zooms; the image's point under (`x`, `y`), by default the centre, stays where it is. */
  zoom(factor, x = this.width / 2, y = this.height / 2) {
    const [top, left, bottom, right] = this.extent;
    const fit = Math.min(this.width / (right - left), this.height / (bottom - top));
    const smallest = Math.min(fit / 2, LARGEST_SCALE);
    const scale = Math.min(LARGEST_SCALE, Math.max(smallest, this.scale * factor));
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    Object.assign(this, { scale, fitted: false });
    this.redraw();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.fitted = false;
    this.redraw();
  }

  /** Moves the view so that a point of the image is in it. */
  reveal([x, y]) {
    const [px, py] = [this.x + x * this.scale, this.y + y * this.scale];
    const off = (place, side) => (place > side + 1 ? side - 12 - place : place < -1 ? 12 - place : 0);
    const [dx, dy] = [off(px, this.width), off(py, this.height)];
    if (dx || dy) this.pan(dx, dy);
  }

  /** Returns where an event is, in CSS pixels of the view. */
  place(event) {
    const box = this.box.getBoundingClientRect();
    return [event.clientX - box.left - this.box.clientLeft, event.clientY - box.top - this.box.clientTop];
  }

  /** Returns the point of the image at which an event is. */
  point(event) {
    const [x, y] = this.place(event);
    return [(x - this.x) / this.scale, (y - this.y) / this.scale];
  }
}

/**
 * Turns pointers into strokes: one paints, two (touch) pan and zoom, as the middle button pans.
 * @param {{down, move, up, cancel, hover}} tool Called with points of the image; `move` with all
 *   points since the last call, `hover` with null when the pointer leaves.
 * @param {function(): boolean} pans Whether one pointer moves the image instead of painting.
 */
export function addPointers(view, tool, pans) {
  const { canvas } = view;
  const pointers = new Map();
  let stroke = null; // id of the pointer that paints
  let panning = false;

  const center = () => {
    const places = [...pointers.values()];
    const mean = (axis) => places.reduce((sum, place) => sum + place[axis], 0) / places.length;
    const [x, y] = [mean(0), mean(1)];
    return { x, y, spread: Math.hypot(places[0][0] - x, places[0][1] - y) };
  };
  const cancel = () => {
    if (stroke !== null) tool.cancel();
    stroke = null;
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (pointers.size && event.pointerType === "mouse") return;
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, view.place(event));
    panning = pointers.size > 1 || event.button === 1 || pans();
    if (panning) cancel();
    else if (event.button === 0) {
      stroke = event.pointerId;
      tool.down(view.point(event), event);
    }
    if (event.button === 1) event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return tool.hover(view.point(event));
    if (panning) {
      const before = center();
      pointers.set(event.pointerId, view.place(event));
      const now = center();
      view.pan(now.x - before.x, now.y - before.y);
      if (pointers.size > 1 && before.spread > 0) view.zoom(now.spread / before.spread, now.x, now.y);
    } else if (stroke === event.pointerId) {
      const events = event.getCoalescedEvents?.() ?? [];
      tool.move((events.length ? events : [event]).map((each) => view.point(each)));
    }
  });
  const end = (event) => {
    if (!pointers.delete(event.pointerId)) return;
    if (stroke === event.pointerId) {
      if (event.type === "pointerup") tool.up();
      else tool.cancel();
      stroke = null;
    }
    if (!pointers.size) panning = false;
  };
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("contextmenu", (event) => event.preventDefault()); // a long touch
  canvas.addEventListener("pointerleave", () => tool.hover(null));
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey && view.fitted) return; // the page scrolls
    event.preventDefault();
    const [x, y] = view.place(event);
    if (event.ctrlKey || event.metaKey) view.zoom(Math.exp(-event.deltaY / 200), x, y);
    else view.pan(-event.deltaX, -event.deltaY);
  }, { passive: false });
}
