// The pictures to choose from: listed, paged through, dropped on the page.

import { get, upload } from "./ask.js";
import { offerSources } from "./controls.js";
import { choose } from "./explore.js";
import { complain, make, one, say, state } from "./page.js";

export const PAGE = 24;

/** List pictures; whether that worked. */
export async function list() {
  const query = new URLSearchParams({ offset: state.offset, limit: PAGE });
  if (state.about.columns.length) {
    query.set("where", one("where").value);
    query.set("sort", one("sort").value);
    query.set("descending", one("descending").checked);
  }
  try {
    const found = await get(`/api/images?${query}`);
    one("problem").hidden = true;
    state.total = found.total;
    state.entries = [...found.dropped, ...found.images];
    state.given = found.images.length;
  } catch (error) {
    complain(error);
    return false;
  }
  const last = state.offset + state.given;
  one("paging").hidden = state.total <= PAGE && !state.about.columns.length;
  one("range").textContent = state.given ? `${state.offset + 1} to ${last} of ${state.total}` : "none of them";
  one("page-back").disabled = state.offset === 0;
  one("page-on").disabled = last >= state.total;
  one("strip").replaceChildren(...state.entries.map(offered));
  markImage();
  return true;
}

function offered(entry) {
  const small = make("img", { src: `/api/small?id=${encodeURIComponent(entry.id)}`, alt: "", loading: "lazy" });
  small.addEventListener("error", () => small.replaceWith(make("span", { class: "muted" }, "no picture")));
  const note = entry.note ? make("span", { class: "note", title: entry.note }, entry.note) : null;
  return make(
    "li",
    {},
    make("button", { type: "button", "data-id": entry.id, title: entry.name, onclick: () => choose(entry.id) }, small, make("span", { class: "name" }, entry.name), note),
  );
}

export function markImage() {
  for (const button of one("strip").querySelectorAll("button")) {
    const current = button.dataset.id === state.image;
    if (current) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
    if (current) button.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}

export async function page(by) {
  state.offset = Math.max(0, state.offset + by);
  await list();
}

export async function step(by) {
  const at = state.entries.findIndex((entry) => entry.id === state.image) + by;
  if (at >= state.entries.length && state.offset + state.given < state.total) {
    await page(PAGE);
    return choose(state.entries[state.entries.length - state.given]?.id);
  }
  if (at < 0 && state.offset > 0) {
    await page(-PAGE);
    return choose(state.entries.at(-1)?.id);
  }
  if (state.entries[at]) await choose(state.entries[at].id);
}

export async function take(files) {
  for (const file of files) {
    try {
      const { limits } = state.about;
      if (file.size > limits.bytes) throw new Error(`${file.name} is too large: a picture may have ${limits.bytes >> 20} MiB`);
      say(`uploading ${file.name}`);
      const entry = await upload(file);
      await list();
      const live = Object.keys(state.about.sources).filter((name) => state.about.sources[name].live);
      if (!live.length) throw new Error("a run shows the images that it explained; start with CONFIG, too, to explain others");
      if (!state.sources.some((name) => live.includes(name))) state.sources = live.slice(0, 1);
      offerSources();
      await choose(entry.id);
    } catch (error) {
      complain(error);
    }
  }
}
