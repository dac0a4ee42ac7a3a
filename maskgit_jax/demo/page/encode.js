/** The tab "Encode": reconstruction, codebook map, and interpolation between two images. */

import { imageUrl } from "./api.js";
import { createCodebookMaps } from "./codebook_map.js";
import { button, el, errorLine, reveal } from "./dom.js";
import { loadImage, setScaling } from "./frames.js";
import { createImagePicker } from "./image_picker.js";
import { createJobBar } from "./job_bar.js";
import { createClassPicker, createNumber } from "./settings.js";

/** Fills the panel, and returns the tab. */
export function create(panel, app) {
  const controls = el("div", { className: "controls" });
  const stage = el("div", { className: "stage" });
  panel.replaceChildren(el("div", { className: "columns" }, controls, stage));

  const first = el("section", { className: "controls" }, el("h2", {}, "Image"));
  const second = el("section", { className: "controls" }, el("h2", {}, "Interpolation to a second image"));
  controls.append(first, second);
  const encoded = createReconstruction(app);
  const path = createPath();
  const empty = el("p", { className: "empty" }, "Open an image to see it through the tokenizer.");
  stage.append(empty, encoded.node, path.node);

  const images = { image: null, other: null };
  const picker = createImagePicker(first, app, { key: "held_out", first: 0, onImage: (image) => encode(image) });
  const bar = createJobBar(first, app);
  const otherPicker = createImagePicker(second, app, { key: "other", first: 3, onImage: (image) => setOther(image) });
  const thumbnail = el("p", { className: "muted thumbnail" });
  second.append(thumbnail);
  const columns = createNumber(second, app, {
    key: "columns", label: "Number of images", minimum: 2, maximum: 16, value: 9,
  });
  const label = createClassPicker(second, app, { key: "between" });
  const go = button("Interpolate", () => interpolate(), { className: "primary", disabled: true });
  second.append(go);
  const pathBar = createJobBar(second, app);

  const setReady = () => {
    go.disabled = !images.image || !images.other;
  };

  const encode = async (image) => {
    images.image = image;
    setReady();
    path.hide();
    const run = app.run;
    const done = await bar.start({ run: run.name, task: "encode", image: image.id });
    if (!done || app.run !== run) return;
    empty.hidden = true;
    await encoded.show(done, image);
  };

  const setOther = (image) => {
    images.other = image;
    const node = el("img", { src: image.url, alt: "Second image" });
    setScaling(node, image.width);
    thumbnail.replaceChildren(node, `The second image: ${image.name}`);
    setReady();
  };

  const interpolate = async () => {
    const run = app.run;
    let request;
    try {
      request = { run: run.name, task: "interpolate", image: images.image.id, other: images.other.id };
      request.columns = columns.value();
      if (run.tabs.includes("edit")) request.label = label.value();
    } catch (error) {
      pathBar.showError(error.message);
      return;
    }
    const done = await pathBar.start(request);
    if (done && app.run === run) await path.show(done);
  };

  const reset = () => {
    bar.cancel();
    pathBar.cancel();
    images.image = images.other = null;
    setReady();
    encoded.hide();
    path.hide();
    thumbnail.replaceChildren("There is no second image yet.");
    empty.hidden = false;
    label.node.hidden ||= !app.run.tabs.includes("edit");
  };
  reset();
  app.addEventListener("run", reset);
  panel.addEventListener("dragover", (event) => event.preventDefault());
  panel.addEventListener("drop", (event) => {
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (file) picker.takeFile(file);
  });
  const show = (image) => {
    if (image) encode(image);
    else if (!images.image) picker.takeHeldOut();
    if (!images.other) otherPicker.takeHeldOut();
  };
  return { show };
}

/** The original, its reconstruction, and the codebook map. */
function createReconstruction(app) {
  const [original, reconstruction, over] = ["Original", "Reconstruction", ""].map((alt) => el("img", { alt }));
  over.className = "over";
  over.hidden = true;
  const psnr = el("span");
  const hold = button("Hold for original", null, { className: "small" });
  const view = el("div", { className: "view" }, reconstruction, over);
  const pair = [
    el("figure", {}, el("div", { className: "view" }, original), el("figcaption", {}, "Original")),
    el("figure", {}, view, el("figcaption", {}, el("span", {}, "Reconstruction", psnr), hold)),
  ];
  const figures = el("div", { className: "views encoded" }, ...pair);
  const text = el("div", { className: "code-information", "aria-live": "polite" });
  const error = errorLine();
  const node = el("div", { className: "stage", hidden: true }, figures, text, error.node);
  holdToShow([view, hold], over);

  const show = async (done, image) => {
    const [made, seen] = done.images;
    const before = imageUrl((seen ?? image).id);
    const after = imageUrl(made.id);
    await Promise.allSettled([loadImage(before), loadImage(after)]);
    original.src = over.src = before;
    reconstruction.src = after;
    for (const each of [original, over, reconstruction]) setScaling(each, made.width);
    original.alt = `Original: ${image.name ?? "the image"}`;
    const known = done.psnr !== null && done.psnr !== undefined;
    psnr.textContent = `, PSNR ${known ? `${done.psnr.toFixed(2)} dB` : "infinite: the images are identical"}`;
    app.announce(`Encoded${psnr.textContent}.`);
    node.hidden = false;
    text.replaceChildren();
    text.hidden = !done.tokens;
    figures.replaceChildren(...pair);
    error.clear();
    if (!done.tokens) return;
    try {
      figures.append(...(await createCodebookMaps(app.run, done.tokens, text)));
    } catch (failure) {
      text.hidden = true;
      error.show(failure.message);
    }
  };
  return { node, show, hide: () => (node.hidden = true) };
}

/** Shows an element while one of the others is pressed, with the pointer or with a key. */
function holdToShow(targets, shown) {
  const set = (visible) => () => (shown.hidden = !visible);
  for (const target of targets) {
    target.addEventListener("pointerdown", set(true));
    for (const end of ["pointerup", "pointerleave", "pointercancel", "keyup", "blur"]) {
      target.addEventListener(end, set(false));
    }
    target.addEventListener("keydown", (event) => [" ", "Enter"].includes(event.key) && set(true)());
    target.addEventListener("contextmenu", (event) => event.preventDefault());
  }
}

/** The images between two, on a slider. */
function createPath() {
  const image = el("img", { alt: "" });
  const slider = el("input", { type: "range", min: 0, value: 0, "aria-label": "Place between the two images" });
  const text = el("span");
  const strip = el("div", { className: "strip", "aria-hidden": true });
  const view = el("div", { className: "view" }, image);
  const node = el(
    "section", { className: "path", "aria-label": "Interpolation" }, el("h2", {}, "Interpolation"),
    el("figure", {}, view, el("figcaption", {}, "From the first image to the second", text)), slider, strip,
  );
  let images = [];
  const set = () => {
    const place = Number(slider.value);
    image.src = images[place].src;
    text.textContent = image.alt = `Image ${place + 1} of ${images.length}`;
    [...strip.children].forEach((each, index) => each.classList.toggle("here", index === place));
  };
  const show = async (done) => {
    images = await Promise.all(done.images.map(({ id }) => loadImage(imageUrl(id))));
    for (const each of [image, ...images]) setScaling(each, done.images[0].width);
    strip.replaceChildren(...images);
    slider.max = images.length - 1;
    slider.value = Math.floor((images.length - 1) / 2);
    node.hidden = false;
    set();
    reveal(node);
  };
  slider.addEventListener("input", set);
  const hide = () => (node.hidden = true);
  hide();
  return { node, show, hide };
}
