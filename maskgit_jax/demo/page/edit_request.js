/** What an edit asks the server for, and the tokens that it costs. */

import { uploadImage } from "./api.js";
import { frameOf } from "./layers.js";
import { boxTokens, count, dilateTokens, roundHalfEven, tokenAxis } from "./mask.js";
import { maskBlob } from "./mask_files.js";

/** Returns which tokens of the image an edit generates, null if that is drawn at random. */
export function maskedTokens(mode, doc, run, controls) {
  const { image, mask, box } = doc;
  if (mode === "inpaint") return dilateTokens(mask.tokens, image.grid, controls.around());
  if (mode === "replace") return box && boxTokens(box, image, image.grid, run.patch);
  return null;
}

/** Returns how many tokens of an outpainted image are new, and how many there are. */
function outpaintedTokens({ width, height }, { left, right, top, bottom }, run) {
  const scale = run.image_size / Math.min(width, height);
  const unit = run.patch * (run.size_multiple ?? 1);
  const side = (before, length, after) => {
    const pixels = before + length + after;
    const tokens = Math.max(run.image_size, roundHalfEven((pixels * scale) / unit) * unit) / run.patch;
    const known = tokenAxis(pixels, tokens, run.patch).outer.filter(([start, end]) => start >= before && end <= before + length);
    return [tokens, known.length];
  };
  const [[columns, knownColumns], [rows, knownRows]] = [side(left, width, right), side(top, height, bottom)];
  return [rows * columns - knownRows * knownColumns, rows * columns];
}

/** Returns one line about the tokens that an edit generates. */
export function costText(mode, doc, run, controls) {
  const { image, mask, box, border } = doc;
  const total = image.grid[0] * image.grid[1];
  const masked = maskedTokens(mode, doc, run, controls);
  if (mode === "variations") return `${Math.max(1, Math.round(controls.strength() * total))} of ${total} tokens are generated again.`;
  if (mode === "replace") return box ? `${count(masked)} of ${total} tokens, in the box and around it.` : "No box is drawn yet.";
  if (mode === "outpaint") {
    const [, , width, height] = frameOf(image, border);
    if (width === image.width && height === image.height) return "No pixels are added yet.";
    const [added, all] = outpaintedTokens(image, border, run);
    return `${width} × ${height} pixels, ${added} of ${all} tokens are generated.`;
  }
  if (mask.empty) return "Nothing is masked yet.";
  const stroke = mask.strokeCost;
  const words = stroke ? ` This stroke: ${stroke > 0 ? "+" : "−"}${Math.abs(stroke)}.` : "";
  const around = count(masked) - mask.cost;
  return `${mask.cost} of ${total} tokens are masked${around ? `, ${around} around them are generated too` : ""}.${words}`;
}

/**
 * Returns the request of a job, with the mask uploaded.
 * @throws {Error} Something is missing; one line says what.
 */
export async function editRequest(app, mode, doc, controls) {
  const { image, mask, box, border } = doc;
  const request = {
    run: app.run.name, task: mode, image: image.id, label: controls.label.value(),
    num: controls.num.value(), seed: controls.seed.value(), settings: controls.settings.values(),
  };
  if (mode === "inpaint") {
    if (mask.empty) throw new Error("Nothing is masked; paint over the part that is to be generated.");
    const uploaded = await uploadImage(app.run.name, await maskBlob(mask), { mask: true });
    return { ...request, mask: uploaded.id, dilate: controls.dilate.value() };
  }
  if (mode === "replace") {
    if (!box) throw new Error("No box is drawn; drag one over the image, or enter its numbers.");
    if (request.label === null) throw new Error("No class is picked; pick the one to show in the box.");
    return { ...request, box: [box[0], box[1], box[2] - box[0], box[3] - box[1]] };
  }
  if (mode === "outpaint") {
    if (!Object.values(border).some(Boolean)) throw new Error("No pixels are added; drag an edge of the image outwards.");
    return { ...request, ...border };
  }
  return { ...request, keep: Number((1 - controls.strength()).toFixed(4)) };
}
