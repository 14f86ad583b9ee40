// A map with its heading, what the pointer reads in it, and what can be done with it.

import { ask, bytes, send } from "./ask.js";
import { floats, largest, paint } from "./paint.js";

export class Card {
  #context;
  #stopping = new AbortController();
  #shown = null;
  #place = null; // the keyboard's, in pixels of the picture

  /**
   * @param context what the page gives.
   * @param view which map.
   * @param title, about, source the heading's parts.
   * @param of the two cards whose difference this is.
   */
  constructor(context, { view, title, about, source, of = null }) {
    const { make } = context;
    this.#context = context;
    this.view = view;
    this.of = of;
    this.canvas = make("canvas", { width: 1, height: 1, tabindex: "0", role: "button", "aria-label": `Map of ${[title, about].filter(Boolean).join(", ")}. Arrows move the place, Enter asks what it speaks for.` });
    this.about = make("p", { class: "muted small about" }, "waiting");
    this.reading = make("output", { class: "small reading" });
    this.progress = make("progress", { hidden: true, "aria-label": "Progress" });
    this.stopper = make("button", { type: "button", hidden: true, onclick: () => this.stop() }, "Stop");
    this.actions = make("div", { class: "actions", hidden: true });
    if (!of) {
      this.actions.append(
        this.#action("Copy as command", () => this.#command()),
        this.#action("Picture", () => this.#download("/api/picture", "png")),
        this.#action("Raw map", () => this.#download("/api/raw", "npz")),
      );
    }
    this.element = make(
      "li",
      { class: "card" },
      make("h3", {}, title, make("span", { class: "class" }, about), source ? make("span", { class: "mark" }, source) : null),
      this.canvas,
      this.reading,
      this.about,
      this.progress,
      this.stopper,
      this.actions,
    );
    this.#listen();
  }

