// The explorer: what is chosen, what is asked for, what is shown. Whatever comes from outside goes in as text.

import { ask, bytes, get, Lately, send, upload } from "./ask.js";
import { Card } from "./card.js";

const PAGE = 24;
const one = (id) => document.getElementById(id);
const SIX = ["GradCAM", "GradCAM++", "XGradCAM", "EigenCAM", "EigenGradCAM", "LayerCAM"];
const CARDS = 24;

/** An element with attributes and children; strings become text. */
function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") made.addEventListener("click", value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((each) => each !== null && each !== ""));
  return made;
}

const state = {
  about: null,
  entries: [],
  offset: 0,
  total: 0,
  given: 0, // entries that were not dropped here; they come last
  image: null,
  sources: [],
  seen: {}, // by source
  classes: [], // offered
  categories: [],
  methods: [],
  layers: [],
  layer: null, // none for the default one
};
const maps = new Lately();
let cards = [];
let work = new AbortController();

async function start() {
  try {
    state.about = await get("/api/about");
  } catch (error) {
    return complain(error);
  }
  // The token has become a cookie; it isn't left in the address, where others would see it.
  if (location.search) history.replaceState(null, "", location.pathname);
  const { about } = state;
  state.sources = Object.keys(about.sources).slice(0, about.sources.b ? 2 : 1);
  state.methods = about.methods.slice();
  one("colormap").replaceChildren(...Object.keys(about.colormaps).map((name) => make("option", { value: name }, name)));
  one("colormap").value = about.style.colormap;
  one("alpha").value = about.style.alpha;
  one("sources-field").hidden = Object.keys(about.sources).length < 2;
  one("choice").hidden = !about.columns.length;
  one("sort").append(...about.columns.map((name) => make("option", { value: name }, name)));
  one("layer-field").hidden = !Object.values(about.sources).some((each) => each.live);
  listen();
  offerSources();
  offerMethods();
  await list();
  const first = state.entries[state.entries.length - state.given] ?? state.entries[0];
  if (first) await choose(first.id, state.given ? about.categories : []);
  else showNothing();
}

function showNothing() {
  one("empty").hidden = false;
  offerClasses();
}

function complain(error) {
  if (error.name === "AbortError") return;
  one("problem").textContent = error.message;
  one("problem").hidden = false;
}

function say(line) {
  one("status").textContent = line;
}

// Pictures

