/** Opens images: from a file, the camera roll, by drag and drop, paste, or from the held-out images. */

import { heldOutImage, uploadImage } from "./api.js";
import { button, el, errorLine } from "./dom.js";
import { setScaling } from "./frames.js";

const EXAMPLES = 12;
const TYPES = "image/*,.tif,.tiff,.webp,.bmp,.heic,.ppm,.pgm";

/** Asks for an image file, on a phone also from its camera roll. */
export function chooseFile(onFile, accept = TYPES) {
  const input = el("input", { type: "file", accept });
  input.addEventListener("change", () => input.files[0] && onFile(input.files[0]));
  input.click();
}

/** Returns the image file in what was dropped or pasted, undefined if there is none. */
function imageIn(transfer) {
  const files = [...(transfer?.files ?? [])];
  return files.find((file) => file.type.startsWith("image/") || !file.type) ?? files[0];
}

/**
 * Makes the view from which an image is opened.
 * @param {HTMLElement} panel The tab; images may be dropped anywhere on it.
 * @param {function({id, width, height, grid, url}, Blob|null)} onOpen Called with an opened image.
 */
export function createOpener(container, panel, app, onOpen) {
  const error = errorLine();
  const busy = el("p", { className: "muted", role: "status", hidden: true }, "Opening the image.");
  const open = button("Open an image", () => chooseFile(openFile), { className: "primary" });
  const examples = el("div", { className: "examples" });
  const more = button("More", () => addExamples(), { className: "quiet small" });
  const heldOut = el(
    "section", { className: "held-out" },
    el("div", { className: "head" }, el("h2", {}, "Or take a held-out image of this model"), more), examples,
  );
  container.append(
    el("div", { className: "empty drop" }, el("div", {}, open, el("p", {}, "or drop one here, or paste it."))),
    busy, error.node, heldOut,
  );
  let shown = 0;
  let opening = 0;

  /** Shows an error here, or in a line of its own above the image that is open. */
  function showError(text) {
    (container.hidden ? panel : container).prepend(error.node);
    error.show(text);
  }

  async function take(promise, file) {
    const mine = ++opening;
    error.clear();
    busy.hidden = false;
    try {
      const image = await promise;
      if (mine === opening) await onOpen(image, file);
    } catch (failure) {
      if (mine === opening) showError(failure.message);
    } finally {
      if (mine === opening) busy.hidden = true;
    }
  }

  function openFile(file) {
    const limit = app.run.limits?.upload_bytes ?? Infinity;
    const [size, most] = [file.size, limit].map((bytes) => (bytes / 1e6).toFixed(0));
    const text = `The file has ${size} MB, and at most ${most} MB are accepted; open a smaller one.`;
    const tooLarge = file.size > limit;
    return take(tooLarge ? Promise.reject(new Error(text)) : uploadImage(app.run.name, file), file);
  }

  async function addExamples() {
    const run = app.run;
    const indices = Array.from({ length: EXAMPLES }, (_, i) => shown + i).filter((i) => i < run.held_out);
    shown += indices.length;
    heldOut.hidden = run.held_out === 0;
    more.hidden = shown >= run.held_out;
    const nodes = indices.map((index) => {
      const label = `Held-out image ${index + 1}`;
      return button("", () => take(heldOutImage(run.name, index), null), { className: "example", "aria-label": `Open ${label.toLowerCase()}`, title: label });
    });
    examples.append(...nodes);
    for (const [place, index] of indices.entries()) {
      try {
        const { url, width } = await heldOutImage(run.name, index);
        const image = el("img", { src: url, alt: "" });
        setScaling(image, width);
        nodes[place].append(image);
      } catch (failure) {
        nodes[place].remove();
        if (app.run === run) showError(failure.message);
        return;
      }
    }
  }

  /** Shows the examples of the run. */
  function reset() {
    shown = 0;
    examples.replaceChildren();
    addExamples();
  }

  const wanted = (event) => !panel.hidden && [...(event.dataTransfer?.types ?? [])].includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!wanted(event)) return;
    event.preventDefault();
    panel.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) panel.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    panel.classList.remove("dropping");
    if (!wanted(event)) return;
    event.preventDefault();
    openFile(imageIn(event.dataTransfer));
  });
  document.addEventListener("paste", (event) => {
    const file = imageIn(event.clipboardData);
    if (panel.hidden || !file) return;
    event.preventDefault();
    openFile(file);
  });
  return { reset, take, showError };
}
