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

/** Makes a line for an error near a control: `show(text)` and `clear()`. */
export function errorLine() {
  const node = el("p", { className: "error", role: "alert", hidden: true });
  const show = (text) => {
    node.textContent = text;
    node.hidden = !text;
  };
  return { node, show, clear: () => show("") };
}
