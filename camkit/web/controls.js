// Models, classes, methods and layers to choose.

import { ask, send } from "./ask.js";
import { choose, draw } from "./explore.js";
import { complain, make, one, say, state } from "./page.js";

const SIX = ["GradCAM", "GradCAM++", "XGradCAM", "EigenCAM", "EigenGradCAM", "LayerCAM"];

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

export function offerSources() {
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

export function offerClasses() {
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

export function chooseClass(index, beside) {
  state.categories = chosen(state.categories, index, beside);
  offerClasses();
  draw();
}

function methodsThere() {
  const found = new Map();
  for (const name of state.sources) for (const method of state.about.sources[name].methods) found.set(method.name, method);
  return [...found.values()];
}

export function offerMethods() {
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

export function nextMethod(by) {
  const names = methodsThere().map((each) => each.name);
  const at = names.indexOf(state.methods[0]);
  state.methods = [names[(at + by + names.length) % names.length]];
  offerMethods();
  say(`method ${state.methods[0]}`);
  draw();
}

export async function findLayers(signal) {
  const source = state.sources.find((name) => state.about.sources[name].live);
  one("layer-field").hidden = one("smoothing").hidden = !source;
  if (!source) return;
  const found = await ask("/api/layers", { source, image: state.image, whole: one("whole").checked }, { signal });
  state.layers = found.layers;
  state.default = found.default;
  if (state.layer && !state.layers.some((each) => each.name === state.layer)) state.layer = null;
  showLayer(found.problem);
}

export function showLayer(problem = "") {
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
export function layerMoved() {
  state.layer = state.layers[Number(one("layer").value)]?.name ?? null;
  showLayer();
  clearTimeout(waiting);
  waiting = setTimeout(draw, 120);
}

export async function addClass(event) {
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
