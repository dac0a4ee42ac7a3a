/** A grid of images that fills while they are decoded, and a dialog with one of them in full size. */

import { imageUrl } from "./api.js";
import { button, el } from "./dom.js";
import { coverMasked, drawFrame, loadImage, setScaling, tokenGrid } from "./frames.js";

/**
 * Makes the grid.
 * @returns {{begin: function(string[]), step: function(object), finish: function(object)}} `begin`
 *   takes a title for each image, `step` and `finish` the events "step" and "done" of the job.
 */
export function createGallery(container, app) {
  const grid = el("ul", { className: "gallery", "aria-label": "Images" });
  const viewer = createViewer(app);
  container.append(grid, viewer.node);
  let titles = [];
  let images = [];
  let newest = 0;
  let shown = null; // the last event with a preview; a busy server leaves some out

  const tile = (title, index) => {
    const canvas = el("canvas", { role: "img", "aria-label": `${title}, not yet decoded` });
    const open = button("", () => viewer.open(images, index), { disabled: true, className: "tile" });
    open.append(canvas);
    return el("li", {}, open);
  };
  const begin = (names) => {
    titles = names;
    images = [];
    shown = null;
    newest++;
    grid.classList.toggle("single", names.length === 1);
    grid.replaceChildren(...names.map(tile));
  };
  const step = async (event) => {
    const mine = ++newest;
    const preview = event.preview && (await loadImage(event.preview));
    if (mine !== newest) return;
    if (preview) shown = { preview, width: event.width, height: event.height };
    if (!shown) return;
    grid.querySelectorAll("canvas").forEach((canvas, index) => {
      drawFrame(canvas, shown.preview, index, shown);
      coverMasked(canvas, event.masked[index], tokenGrid(app.run, shown.width, shown.height));
    });
  };
  const finish = async (done) => {
    const mine = ++newest;
    const loaded = done.images.map(({ id }) => loadImage(imageUrl(id)));
    await Promise.allSettled(loaded);
    if (mine !== newest) return;
    images = done.images.map((image, index) => ({ ...image, title: titles[index] }));
    images.forEach(({ id, title, width }, index) => {
      const image = el("img", { src: imageUrl(id), alt: title });
      setScaling(image, width);
      const open = grid.children[index].firstChild;
      open.replaceChildren(image);
      open.disabled = false;
      open.title = "Show in full size";
    });
  };
  return { begin, step, finish };
}

/** Makes the dialog: Esc closes it, the arrow keys go to the next image. */
function createViewer(app) {
  const image = el("img", { className: "large" });
  const caption = el("p", { className: "caption", "aria-live": "polite" });
  const download = el("a", { className: "button" }, "Download");
  const openIn = (tab, text) => {
    const open = () => {
      node.close();
      const { id, width, height, title } = images[place];
      const grid = tab === "edit" ? tokenGrid(app.run, width, height) : null;
      app.openTab(tab, { id, width, height, grid, url: imageUrl(id), name: title });
    };
    return button(text, open);
  };
  const edit = openIn("edit", "Edit this image");
  const encode = openIn("encode", "Encode it");
  const previous = button("‹", () => show(place - 1), { className: "square", "aria-label": "Previous image" });
  const next = button("›", () => show(place + 1), { className: "square", "aria-label": "Next image" });
  const close = button("Close", () => node.close());
  const tools = el("div", { className: "row" }, previous, next, el("span", { className: "space" }), download, encode, edit, close);
  const node = el("dialog", { className: "viewer", "aria-label": "Image in full size" }, image, caption, tools);
  let images = [];
  let place = 0;

  const show = (index) => {
    place = (index + images.length) % images.length;
    const { id, title, width } = images[place];
    const url = imageUrl(id);
    Object.assign(image, { src: url, alt: title });
    setScaling(image, width);
    caption.textContent = title;
    download.href = imageUrl(id, `${title.replaceAll(/[^\w]+/g, "-").toLowerCase()}.png`);
    previous.hidden = next.hidden = images.length < 2;
    edit.hidden = !app.run.tabs.includes("edit");
    encode.hidden = !app.run.tabs.includes("encode");
  };
  node.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (move) show(place + move);
  });
  node.addEventListener("click", (event) => event.target === node && node.close());
  const open = (list, index) => {
    images = list;
    show(index);
    node.showModal();
    close.focus();
  };
  return { node, open };
}
