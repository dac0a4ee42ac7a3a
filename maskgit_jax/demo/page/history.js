/** Undo and redo of changes, each a pair of functions. */

const LARGEST_BYTES = 96 * 2 ** 20;

export class History {
  #done = [];
  #undone = [];

  /** @param {function()} onChange Called whenever what can be undone or redone may have changed. */
  constructor(onChange) {
    this.onChange = onChange;
  }

  /** Notes a change that was made; `bytes` is the memory it needs, so that the oldest are dropped. */
  push(undo, redo, bytes = 0) {
    this.#done.push({ undo, redo, bytes });
    this.#undone = [];
    let sum = this.#done.reduce((total, change) => total + change.bytes, 0);
    while (sum > LARGEST_BYTES && this.#done.length > 1) sum -= this.#done.shift().bytes;
    this.onChange();
  }

  get canUndo() {
    return this.#done.length > 0;
  }

  get canRedo() {
    return this.#undone.length > 0;
  }

  undo() {
    this.#move(this.#done, this.#undone, "undo");
  }

  redo() {
    this.#move(this.#undone, this.#done, "redo");
  }

  clear() {
    this.#done = [];
    this.#undone = [];
    this.onChange();
  }

  #move(from, to, name) {
    const change = from.pop();
    if (!change) return;
    change[name]();
    to.push(change);
    this.onChange();
  }
}
