/** Colours of confidences: a perceptually uniform map from dark (0) to bright (1), and its legend. */

import { el } from "./dom.js";

/** Viridis (van der Walt and Smith 2015) at equal distances. */
const STOPS = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];
const PARTS = STOPS.map((stop) => [1, 3, 5].map((place) => parseInt(stop.slice(place, place + 2), 16)));

/** Returns the colour of a share in [0, 1]. */
export function heatColor(share) {
  const place = Math.min(Math.max(share, 0), 1) * (STOPS.length - 1);
  const low = Math.min(Math.floor(place), STOPS.length - 2);
  const mix = PARTS[low].map((part, i) => Math.round(part + (PARTS[low + 1][i] - part) * (place - low)));
  return `rgb(${mix.join(" ")})`;
}

/** Makes the legend of the map; `setLargest` takes the confidence in per cent of the last colour. */
export function heatLegend() {
  const largest = el("span", {}, "100%");
  const bar = el("span", { className: "scale" });
  bar.style.background = `linear-gradient(90deg, ${STOPS.join(", ")})`;
  const node = el("span", { className: "legend-row" }, "0%", bar, largest);
  return { node, setLargest: (percent) => (largest.textContent = `${percent}%`) };
}
