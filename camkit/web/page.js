// What the page's scripts share: what is chosen, elements, and lines that are said.

export const one = (id) => document.getElementById(id);

export const state = {
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

/** An element with attributes and children; strings become text. */
export function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") made.addEventListener("click", value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((each) => each !== null && each !== ""));
  return made;
}

export function complain(error) {
  if (error.name === "AbortError") return;
  one("problem").textContent = error.message;
  one("problem").hidden = false;
}

export function say(line) {
  one("status").textContent = line;
}

export function told(said) {
  if (said.event === "waiting") return `waiting for the model, ${said.ahead} ahead`;
  return said.total ? `${said.done} of ${said.total}` : "working";
}

export const className = (index) => (index === null ? "" : (state.classes.find((each) => each.index === index)?.name ?? `category ${index}`));
