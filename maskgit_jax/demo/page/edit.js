/** The Edit tab: paint a mask, generate candidates, compare, accept. */

import { createResults } from "./candidates.js";
import { addPointers, View } from "./canvas.js";
import { button, el } from "./dom.js";
import { createControls, createModes, MODES } from "./edit_controls.js";
import { costText, editRequest, maskedTokens } from "./edit_request.js";
import { createFrame, NO_BORDER } from "./frame.js";
import { loadImage } from "./frames.js";
import { createJobBar } from "./job_bar.js";
import { drawScene, frameOf } from "./layers.js";
import { createMaskButtons } from "./mask_files.js";
import { createOpener } from "./opener.js";
import { createPainter } from "./painter.js";
import { Session } from "./session.js";
import { createToolbar } from "./toolbar.js";

const OUTPAINT_MARGIN = 0.16; // of the view: room to drag the frame's edges to

export function create(panel, app) {
  const tab = new EditTab(panel, app);
  return { show: (data) => tab.show(data) };
}

class EditTab {
  running = null; // {doc, request, num, preview}

  constructor(panel, app) {
    Object.assign(this, { panel, app, lastRequest: "", fitted: "", runName: app.run.name });
    this.session = new Session(app, { shown: () => this.#shown(), changed: () => this.refresh() });
    this.#build();
    this.#showStart(true);
    this.opener.reset();
    app.addEventListener("run", () => this.#takeToRun());
    document.addEventListener("keydown", (event) => this.#key(event));
    window.addEventListener("blur", () => this.results.compare(false));
    document.addEventListener("keyup", (event) => event.key.toLowerCase() === "c" && this.results.compare(false));
  }

  get doc() {
    return this.session.doc;
  }

  get mode() {
    return this.modes.mode();
  }

  /** What is being generated for the image that is shown, else null. */
  get #busy() {
    return this.running?.doc === this.doc ? this.running : null;
  }

  // The elements of the tab.

  #build() {
    const { panel, app } = this;
    const part = (className) => el("div", { className });
    const [start, modes, controls, stage, toolbar, bar, run] = [
      "edit-start", "edit-modes", "controls edit-controls", "stage edit-stage", "toolbar", "edit-bar", "edit-run",
    ].map(part);
    this.start = start;
    this.work = el("div", { className: "edit", hidden: true }, modes, stage, controls);
    panel.replaceChildren(start, this.work);
    this.opener = createOpener(start, panel, app, (image, file) => this.#open(image, file));

    this.canvas = el("canvas", { tabIndex: 0, role: "application" });
    const box = el("div", { className: "view" }, this.canvas);
    this.view = new View(box, this.canvas, (context) => this.#paint(context));
    this.toolbar = createToolbar(toolbar, run, (name) => this.act(name), () => this.#toolChanged());
    this.status = el("p", { className: "cost" });
    this.sizes = el("p", { className: "muted" });
    this.runButton = button("", () => this.run(), { className: "primary" });
    run.prepend(el("div", {}, this.status, this.sizes));
    run.append(this.runButton);
    this.job = createJobBar(bar, app);
    stage.append(toolbar, box, run, bar);
    this.results = createResults(stage, this.session, {
      compared: () => this.view.redraw(),
      another: () => this.#showStart(true),
      showError: (text) => this.job.showError(text),
    });
    box.append(this.results.badge);
    this.back = button("Back to the image", () => this.#showStart(false));
    start.prepend(this.back);

    const masks = createMaskButtons(this.session, (text) => this.job.showError(text));
    this.controls = createControls(controls, app, {
      masks, onChange: () => this.refresh(), onBox: (value) => this.#setBox(value),
    });
    this.frame = createFrame(this.view, this.controls.border, {
      step: (side) => this.#tokenSide(side),
      snap: () => this.toolbar.state.snap,
      change: (dragging) => this.#frameChanged(dragging),
    });
    this.painter = createPainter({
      tools: this.toolbar.state, mask: () => this.doc.mask, mode: () => this.mode, view: () => this.view,
      changed: (area) => this.#stroked(area), ended: (change) => this.session.noteMask(change),
      compare: (on) => this.#pressCompares(on), moved: () => this.view.redraw(),
      setBox: (value) => this.#setBox(value), announce: (text) => app.announce(text + this.status.textContent),
    });
    addPointers(this.view, this.painter.pointer, () => ["outpaint", "variations"].includes(this.mode) && !this.session.candidate);
    this.canvas.addEventListener("blur", () => this.painter.reset());
    this.modes = createModes(modes, app, () => this.modes && this.#modeChanged());
    this.modes.refresh();
  }

  #showStart(on) {
    this.start.hidden = !on;
    this.work.hidden = on;
    this.back.hidden = !this.doc;
    if (!on) this.view.fit();
  }

  // Images.

  show(data) {
    if (data?.id) this.opener.take(Promise.resolve(data), null);
    this.view.redraw();
  }

  async #open(image, file) {
    await this.session.open(image, file);
    this.job.showError("");
    this.app.announce(`The image is open, ${image.width} by ${image.height} pixels.`);
  }

  async #takeToRun() {
    const before = this.runName;
    this.runName = this.app.run.name;
    if (before === this.runName) return;
    this.job.cancel();
    this.opener.reset();
    if (!this.doc || !this.app.run.tabs.includes("edit")) return;
    await this.session.takeFrom(before).catch((error) => {
      this.#showStart(true);
      this.opener.showError(error.message);
    });
  }

  /** Called when another image is shown: opened, accepted, or by undo. */
  #shown() {
    const { image } = this.doc;
    const side = Math.round(this.#tokenSide("left"));
    const first = this.work.hidden;
    this.#showStart(false);
    this.painter.reset();
    this.frame.set(image, this.doc.border);
    if (first || this.sized !== image.width * image.height) {
      this.toolbar.setSizes(Math.max(2, side), Math.ceil(Math.max(image.width, image.height) / 2));
      this.sized = image.width * image.height;
    }
    this.fitted = "";
    this.refresh();
  }

  /** Pixels of a token along one side. */
  #tokenSide(side) {
    const { width, height, grid } = this.doc.image;
    return side === "left" || side === "right" ? width / grid[1] : height / grid[0];
  }

  // Tools and modes.

  #modeChanged() {
    this.controls.showMode(this.mode);
    this.runButton.textContent = MODES[this.mode][2];
    if (this.doc) this.session.choose(null);
  }

  #toolChanged() {
    if (this.doc && this.session.candidate) this.session.choose(null);
    this.view.redraw();
  }

  #fit() {
    const { image, border } = this.doc;
    const dragged = this.mode === "outpaint" && !this.session.candidate && !this.#busy;
    const shown = this.session.candidate?.border ?? this.#busy?.border ?? (dragged ? border : NO_BORDER);
    const [x, y, width, height] = frameOf(image, shown);
    this.view.fit([y, x, y + height, x + width], dragged ? OUTPAINT_MARGIN : 0);
  }

