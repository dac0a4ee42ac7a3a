/** Draws the images of a decoding step: a preview of N images below one another, masked tokens grey. */

const PIXELATED_BELOW = 256;

/** Decodes a data URL or address to an image that can be drawn. */
export async function loadImage(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

/** Marks an image or canvas whose pixels shall stay sharp when it is enlarged. */
export function setScaling(node, width) {
  node.classList.toggle("pixelated", width < PIXELATED_BELOW);
}

/** Returns [rows, columns] of the tokens of an image of a run. */
export function tokenGrid(run, width, height) {
  const [rows, columns] = run.grids.at(-1);
  const scale = run.image_size;
  return [Math.round((rows * height) / scale), Math.round((columns * width) / scale)];
}

/** Draws image `index` of a preview on a canvas. */
export function drawFrame(canvas, preview, index, { width, height }) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  setScaling(canvas, width);
  canvas.getContext("2d").drawImage(preview, 0, index * height, width, height, 0, 0, width, height);
}

/** Covers the masked tokens of a canvas with grey; `mask` is flat, row by row. */
export function coverMasked(canvas, mask, [rows, columns]) {
  const context = canvas.getContext("2d");
  context.fillStyle = getComputedStyle(canvas).getPropertyValue("--masked");
  const [height, width] = [canvas.height / rows, canvas.width / columns];
  mask.forEach((masked, index) => {
    const [row, column] = [Math.floor(index / columns), index % columns];
    if (masked) context.fillRect(column * width, row * height, width, height);
  });
}
