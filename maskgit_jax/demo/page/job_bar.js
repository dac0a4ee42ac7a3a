/** What a tab shows of its running job: place in the queue, step, cancel, and errors. */

import { startJob } from "./api.js";
import { button, el, errorLine, sentence } from "./dom.js";

/** Returns what an event says, in words. */
function words(event) {
  switch (event.type) {
    case "queued":
      return event.place > 0 ? `Waiting. Place ${event.place} in the queue.` : "Starting.";
    case "started":
      return "Starting.";
    case "status":
      return sentence(event.message);
    case "step": {
      const window = event.windows > 1 ? `Part ${event.window + 1} of ${event.windows}, ` : "";
      return `${window}${window ? "step" : "Step"} ${event.step} of ${event.steps}`;
    }
    default:
      return "";
  }
}

/**
 * Makes the progress bar of a tab.
 * @returns {{start: function(object, function): Promise<object|null>, cancel: function(),
 *   showError: function(string)}} `start` runs a job and returns its "done" event; null if it was
 *   cancelled or failed, which the bar then says.
 */
export function createJobBar(container, app) {
  const fill = el("span");
  const bar = el("div", { className: "bar", "aria-hidden": true }, fill);
  const text = el("span", { className: "text" });
  const stop = button("Cancel", () => cancel(), { className: "small" });
  const line = el("div", { className: "job", hidden: true }, bar, text, stop);
  const error = errorLine();
  container.append(line, error.node);
  let job = null;

  const cancel = () => {
    if (!job) return;
    text.textContent = "Cancelling.";
    job.cancel();
  };

  const show = (event) => {
    const share = event.type === "step" ? event.step / event.steps : 0;
    const done = event.windows > 1 ? (event.window + share) / event.windows : share;
    bar.classList.toggle("indeterminate", event.type !== "step");
    fill.style.width = `${Math.min(100, 100 * done)}%`;
    text.textContent = words(event);
    if (event.type === "queued" && event.place > 0) app.announce(text.textContent);
  };

  const start = async (request, onEvent = () => {}) => {
    cancel();
    error.clear();
    line.hidden = false;
    show({ type: "started" });
    const mine = startJob(request, (event) => {
      if (job !== mine) return;
      show(event);
      onEvent(event);
    });
    job = mine;
    try {
      const done = await mine.done;
      return job === mine ? done : null;
    } catch (failure) {
      if (job === mine && failure.cancelled) app.announce("Cancelled.");
      else if (job === mine) error.show(failure.message);
      return null;
    } finally {
      if (job === mine) {
        job = null;
        line.hidden = true;
      }
    }
  };
  return { start, cancel, showError: error.show };
}