  /** Fits the view again where it shows something of another size. */
  #fitIfChanged() {
    const { candidate, doc } = this.session;
    const shown = candidate?.border ?? this.#busy?.border ?? (this.mode === "outpaint" ? "frame" : NO_BORDER);
    const fitted = JSON.stringify([doc.image.id, shown]);
    if (this.fitted !== fitted) this.#fit();
    this.fitted = fitted;
  }

  #stroked(area) {
    this.doc.tint.update(area);
    this.#showCost();
    this.view.redraw();
  }

  #setBox(box) {
    const { width, height } = this.doc.image;
    const [top, left] = [Math.min(Math.max(0, box[0]), height - 1), Math.min(Math.max(0, box[1]), width - 1)];
    this.doc.box = [top, left, Math.min(height, Math.max(top + 1, box[2])), Math.min(width, Math.max(left + 1, box[3]))];
    this.refresh();
  }

  #frameChanged(dragging) {
    this.doc.border = this.frame.border;
    if (!dragging) this.fitted = "";
    this.refresh();
  }

  act(name) {
    const { session, toolbar, view } = this;
    const radius = Math.max(1, Math.round(this.#tokenSide("left") / 4));
    const actions = {
      undo: () => session.history.undo(),
      redo: () => session.history.redo(),
      invert: () => session.changeMask((mask) => mask.invert()),
      grow: () => session.changeMask((mask) => mask.grow(radius)),
      shrink: () => session.changeMask((mask) => mask.grow(-radius)),
      clear: () => session.changeMask((mask) => mask.clear()),
      smaller: () => toolbar.resize(false),
      larger: () => toolbar.resize(true),
      out: () => view.zoomStep(false),
      in: () => view.zoomStep(true),
      fit: () => this.#fit(),
      grid: () => toolbar.toggle("grid"),
      snap: () => toolbar.toggle("snap"),
    };
    (actions[name] ?? (() => toolbar.setTool(name)))();
  }

  #key(event) {
    const typing = event.target.closest?.("input:not([type=range], [type=radio], [type=checkbox]), select, textarea, dialog");
    if (this.panel.hidden || this.work.hidden || !this.doc || typing || event.altKey) return;
    if (event.target === this.canvas && !this.session.candidate && this.painter.key(event)) {
      event.preventDefault();
      return;
    }
    const name = this.toolbar.actionOf(event, this.mode);
    if (name) {
      event.preventDefault();
      this.act(name);
    } else if (event.key.toLowerCase() === "c" && !event.ctrlKey && !event.metaKey) this.results.compare(true);
  }

  // Candidates.

  #pressCompares(on) {
    if (this.session.candidate || !on) this.results.compare(on);
    return this.results.comparing || Boolean(this.running);
  }

  /** Generates candidates; the same request again takes the next seed. */
  async run() {
    const { app, controls, doc, mode, session } = this;
    let request;
    this.runButton.disabled = true; // while the mask is uploaded
    try {
      request = await editRequest(app, mode, doc, controls);
    } catch (error) {
      this.job.showError(error.message);
      this.problem = true; // until something is changed
      return;
    } finally {
      this.runButton.disabled = false;
    }
    if (JSON.stringify(request) === this.lastRequest) controls.seed.set(++request.seed);
    const running = this.running = {
      doc, num: request.num, preview: null, task: mode, size: doc.image,
      border: mode === "outpaint" ? doc.border : NO_BORDER,
      tint: mode === "inpaint" ? doc.tint.canvas : null,
      area: mode === "replace" ? maskedTokens(mode, doc, app.run, controls) : null,
    };
    session.choose(null);
    const done = await this.job.start(request, (event) => event.type === "step" && this.#preview(running, event));
    if (this.running !== running) return;
    if (done) {
      this.lastRequest = JSON.stringify(request);
      const added = session.addCandidates(doc, done.images, running.border, done.seed);
      await added.catch((error) => this.job.showError(error.message));
      app.announce(`${done.images.length} candidates are ready.`);
    }
    this.running = null;
    this.refresh();
  }

  async #preview(running, { preview, masked, width, height }) {
    if (!preview) return;
    const image = await loadImage(preview).catch(() => null);
    if (!image || this.running !== running) return;
    running.preview = { image, masked, width, height };
    this.refresh();
  }

  // What is shown.

  #paint(context) {
    if (!this.doc) return;
    const { doc, mode, painter, toolbar } = this;
    const { image } = doc;
    const candidate = this.results.comparing ? null : this.session.candidate;
    const busy = this.#busy;
    const editing = !this.session.candidate && !busy;
    const painting = editing && mode === "inpaint";
    drawScene(context, this.view, {
      image: image.element, size: image, grid: image.grid, border: doc.border, candidate, running: busy,
      frame: editing && mode === "outpaint",
      tint: painting && doc.tint,
      tokens: editing && (toolbar.state.grid || toolbar.state.snap) && maskedTokens(mode, doc, this.app.run, this.controls),
      showGrid: !candidate && toolbar.state.grid,
      box: painting ? painter.state.box : editing && mode === "replace" && doc.box,
      ring: painting && painter.state.ring,
      cursor: editing && document.activeElement === this.canvas ? painter.state.cursor : null,
    });
    this.frame.place(editing && mode === "outpaint");
  }

  #showCost() {
    this.status.textContent = costText(this.mode, this.doc, this.app.run, this.controls);
  }

  refresh() {
    const { doc, mode, session, toolbar } = this;
    if (!doc) return;
    const focused = document.activeElement;
    if (this.problem) this.job.showError("");
    this.problem = false;
    const { candidate, history } = session;
    const { width, height, grid } = doc.image;
    const disabled = [];
    if (!history.canUndo) disabled.push("undo");
    if (!history.canRedo) disabled.push("redo");
    if (doc.mask.empty) disabled.push("grow", "shrink", "clear");
    toolbar.update(mode, disabled);
    this.controls.showBox(doc.box);
    this.#showCost();
    this.sizes.textContent = `${width} × ${height} pixels, ${grid[1]} × ${grid[0]} tokens.`;
    this.canvas.setAttribute("aria-label", candidate
      ? `${candidate.caption}, ${candidate.image.width} by ${candidate.image.height} pixels`
      : `Image, ${width} by ${height} pixels. Arrow keys move a cursor over the tokens, Space masks a token.`);
    this.canvas.classList.toggle("candidate", Boolean(candidate));
    this.results.show(this.#busy);
    this.#fitIfChanged();
    this.view.redraw();
    // A button that was pressed and is gone, such as "Accept", leaves the focus to the image.
    const lost = [focused, document.body].includes(document.activeElement) && !focused.checkVisibility?.();
    if (lost) this.canvas.focus({ preventScroll: true });
  }
}
