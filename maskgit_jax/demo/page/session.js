/** The image that is edited, its mask, candidates, and the images that were accepted; with undo. */

import { imageUrl, keepImage, uploadImage } from "./api.js";
import { NO_BORDER } from "./frame.js";
import { loadImage } from "./frames.js";
import { History } from "./history.js";
import { Tint } from "./layers.js";
import { Mask } from "./mask.js";

/**
 * `doc` is null or {image {id, width, height, grid, element, caption}, mask, tint, border, box,
 * candidates [{image, caption, border, seed}], made (their number so far), chosen (index, null: the
 * image), versions [image]}.
 */
export class Session {
  doc = null;

  /** @param {{shown: function(), changed: function()}} on Another image is shown; anything changed. */
  constructor(app, on) {
    Object.assign(this, { app, on });
    this.history = new History(() => on.changed());
  }

  /** Shows another image, as a change that can be undone. */
  #replace(doc) {
    const before = this.doc;
    const show = (other) => {
      this.doc = other;
      this.on.shown();
    };
    show(doc);
    if (before) this.history.push(() => show(before), () => show(doc));
  }

  /** Returns an image with a mask of its own, or with the mask of `from` if that has its size. */
  #document(image, from, versions) {
    const { patch } = this.app.run;
    const same = from && from.image.width === image.width && from.image.height === image.height;
    const mask = same ? from.mask : new Mask(image.width, image.height, image.grid, patch);
    const tint = same ? from.tint : new Tint(mask);
    const box = same ? from.box : null;
    return { image, mask, tint, box, border: NO_BORDER, candidates: [], made: 0, chosen: null, versions };
  }

  /** Opens an image {id, width, height, grid}; `file` is the blob that was uploaded, if one was. */
  async open(image, file) {
    if (!image.grid) throw new Error("This model cannot edit this image; open another one.");
    const loaded = await load({ ...image, caption: "Opened" });
    this.file = file;
    this.#replace(this.#document(loaded, null, [loaded]));
  }

  /** Opens the image again with the run that was chosen after the run `before`; keeps the mask. */
  async takeFrom(before) {
    const old = this.doc;
    const opened = old.versions.length === 1 && this.file;
    const blob = opened || (await keepImage(before, old.image.id));
    const image = await load({ ...(await uploadImage(this.app.run.name, blob)), caption: "Opened" });
    this.history.clear();
    this.doc = this.#document(image, null, [image]);
    if (old.image.width === image.width && old.image.height === image.height) {
      this.doc.tint.update(this.doc.mask.set(old.mask.data));
    }
    this.on.shown();
  }

  /** Changes the mask by `change(mask)`, which returns the changed box. */
  changeMask(change) {
    const { mask, tint } = this.doc;
    mask.begin();
    tint.update(change(mask));
    this.noteMask(mask.end());
  }

  /** Notes a change of the mask that `Mask.end` returned. */
  noteMask(change) {
    const { mask, tint } = this.doc;
    this.doc.chosen = null;
    if (!change) return this.on.changed();
    let kept = change;
    const swap = () => {
      kept = mask.swap(kept);
      tint.update(kept.box);
      this.doc.chosen = null;
    };
    this.history.push(swap, swap, change.bits.length);
  }

  /** Shows a candidate, or the image itself: null. */
  choose(index) {
    this.doc.chosen = index;
    this.on.changed();
  }

  get candidate() {
    const { doc } = this;
    return doc && doc.chosen !== null ? doc.candidates[doc.chosen] : null;
  }

  /** Adds candidates to an image; they are shown if it still is the one that is edited. */
  async addCandidates(doc, images, border, seed) {
    const loaded = await Promise.all(images.map((image) => load({ grid: null, ...image })));
    const first = doc.candidates.length;
    for (const image of loaded) doc.candidates.push({ image, border, seed, caption: `Candidate ${++doc.made}` });
    if (doc === this.doc) this.choose(first);
  }

  /** Makes the shown candidate the image. */
  async accept() {
    const { candidate, doc } = this;
    if (!candidate) return;
    const { id, width, height } = candidate.image;
    const same = width === doc.image.width && height === doc.image.height;
    // The grid of a larger image is the server's to say.
    const grid = same ? doc.image.grid : await this.#gridOf(id);
    const image = { ...candidate.image, grid, caption: `Edit ${doc.versions.length}` };
    this.#replace(this.#document(image, doc, [...doc.versions, image]));
  }

  async #gridOf(id) {
    const run = this.app.run.name;
    return (await uploadImage(run, await keepImage(run, id))).grid;
  }

  /** Removes the shown candidate. */
  discard() {
    const { doc } = this;
    const place = doc.chosen;
    const [candidate] = doc.candidates.splice(place, 1);
    doc.chosen = doc.candidates.length ? Math.min(place, doc.candidates.length - 1) : null;
    const put = () => {
      doc.candidates.splice(place, 0, candidate);
      doc.chosen = place;
    };
    const remove = () => {
      doc.candidates.splice(place, 1);
      doc.chosen = null;
    };
    this.history.push(put, remove);
  }

  /** Goes back to an image that was accepted before, or forward to a later one. */
  goTo(image) {
    if (image !== this.doc.image) this.#replace(this.#document(image, this.doc, this.doc.versions));
  }
}

async function load(image) {
  const url = imageUrl(image.id);
  const element = await loadImage(url).catch(() => null);
  if (!element) throw new Error("The image cannot be loaded from the server; open it again.");
  return { ...image, url, element };
}