  #action(text, onclick) {
    return this.#context.make("button", { type: "button", onclick }, text);
  }

  /** End what is going on. */
  stop() {
    this.#stopping.abort();
  }

  /** Ask for the map, and show it. */
  async load() {
    if (this.#stopping.signal.aborted) return;
    try {
      this.#shown = this.of ? difference(...this.of.map((card) => card.#shown)) : await this.#fetch();
      if (this.#stopping.signal.aborted) return;
      this.actions.hidden = Boolean(this.of);
      this.element.dataset.state = "shown";
      this.paint();
    } catch (error) {
      const stopped = error.name === "AbortError";
      this.about.textContent = stopped ? "stopped" : error.message;
      this.about.classList.toggle("bad", !stopped);
      this.about.classList.toggle("muted", stopped);
      this.element.dataset.state = stopped ? "stopped" : "failed";
    }
    this.progress.hidden = this.stopper.hidden = true;
  }

  async #fetch() {
    const { maps, told } = this.#context;
    const signed = this.#context.look().signed;
    const key = JSON.stringify([this.view, signed]);
    const known = maps.find(key);
    if (known) return known;
    const news = (said) => {
      this.about.textContent = told(said);
      this.stopper.hidden = false;
      this.progress.hidden = !said.total;
      if (said.total) Object.assign(this.progress, { max: said.total, value: said.done });
    };
    const found = await ask("/api/map", { ...this.view, signed }, { signal: this.#stopping.signal, news });
    const map = floats(found.maps);
    return maps.keep(key, { ...found, map, values: found.signed ? floats(found.signed) : null });
  }

  #say() {
    if (this.#shown) this.about.textContent = this.#told();
  }

  #told() {
    const { layers, grid, notes, seconds, classes, asks_for_class: asks } = this.#shown;
    if (this.of) return `from -${this.#shown.most.toFixed(2)} to ${this.#shown.most.toFixed(2)}`;
    const where = layers.length > 3 ? `${layers[0]} to ${layers.at(-1)} (${layers.length})` : layers.join(", ");
    const parts = [where && `${where}${grid.length ? `, grid ${grid.join("x")}` : ""}`];
    if (this.#shown.kind === "concepts") parts.push(`concepts: ${classes.map((each) => each.name).join(", ")}`);
    else if (!asks) parts.push("asks for no class");
    const signed = this.#context.look().signed && this.#shown.values && this.#shown.kind === "heat";
    if (signed) parts.push(`from ${least(this.#shown.values).toFixed(3)} to ${most(this.#shown.values).toFixed(3)}; picture and command show the map without signs`);
    parts.push(`${seconds < 1 ? `${Math.round(1000 * seconds)} ms` : `${seconds.toFixed(1)} s`}`, ...notes);
    return parts.filter(Boolean).join("; ");
  }

  /** Draw anew, with other colours. */
  paint() {
    this.#say();
    const seen = this.#context.seen(this.view.source);
    if (!this.#shown || !seen) return;
    const look = this.#context.look();
    const { kind, map, values, width, height, count } = this.#shown;
    const asSigned = kind === "difference" || (look.signed && values && kind === "heat");
    const shown = { kind: asSigned ? "signed" : kind, map: asSigned && kind !== "difference" ? values : map, width, height, count };
    paint(this.canvas, seen.data, shown, look);
  }

  // Pointing

  #listen() {
    const at = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return [((event.clientX - box.left) / box.width) * this.canvas.width, ((event.clientY - box.top) / box.height) * this.canvas.height];
    };
    this.canvas.addEventListener("pointermove", (event) => this.#context.read(...at(event)));
    this.canvas.addEventListener("pointerleave", () => this.#context.leave());
    this.canvas.addEventListener("click", (event) => event.detail && this.#ask(...at(event)));
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  #key(event) {
    const [across, down] = this.#shown?.grid?.length === 2 ? [this.canvas.width / this.#shown.grid[1], this.canvas.height / this.#shown.grid[0]] : [8, 8];
    const moves = { ArrowLeft: [-across, 0], ArrowRight: [across, 0], ArrowUp: [0, -down], ArrowDown: [0, down] };
    const [x, y] = this.#place ?? [this.canvas.width / 2, this.canvas.height / 2];
    if (moves[event.key]) {
      const [dx, dy] = moves[event.key];
      this.#place = [Math.min(this.canvas.width - 1, Math.max(0, x + dx)), Math.min(this.canvas.height - 1, Math.max(0, y + dy))];
      this.#context.read(...this.#place);
      this.#context.say(this.reading.textContent);
    } else if (event.key === "Enter" || event.key === " ") this.#ask(x, y);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Say the value at a place of the picture. */
  read(x, y) {
    if (!this.#shown) return;
    const { map, values, width, height, kind, count, grid } = this.#shown;
    const [column, row] = [Math.trunc(x), Math.trunc(y)];
    if (column < 0 || row < 0 || column >= width || row >= height) return this.leave();
    const at = row * width + column;
    const signed = this.#context.look().signed && values;
    const found = kind === "concepts" ? Array.from({ length: count }, (_, each) => map[each * width * height + at]) : [signed ? values[at] : map[at]];
    const cell = grid?.length === 2 ? `, row ${Math.trunc((row / height) * grid[0]) + 1}, column ${Math.trunc((column / width) * grid[1]) + 1} of the layer` : "";
    this.reading.textContent = `${found.map((each) => each.toFixed(4)).join(", ")} at x ${column}, y ${row}${cell}`;
    this.reading.dataset.value = found.join(" ");
  }

  leave() {
    this.reading.textContent = "";
  }

  async #ask(x, y) {
    const { showPlace, say, told, isLive } = this.#context;
    if (!this.#shown || this.of || !isLive(this.view.source)) return;
    const { width, height } = this.#shown;
    const at = { x: Math.min(1, Math.max(0, x / width)), y: Math.min(1, Math.max(0, y / height)) };
    try {
      showPlace(this.view, await ask("/api/place", { ...this.view, ...at }, { news: (said) => say(told(said)) }));
    } catch (error) {
      this.about.textContent = error.message;
    }
  }

  // Taking along

  #styled() {
    const look = this.#context.look();
    return { ...this.view, colormap: look.colormap, alpha: look.alpha, original_size: look.original };
  }

  async #command() {
    try {
      const { command } = await send("/api/command", this.#styled());
      await this.#context.showCommand(this.view, command);
    } catch (error) {
      this.about.textContent = error.message;
    }
  }

  async #download(path, suffix) {
    const { make, say, told } = this.#context;
    try {
      const body = suffix === "png" ? this.#styled() : this.view;
      const { file, type } = await ask(path, body, { news: (said) => say(told(said)) });
      const address = URL.createObjectURL(new Blob([bytes(file)], { type }));
      const category = this.view.category === null ? "" : `-${this.view.category}`;
      const link = make("a", { href: address, download: `camkit-${this.view.method}${category}.${suffix}` });
      document.body.append(link);
      link.click();
      link.remove();
      setTimeout(() => URL.revokeObjectURL(address), 10000);
    } catch (error) {
      this.about.textContent = error.message;
    }
  }
}

const least = (map) => map.reduce((one, other) => Math.min(one, other));
const most = (map) => map.reduce((one, other) => Math.max(one, other));

/** What one map has that another hasn't: of signed values where both have them. */
function difference(first, second) {
  if (!first || !second) throw new Error("one of the two maps isn't there");
  if (first.width !== second.width || first.height !== second.height || first.kind !== "heat" || second.kind !== "heat") {
    throw new Error("these maps have no difference");
  }
  const [one, other] = first.values && second.values ? [first.values, second.values] : [first.map, second.map];
  const map = one.map((each, at) => each - other[at]);
  return { ...first, kind: "difference", map, values: null, most: largest(map) };
}
