/** Takes an image: a file that is opened or dropped, or one of the run's held-out images. */

import { heldOutImage, uploadImage } from "./api.js";
import { button, el, errorLine } from "./dom.js";
import { createNumber } from "./settings.js";

/**
 * Makes the controls.
 * @param {{key: string, first: number, onImage: function(object)}} options key: of the held-out
 *   number in the address; first: its default; onImage: takes {id, width, height, url, name}.
 */
export function createImagePicker(container, app, { key, first, onImage }) {
  const file = el("input", { type: "file", accept: "image/*", hidden: true });
  const open = button("Open an image", () => file.click());
  const error = errorLine();
  const node = el("div", { className: "picker" }, open, file);
  container.append(node);
  const number = createNumber(node, app, {
    key, label: "Held-out image", maximum: Math.max(app.run.held_out - 1, 0), value: first, dice: true,
  });
  node.append(error.node);
  let newest = 0;

  /** Gives on the image that `load` returns, unless another one was asked for meanwhile. */
  const take = async (name, load) => {
    const mine = ++newest;
    error.clear();
    try {
      const image = await load();
      if (mine === newest) onImage({ ...image, name });
    } catch (failure) {
      if (mine === newest) error.show(failure.message);
    }
  };
  const takeFile = (blob) => take(blob.name || "the image", () => uploadImage(app.run.name, blob));
  const takeHeldOut = () => {
    if (!app.run.held_out) return Promise.resolve();
    return take(`held-out image ${number.value()}`, () => heldOutImage(app.run.name, number.value()));
  };

  file.addEventListener("change", () => {
    if (file.files.length) takeFile(file.files[0]);
    file.value = "";
  });
  app.addEventListener("state", ({ detail }) => detail === key && takeHeldOut());
  const build = () => {
    newest++;
    number.setMaximum(Math.max(app.run.held_out - 1, 0));
    number.node.hidden = !app.run.held_out;
  };
  app.addEventListener("run", build);
  build();
  return { takeFile, takeHeldOut };
}
