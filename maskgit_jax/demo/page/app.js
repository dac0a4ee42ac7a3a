/** The page: menu of runs, tabs, and the state that the address of the page holds. */

import { connection, getJson } from "./api.js";
import { el, sentence } from "./dom.js";

const TABS = ["generate", "edit", "watch", "encode"];
const POLL_SECONDS = 0.5;
const find = (id) => document.getElementById(id);

/**
 * What all tabs share. Events: "run" when another run is ready (`run` is its description), and
 * "state" (its `detail` is the key, or null: all) when the state in the address has changed.
 */
class App extends EventTarget {
  run = null;
  tab = null;
  #state = new URLSearchParams(location.hash.slice(1));
  #modules = new Map();
  #wanted = null;

  /** Returns a value of the state in the address (a string, or null), or sets it; null: removes. */
  state(key, value) {
    if (value === undefined) return this.#state.get(key);
    if (value === null || value === "") this.#state.delete(key);
    else this.#state.set(key, String(value));
    this.#writeAddress(key);
    return value;
  }

  #writeAddress(key) {
    history.replaceState(null, "", `#${this.#state}`);
    this.dispatchEvent(new CustomEvent("state", { detail: key }));
  }

  /** Reads a link that was pasted into the address bar of the open page. */
  readAddress() {
    this.#state = new URLSearchParams(location.hash.slice(1));
    const run = this.state("run");
    if (run && run !== this.run?.name) this.selectRun(run);
    else if (this.run) this.#showRun();
    this.dispatchEvent(new CustomEvent("state", { detail: null }));
  }

  /** Removes what belongs to a run (settings, classes) from the state, when the run changes. */
  forgetSettings() {
    for (const key of [...this.#state.keys()]) {
      if (!["run", "tab", "seed", "num"].includes(key)) this.#state.delete(key);
    }
    this.#writeAddress(null);
  }

  /** Says something to those who use a screen reader. */
  announce(text) {
    find("live").textContent = text;
  }

  /** Opens a tab; `data` is what it shall show, such as an image. */
  async openTab(name, data) {
    this.tab = name;
    this.state("tab", name);
    for (const tab of TABS) {
      find(`panel-${tab}`).hidden = tab !== name;
      find(`tab-${tab}`).setAttribute("aria-selected", tab === name);
      find(`tab-${tab}`).tabIndex = tab === name ? 0 : -1;
    }
    try {
      if (!this.#modules.has(name)) this.#modules.set(name, this.#create(name));
      (await this.#modules.get(name)).show(data);
    } catch (error) {
      this.#modules.delete(name);
      const text = `This tab cannot be shown: ${error.message}`;
      find(`panel-${name}`).replaceChildren(el("p", { className: "error" }, text));
      console.error(error);
    }
  }

  async #create(name) {
    const module = await import(`./${name}.js`);
    return module.create(find(`panel-${name}`), this);
  }

  /** Loads a run and shows what the server does until it is ready. */
  async selectRun(name) {
    this.#wanted = name;
    this.state("run", name);
    find("run").value = name;
    let description = null;
    while (!description) {
      const answer = await this.#ask(name);
      if (this.#wanted !== name) return;
      if (answer?.state === "ready") description = answer;
      else if (answer?.state === "failed") return;
      else await new Promise((resolve) => setTimeout(resolve, 1000 * POLL_SECONDS));
    }
    this.run = description;
    document.title = `${name} · maskgit_jax`;
    this.dispatchEvent(new Event("run"));
    this.#showRun();
    this.announce(`${name} is ready.`);
  }

  async #ask(name) {
    try {
      const answer = await getJson(`runs/${encodeURIComponent(name)}`);
      const failed = answer.state === "failed";
      const title = failed ? `${name} cannot be loaded` : `Loading ${name}`;
      if (answer.state !== "ready") showLoading(title, answer.message, failed);
      return answer;
    } catch (error) {
      showLoading(`Loading ${name}`, error.message, !error.offline);
      return error.offline ? null : { state: "failed" };
    }
  }

  #showRun() {
    find("loading").hidden = true;
    find("tabs").hidden = false;
    for (const tab of TABS) find(`tab-${tab}`).hidden = !this.run.tabs.includes(tab);
    const wanted = this.state("tab");
    this.openTab(this.run.tabs.includes(wanted) ? wanted : this.run.tabs[0]);
  }
}

export const app = new App();

function showLoading(title, text, failed = false) {
  find("loading").hidden = false;
  find("loading-title").textContent = title;
  find("loading").classList.toggle("failed", failed);
  find("loading-text").textContent = sentence(text);
  find("tabs").hidden = true;
  for (const tab of TABS) find(`panel-${tab}`).hidden = true;
}

/** Lists the runs, and loads that of the link, or the first one. */
async function start() {
  let runs = null;
  while (!runs) {
    try {
      ({ runs } = await getJson("runs"));
    } catch (error) {
      showLoading("Connecting", `${error.message} Trying again.`);
      await new Promise((resolve) => setTimeout(resolve, 2000));
    }
  }
  const options = runs.map((run) => el("option", { value: run.name }, `${run.name} (${run.stage})`));
  find("run").replaceChildren(...options);
  find("run").disabled = false;
  const names = runs.map((run) => run.name);
  const wanted = app.state("run");
  const usable = runs.find((run) => run.state !== "failed") ?? runs[0];
  if (wanted && !names.includes(wanted)) {
    app.announce(`There is no model ${wanted} here.`);
    app.forgetSettings();
  }
  app.selectRun(names.includes(wanted) ? wanted : usable.name);
}

function moveAmongTabs(event) {
  const tabs = [...find("tabs").children].filter((tab) => !tab.hidden);
  const here = tabs.indexOf(document.activeElement);
  const places = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: -1 };
  if (!(event.key in places) || here < 0) return;
  event.preventDefault();
  const tab = tabs.at(places[event.key] % tabs.length);
  tab.focus();
  tab.click();
}

async function copyLink() {
  const copy = find("copy-link");
  try {
    await navigator.clipboard.writeText(location.href);
    copy.textContent = "Link copied";
  } catch {
    copy.textContent = "Copy it from the address bar";
  }
  app.announce(copy.textContent);
  setTimeout(() => (copy.textContent = "Copy link"), 2500);
}

function showConnection(lost) {
  const banner = find("connection");
  banner.hidden = !lost;
  banner.textContent = lost ? "The connection to the server is lost. Trying again." : "";
}

for (const name of TABS) find(`tab-${name}`).addEventListener("click", () => app.openTab(name));
find("tabs").addEventListener("keydown", moveAmongTabs);
find("run").addEventListener("change", (event) => {
  app.forgetSettings();
  app.selectRun(event.target.value);
});
find("copy-link").addEventListener("click", copyLink);
connection.addEventListener("lost", () => showConnection(true));
connection.addEventListener("restored", () => showConnection(false));
window.addEventListener("hashchange", () => app.readAddress());
start();
