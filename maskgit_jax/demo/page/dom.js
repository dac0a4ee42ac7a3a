/** Small helpers that make elements of the page. */

/**
 * Makes an element: properties by their name in JavaScript, all others as attributes.
 * @returns {HTMLElement}
 */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else if (value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** Makes a button; `properties.className` may be "primary" or "quiet". */
export function button(text, onclick, properties = {}) {
  return el("button", { type: "button", onclick, ...properties }, text);
}

/** Scrolls to an element that is not in view, where the page is narrow. */
export function reveal(node) {
  const { top, bottom } = node.getBoundingClientRect();
  if (top >= 0 && top < 0.6 * window.innerHeight) return;
  if (bottom > 0.4 * window.innerHeight && top < 0) return;
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  node.scrollIntoView({ block: "start", behavior: calm ? "auto" : "smooth" });
}

/** Makes a sentence of a message of the server. */
export function sentence(text) {
  const end = /[.!?]$/.test(text) ? "" : ".";
  return text ? text[0].toUpperCase() + text.slice(1) + end : "";
}

/** Makes a line for an error near a control: `show(text)` and `clear()`. */
export function errorLine() {
  const node = el("p", { className: "error", role: "alert", hidden: true });
  const show = (text) => {
    node.textContent = sentence(text);
    node.hidden = !text;
  };
  return { node, show, clear: () => show("") };
}
