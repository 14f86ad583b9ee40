// Asking the server: every answer is JSON, and what takes the model comes line by line, with news in between.

/** Bytes that the server sends in base64. */
export const bytes = (text) => Uint8Array.from(atob(text), (each) => each.charCodeAt(0));

const KEPT = 48;
const TRIES = 20;

/** Ask for something that is there at once. */
export async function get(path) {
  return read(await fetch(path));
}

/** Send something that is answered at once. */
export async function send(path, body) {
  return read(await fetch(path, request(body)));
}

export async function upload(file) {
  const path = `/api/images?name=${encodeURIComponent(file.name)}`;
  return read(await fetch(path, { method: "POST", headers: { "x-camkit": "page" }, body: file }));
}

/**
 * Ask the model. A queue that is full is asked again when it says so.
 *
 * @param news called with {event: waiting | running, ...}.
 * @param signal ends the question, and with it the work.
 */
export async function ask(path, body, { signal, news = () => {} } = {}) {
  for (let tries = 0; ; tries++) {
    const response = await fetch(path, { ...request(body), signal });
    if (response.status === 503 && tries < TRIES) {
      news({ event: "waiting", ahead: "many" });
      await pause(1000 * Number(response.headers.get("retry-after") || 1), signal);
      continue;
    }
    if (!response.ok) return read(response);
    return await lines(response, news);
  }
}

async function lines(response, news) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const pieces = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("the server has ended, or stopped this");
    let rest = value;
    for (let end = rest.indexOf("\n"); end >= 0; end = rest.indexOf("\n")) {
      const said = JSON.parse(pieces.splice(0).join("") + rest.slice(0, end));
      rest = rest.slice(end + 1);
      if (said.event === "done") return said.result;
      if (said.event === "error") throw new Error(said.error);
      news(said);
    }
    pieces.push(rest);
  }
}

function request(body) {
  return { method: "POST", headers: { "content-type": "application/json", "x-camkit": "page" }, body: JSON.stringify(body) };
}

async function read(response) {
  let said;
  try {
    said = await response.json();
  } catch {
    throw new Error(`the server answers ${response.status}`);
  }
  if (!response.ok) throw new Error(said.error ?? `the server answers ${response.status}`);
  return said;
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("stopped", "AbortError"));
    });
  });
}

/** The last things by key. */
export class Lately {
  #values = new Map();

  find(key) {
    const value = this.#values.get(key);
    if (value !== undefined) this.keep(key, value);
    return value;
  }

  keep(key, value) {
    this.#values.delete(key);
    this.#values.set(key, value);
    if (this.#values.size > KEPT) this.#values.delete(this.#values.keys().next().value);
    return value;
  }
}
