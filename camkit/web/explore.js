// The explorer: what is chosen, what is asked for, what is shown. Whatever comes from outside goes in as text.

import { ask, bytes, get, Lately, send } from "./ask.js";
import { Card } from "./card.js";
import { addClass, chooseClass, findLayers, layerMoved, nextMethod, offerClasses, offerMethods, offerSources, showLayer } from "./controls.js";
import { className, complain, make, one, say, state, told } from "./page.js";
import { list, markImage, page, PAGE, step, take } from "./strip.js";

const CARDS = 24;

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

/** Show a picture: first what the network sees and its classes, then the layers, then maps. */
export async function choose(image, categories = []) {
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

export async function draw() {
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
