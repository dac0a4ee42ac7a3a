/** The server's API: JSON, uploaded images, and jobs whose events survive a lost connection. */

const KEPT = 24;
const RETRY_SECONDS = [0.3, 1, 2, 4];
const ENDINGS = ["done", "failed", "cancelled"];

/** Says "lost" and "restored" when the connection to the server breaks and comes back. */
export const connection = new EventTarget();

/** Image id -> {run, blob, mask}: what is uploaded again when the server has forgotten an image. */
const kept = new Map();
let online = true;

function setOnline(value) {
  if (online !== value) connection.dispatchEvent(new Event(value ? "restored" : "lost"));
  online = value;
}

const apiUrl = (path) => new URL(`api/${path}`, document.baseURI).href;
const wait = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

/** The address of an image; with `download`, a file name, the browser saves it. */
export const imageUrl = (id, download) =>
  apiUrl(`images/${id}.png${download ? `?download=${encodeURIComponent(download)}` : ""}`);

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(apiUrl(path), options);
  } catch (error) {
    setOnline(false);
    throw Object.assign(new Error("The server cannot be reached."), { offline: true });
  }
  setOnline(true);
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const text = body.error || `The server answered ${response.status} ${response.statusText}.`;
  throw Object.assign(new Error(text), { status: response.status });
}

/** Reads JSON below /api; throws an Error with one line. */
export async function getJson(path) {
  const response = await call(path);
  return response.json();
}

const runPath = (run) => `runs/${encodeURIComponent(run)}`;

/** Returns the answer of `call`; a server that was started again loads the run first. */
async function whenLoaded(run, call, say = () => {}) {
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (error.status !== 409) throw error;
    }
    const { state, message } = await getJson(runPath(run));
    if (state === "failed") throw new Error(message);
    say({ type: "status", message });
    await wait(0.5);
  }
}

/**
 * Uploads the bytes of an image, or of a mask, and keeps them in case the server forgets them.
 * @returns {Promise<{id, width, height, channels, grid, url}>}
 */
export async function uploadImage(run, blob, { mask = false } = {}) {
  const path = `images?run=${encodeURIComponent(run)}${mask ? "&kind=mask" : ""}`;
  const post = () => call(path, { method: "POST", body: blob });
  const response = await whenLoaded(run, post);
  const image = await response.json();
  keep(image.id, { run, blob, mask });
  return { ...image, url: imageUrl(image.id) };
}

function keep(id, entry) {
  kept.delete(id);
  kept.set(id, entry);
  if (kept.size > KEPT) kept.delete(kept.keys().next().value);
}

/** Fetches an image that the server made, so that it can be uploaded again; returns its blob. */
export async function keepImage(run, id) {
  if (!kept.has(id)) {
    const response = await call(`images/${id}.png`);
    keep(id, { run, blob: await response.blob(), mask: false });
  }
  return kept.get(id).blob;
}

/** Takes a held-out image of a run. */
export async function heldOutImage(run, index) {
  const image = await whenLoaded(run, () => getJson(`${runPath(run)}/held_out/${index}`));
  keepImage(run, image.id).catch(() => {}); // a failure shows when the image is used
  return { ...image, url: imageUrl(image.id) };
}

async function postJob(request) {
  const body = JSON.stringify(request);
  const headers = { "Content-Type": "application/json" };
  const response = await call("jobs", { method: "POST", body, headers });
  return (await response.json()).id;
}

/** Returns the request with images that the server forgot uploaded again. */
async function uploadAgain(request) {
  const again = { ...request };
  for (const name of ["image", "other", "mask"]) {
    const entry = kept.get(request[name]);
    if (entry) again[name] = (await uploadImage(request.run, entry.blob, entry)).id;
  }
  return again;
}

async function createJob(request, onEvent) {
  const images = ["image", "other"].filter((name) => typeof request[name] === "string");
  // Made images are fetched while the server has them; a failure shows when the job is posted.
  await Promise.allSettled(images.map((name) => keepImage(request.run, request[name])));
  try {
    return await whenLoaded(request.run, () => postJob(request), onEvent);
  } catch (error) {
    if (error.status !== 404 || !images.length) throw error;
    return postJob(await uploadAgain(request));
  }
}

/**
 * Starts a job and calls `onEvent` with each of its events, also after a lost connection.
 * @returns {{cancel: function(), done: Promise<object>}} `done` is the job's "done" event; it
 *   rejects with an Error, whose `cancelled` is true when the job was cancelled.
 */
export function startJob(request, onEvent = () => {}) {
  let id = null;
  let cancelled = false;
  const remove = () => call(`jobs/${id}`, { method: "DELETE" }).catch(() => {});
  const done = createJob(request, onEvent).then((created) => {
    id = created;
    if (cancelled) remove();
    return follow(id, onEvent);
  });
  const cancel = () => {
    cancelled = true;
    if (id !== null) remove();
  };
  return { cancel, done };
}

/** Follows the events of a job to its end; after a break it goes on after the last one. */
async function follow(id, onEvent) {
  let last = -1;
  for (let failures = 0; ; failures++) {
    const end = await listen(id, last, (index, event) => {
      last = index;
      failures = 0;
      onEvent(event);
    });
    if (end) return finish(end);
    await wait(RETRY_SECONDS[Math.min(failures, RETRY_SECONDS.length - 1)]);
    try {
      await getJson(`jobs/${id}`);
    } catch (error) {
      if (!error.offline) throw new Error("The server no longer knows this job; start it again.");
    }
  }
}

/** Listens until the job ends, and returns its last event; null when the connection breaks. */
function listen(id, last, onEvent) {
  return new Promise((resolve) => {
    const source = new EventSource(apiUrl(`jobs/${id}/events${last < 0 ? "" : `?after=${last}`}`));
    source.onopen = () => setOnline(true);
    source.onmessage = (message) => {
      const event = JSON.parse(message.data);
      onEvent(Number(message.lastEventId), event);
      if (ENDINGS.includes(event.type)) {
        source.close();
        resolve(event);
      }
    };
    source.onerror = () => {
      source.close();
      setOnline(false);
      resolve(null);
    };
  });
}

function finish(event) {
  if (event.type === "done") return event;
  const cancelled = event.type === "cancelled";
  throw Object.assign(new Error(cancelled ? "Cancelled." : event.error), { cancelled });
}
