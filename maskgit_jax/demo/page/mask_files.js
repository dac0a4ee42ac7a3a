/** Masks as PNG files, white where masked. */

import { button, el } from "./dom.js";
import { chooseFile } from "./opener.js";

/** Returns the mask as the blob of a PNG file. */
export function maskBlob(mask) {
  const canvas = el("canvas", { width: mask.width, height: mask.height });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(mask.width, mask.height);
  const words = new Uint32Array(pixels.data.buffer);
  mask.data.forEach((value, i) => (words[i] = value ? 0xffffffff : 0xff000000));
  context.putImageData(pixels, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/** Reads an image file as a mask's bitmap: masked where it is brighter than half and not transparent. */
async function readMask(file, { width, height }) {
  let image;
  try {
    image = await createImageBitmap(file);
  } catch {
    throw new Error("The file is not an image that this browser can read as a mask; use a PNG file.");
  }
  if (image.width !== width || image.height !== height) {
    throw new Error(
      `The mask has ${image.width} × ${image.height} pixels and the image ${width} × ${height}; bring them to one size.`,
    );
  }
  const context = el("canvas", { width, height }).getContext("2d", { willReadFrequently: true });
  context.fillRect(0, 0, width, height);
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  return Uint8Array.from({ length: width * height }, (_, i) =>
    299 * data[4 * i] + 587 * data[4 * i + 1] + 114 * data[4 * i + 2] > 127500 ? 1 : 0);
}

/** Saves a blob as a file. */
function saveBlob(blob, name) {
  const url = URL.createObjectURL(blob);
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

/** Makes the buttons that read and save the mask of a session's image. */
export function createMaskButtons(session, showError) {
  const upload = async (file) => {
    try {
      const data = await readMask(file, session.doc.image);
      session.changeMask((mask) => mask.set(data));
      showError("");
    } catch (error) {
      showError(error.message);
    }
  };
  const download = async () => saveBlob(await maskBlob(session.doc.mask), "mask.png");
  return [
    button("Upload", () => chooseFile(upload), {
      title: "Reads the mask from an image of the same size; white is masked", "aria-label": "Upload a mask" }),
    button("Download", download, {
      title: "Saves the mask as a PNG file; white is masked", "aria-label": "Download the mask" }),
  ];
}