/** List pictures; whether that worked. */
async function list() {
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

function markImage() {
  for (const button of one("strip").querySelectorAll("button")) {
    const current = button.dataset.id === state.image;
    if (current) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
    if (current) button.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}

async function page(by) {
  state.offset = Math.max(0, state.offset + by);
  await list();
}

async function step(by) {
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

async function take(files) {
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

/** Show a picture: first what the network sees and its classes, then the layers, then maps. */
async function choose(image, categories = []) {
  if (!image) return;
  one("problem").hidden = true;
  work.abort();
  work = new AbortController();
  const { signal } = work;
  Object.assign(state, { image, seen: {}, classes: [] });
  one("place").hidden = one("command").hidden = true;
  markImage();
  const first = state.sources[0];
  try {
    for (const source of state.sources) {
      const seen = await ask("/api/look", { source, image }, { signal, news: (said) => say(told(said)) });
      state.seen[source] = { ...seen, data: await pictureData(seen) };
    }
    const { classes, height, width, note } = state.seen[first];
    state.classes = classes.slice();
    state.categories = classes.slice(0, 1).map((each) => each.index);
    if (categories.length) {
      state.categories = categories.slice();
      one("several").checked = categories.length > 1;
      for (const index of categories) if (!classes.some((each) => each.index === index)) state.classes.push(await send("/api/category", { source: first, text: String(index) }));
    }
    const name = state.entries.find((entry) => entry.id === image)?.name ?? "";
    one("seen").textContent = [`${name}, seen at ${width} x ${height}`, note].filter(Boolean).join("; ");
    one("empty").hidden = true;
    say(`${name}: ${classes.length ? `predicted ${classes[0].name}` : "no classes"}`);
    offerClasses();
    await draw();
    await findLayers(signal);
  } catch (error) {
    if (error.name === "AbortError") return;
    one("cards").replaceChildren();
    cards = [];
    complain(error);
  }
}

async function pictureData(seen) {
  const bitmap = await createImageBitmap(new Blob([bytes(seen.picture)], { type: "image/png" }));
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

// Sources, classes, methods, layers

function chip(text, { pressed, key = "", number = "", title = null, onclick }) {
  return make(
    "li",
    {},
    make(
      "button",
      { type: "button", class: "chip", "aria-pressed": String(pressed), title, onclick },
      key ? make("span", { class: "key", "aria-hidden": "true" }, key) : null,
      make("span", {}, text),
      number ? make("span", { class: "number" }, number) : null,
    ),
  );
}

/** Choose one of several, or with `beside` one more or less; never none. */
function chosen(all, each, beside) {
  if (!beside) return [each];
  const left = all.includes(each) ? all.filter((other) => other !== each) : [...all, each];
  return left.length ? left : all;
}

function offerSources() {
  const names = Object.keys(state.about.sources);
  one("sources").replaceChildren(
    ...names.map((name) =>
      chip(state.about.sources[name].title, {
        pressed: state.sources.includes(name),
        onclick: () => {
          state.sources = names.filter((other) => chosen(state.sources, name, true).includes(other));
          offerSources();
          offerMethods();
          choose(state.image);
        },
      }),
    ),
  );
}

function offerClasses() {
  one("classes").replaceChildren(
    ...state.classes.map((each, at) =>
      chip(each.name, {
        pressed: state.categories.includes(each.index),
        key: at < 9 ? String(at + 1) : "",
        number: each.probability === undefined ? "" : each.probability.toFixed(2),
        title: `category ${each.index}`,
        onclick: (event) => chooseClass(each.index, event.shiftKey || one("several").checked),
      }),
    ),
  );
  one("other-class").hidden = !state.about.sources[state.sources[0]].live;
}

function chooseClass(index, beside) {
  state.categories = chosen(state.categories, index, beside);
  offerClasses();
  draw();
}

function methodsThere() {
  const found = new Map();
  for (const name of state.sources) for (const method of state.about.sources[name].methods) found.set(method.name, method);
  return [...found.values()];
}

function offerMethods() {
  const there = methodsThere();
  const offer = (method) =>
    chip(method.name, {
      pressed: state.methods.includes(method.name),
      number: method.slow ? "slow" : "",
      title: method.cost ? `${method.family}; ${method.cost} forwards` : method.family,
      onclick: () => {
        state.methods = chosen(state.methods, method.name, true);
        offerMethods();
        draw();
      },
    });
  const near = there.length <= 8 ? there : there.filter((each) => SIX.includes(each.name));
  one("methods").replaceChildren(...near.map(offer));
  const others = there.filter((each) => !near.includes(each));
  one("more").hidden = !others.length;
  one("families").replaceChildren(
    ...[...new Set(others.map((each) => each.family))].flatMap((family) => [
      make("h3", {}, family),
      make("ul", { class: "chips" }, ...others.filter((each) => each.family === family).map(offer)),
    ]),
  );
}

function nextMethod(by) {
  const names = methodsThere().map((each) => each.name);
  const at = names.indexOf(state.methods[0]);
  state.methods = [names[(at + by + names.length) % names.length]];
  offerMethods();
  say(`method ${state.methods[0]}`);
  draw();
}

async function findLayers(signal) {
  const source = state.sources.find((name) => state.about.sources[name].live);
  one("layer-field").hidden = one("smoothing").hidden = !source;
  if (!source) return;
  const found = await ask("/api/layers", { source, image: state.image, whole: one("whole").checked }, { signal });
  state.layers = found.layers;
  state.default = found.default;
  if (state.layer && !state.layers.some((each) => each.name === state.layer)) state.layer = null;
  showLayer(found.problem);
}

function showLayer(problem = "") {
  const { layers } = state;
  const name = state.layer ?? state.default;
  const at = layers.findIndex((each) => each.name === name);
  const slider = one("layer");
  slider.max = Math.max(0, layers.length - 1);
  slider.disabled = !layers.length;
  slider.value = Math.max(0, at);
  const layer = layers[at];
  let text = problem || (layers.length ? "default" : "no layer has a grid");
  if (layer) {
    const places = layer.grid[0] * layer.grid[1];
    const live = layer.live ? `live at ${layer.live_places} of ${places} places` : "dead: the score doesn't depend on it";
    text = `${layer.name}: ${layer.type}, grid ${layer.grid.join("x")}, ${live}${state.layer ? "" : " (default)"}`;
  }
  one("layer-name").textContent = text;
  slider.setAttribute("aria-valuetext", text);
}

let waiting = null;
function layerMoved() {
  state.layer = state.layers[Number(one("layer").value)]?.name ?? null;
  showLayer();
  clearTimeout(waiting);
  waiting = setTimeout(draw, 120);
}

// Maps

function look() {
  const { about } = state;
  return {
    alpha: Number(one("alpha").value),
    colormap: one("colormap").value,
    table: bytes(about.colormaps[one("colormap").value]),
    concepts: about.concepts,
    signed: one("signed").checked,
    original: one("original").checked,
  };
}

/** What is shown, card by card: sources by methods by classes, and differences. */
function wanted() {
  const found = [];
  const smooth = { eigen_smooth: one("eigen").checked, aug_smooth: one("aug").checked };
  for (const name of state.methods) {
    for (const source of state.sources) {
      const method = state.about.sources[source].methods.find((each) => each.name === name);
      if (!method) continue;
      const categories = method.concepts || !state.categories.length ? [state.categories[0] ?? null] : state.categories;
      for (const category of method.asks_for_class ? categories : categories.slice(0, 1)) {
        const layers = state.layer && method.takes_layers && state.about.sources[source].live ? [state.layer] : [];
        found.push({ source, image: state.image, method: name, category, layers, ...smooth });
      }
    }
  }
  return found.slice(0, CARDS);
}

function pairs(views) {
  if (!one("difference").checked) return [];
  const found = [];
  for (const first of views) {
    for (const second of views.slice(views.indexOf(first) + 1)) {
      const differing = ["source", "method", "category"].filter((name) => first[name] !== second[name]);
      if (differing.length === 1 && differing[0] !== "method") found.push([first, second]);
    }
  }
  return found.slice(0, CARDS);
}

async function draw() {
  if (!state.image || !Object.keys(state.seen).length) return;
  const views = wanted();
  for (const card of cards) card.stop();
  const made = new Map();
  cards = views.map((view) => {
    const card = new Card(context, { view, title: view.method, about: asks(view) ? className(view.category) : "", source: titleOf(view.source) });
    made.set(view, card);
    return card;
  });
  const differences = pairs(views).map(([first, second]) => {
    const changed = first.category === second.category ? [titleOf(first.source), titleOf(second.source)] : [className(first.category), className(second.category)];
    return new Card(context, { view: first, title: `${first.method}: difference`, about: `${changed[0]} less ${changed[1]}`, source: "", of: [made.get(first), made.get(second)] });
  });
  cards.push(...differences);
  one("cards").replaceChildren(...cards.map((card) => card.element));
  for (const card of cards) await card.load();
}

function repaint() {
  one("alpha-value").textContent = Number(one("alpha").value).toFixed(2);
  for (const card of cards) card.paint();
}

const asks = (view) => state.about.sources[view.source].methods.find((each) => each.name === view.method).asks_for_class;
const className = (index) => (index === null ? "" : (state.classes.find((each) => each.index === index)?.name ?? `category ${index}`));
const titleOf = (source) => (Object.keys(state.about.sources).length > 1 ? state.about.sources[source].title : "");

/** What cards need of the rest. */
const context = {
  look,
  maps,
  say,
  told,
  make,
  seen: (source) => state.seen[source],
  isLive: (source) => state.about.sources[source].live,
  read: (x, y) => cards.forEach((card) => card.read(x, y)),
  leave: () => cards.forEach((card) => card.leave()),
  showPlace,
  showCommand,
};

function told(said) {
  if (said.event === "waiting") return `waiting for the model, ${said.ahead} ahead`;
  return said.total ? `${said.done} of ${said.total}` : "working";
}

function showPlace(view, found) {
  one("place").hidden = false;
  const where = `Row ${found.row + 1}, column ${found.column + 1} of ${found.grid.join(" x ")} at ${found.layer}.`;
  one("place-about").textContent = `${where} By how much each class's score falls when the layer is zero at this place alone: the classes that lose most.`;
  const most = Math.max(...found.classes.map((each) => Math.abs(each.lost)), 1e-9);
  one("place-classes").replaceChildren(
    ...found.classes.map((each) =>
      make(
        "li",
        {},
        make("span", {}, each.name),
        make("meter", { min: 0, max: most, value: Math.max(0, each.lost), "aria-label": `loss of ${each.name}` }),
        make("span", { class: "number" }, each.lost.toFixed(3)),
      ),
    ),
  );
  say(`this place speaks for ${found.classes[0]?.name ?? "no class"}`);
}

async function showCommand(view, text) {
  one("command").hidden = false;
  one("command-text").textContent = text;
  let note = "Copied. ";
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    note = "Select and copy it: this browser lets no page copy here. ";
  }
  if (view.image.startsWith("upload:")) note += "The picture was dropped here: run it in the folder that the file is in.";
  one("command-note").textContent = note;
  say(note);
}

// What people do

function listen() {
  one("file").addEventListener("change", (event) => take([...event.target.files]));
  one("file").addEventListener("focus", () => one("drop").classList.add("focused"));
  one("file").addEventListener("blur", () => one("drop").classList.remove("focused"));
  one("page-back").addEventListener("click", () => page(-PAGE));
  one("page-on").addEventListener("click", () => page(PAGE));
  one("choice").addEventListener("submit", async (event) => {
    event.preventDefault();
    state.offset = 0;
    if ((await list()) && state.given) choose(state.entries[state.entries.length - state.given].id);
  });
  one("other-class").addEventListener("submit", addClass);
  one("several").addEventListener("change", () => {
    if (!one("several").checked) chooseClass(state.categories[0], false);
  });
  one("layer").addEventListener("input", layerMoved);
  one("layer-default").addEventListener("click", () => {
    state.layer = null;
    showLayer();
    draw();
  });
  one("whole").addEventListener("change", () => findLayers(work.signal).catch(complain));
  for (const id of ["eigen", "aug", "signed", "difference"]) one(id).addEventListener("change", draw);
  one("alpha").addEventListener("input", repaint);
  one("colormap").addEventListener("change", repaint);
  document.addEventListener("keydown", pressed);
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", () => document.body.classList.remove("dropping"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    take([...event.dataTransfer.files]);
  });
}

async function addClass(event) {
  event.preventDefault();
  const text = one("category").value.trim();
  if (!text) return;
  try {
    const found = await send("/api/category", { source: state.sources[0], text });
    if (!state.classes.some((each) => each.index === found.index)) state.classes.push(found);
    one("category").value = "";
    one("problem").hidden = true;
    chooseClass(found.index, one("several").checked);
  } catch (error) {
    complain(error);
  }
}

function pressed(event) {
  const target = event.target;
  const typing = target.matches("input:not([type=checkbox]), select, textarea, canvas, pre");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const digit = /^Digit([1-9])$/.exec(event.code)?.[1] ?? (/^[1-9]$/.test(event.key) ? event.key : null);
  if (event.key === "ArrowRight") step(1);
  else if (event.key === "ArrowLeft") step(-1);
  else if (event.key === "m") nextMethod(1);
  else if (event.key === "M") nextMethod(-1);
  else if (digit && state.classes[digit - 1]) chooseClass(state.classes[digit - 1].index, event.shiftKey);
  else return;
  event.preventDefault();
}

start();
