// Sort, filter and page through a report. All there is stands in the page already; without this script it can be read.

const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const one = (id) => document.getElementById(id);
const number = (element, name) => Number(element.dataset[name]);

for (const toolbar of all("[data-toolbar]")) {
  toolbar.hidden = false;
  toolbar.addEventListener("submit", (event) => event.preventDefault());
}

// Cards of images

const cards = all("#images-cards > .card");
const ORDERS = {
  order: (a, b) => number(a, "order") - number(b, "order"),
  border: (a, b) => number(b, "border") - number(a, "border"),
  "label-score": (a, b) => number(a, "labelScore") - number(b, "labelScore"),
  id: (a, b) => a.dataset.id.localeCompare(b.dataset.id),
};
const controls = { sort: one("images-sort"), label: one("images-label"), predicted: one("images-predicted"), text: one("images-text") };

function filterImages() {
  const text = controls.text.value.toLowerCase();
  const label = controls.label?.value ?? "";
  const predicted = controls.predicted.value;
  let shown = 0;
  for (const card of cards) {
    const fits =
      (!label || card.dataset.label === label) &&
      (!predicted || card.dataset.predicted === predicted) &&
      card.dataset.id.toLowerCase().includes(text);
    card.hidden = !fits;
    shown += fits;
  }
  one("images-count").textContent = `${shown} of ${cards.length} shown`;
  letOneTakeFocus("#images-cards");
}

function sortImages() {
  one("images-cards").append(...cards.sort(ORDERS[controls.sort.value]));
  letOneTakeFocus("#images-cards");
}

function showPair(label, predicted) {
  if (controls.label) controls.label.value = label;
  controls.predicted.value = predicted;
  controls.text.value = "";
  filterImages();
  one("images").scrollIntoView();
  (controls.label ?? controls.predicted).focus({ preventScroll: true });
}

controls.sort.addEventListener("change", sortImages);
for (const each of [controls.label, controls.predicted]) each?.addEventListener("change", filterImages);
controls.text.addEventListener("input", filterImages);
one("images-reset").addEventListener("click", () => {
  for (const each of [controls.label, controls.predicted, controls.text]) if (each) each.value = "";
  filterImages();
});

const pairs = new Set(cards.map((card) => `${card.dataset.label} ${card.dataset.predicted}`));
for (const button of all("[data-pair-label]")) {
  const { pairLabel, pairPredicted } = button.dataset;
  if (!pairs.has(`${pairLabel} ${pairPredicted}`)) continue; // none of them is in the sample
  button.hidden = false;
  button.addEventListener("click", () => showPair(pairLabel, pairPredicted));
}

// Arrows go from image to image; Tab goes past them all.

function letOneTakeFocus(list) {
  const shown = all(`${list} > .card:not([hidden])`);
  const current = shown.find((card) => card.tabIndex === 0) ?? shown[0];
  for (const card of all(`${list} > .card`)) card.tabIndex = card === current ? 0 : -1;
}

one("images-cards").addEventListener("keydown", (event) => {
  const shown = all("#images-cards > .card:not([hidden])");
  const at = shown.indexOf(document.activeElement);
  const columns = shown.filter((card) => card.offsetTop === shown[0].offsetTop).length;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -at, End: shown.length - 1 - at };
  if (at < 0 || !(event.key in steps) || event.ctrlKey || event.altKey || event.metaKey) return;
  const next = shown[Math.min(Math.max(at + steps[event.key], 0), shown.length - 1)];
  event.preventDefault();
  shown[at].tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
});

// Tables

function sortTable(table, header) {
  const column = [...header.parentElement.children].indexOf(header);
  const descending = header.ariaSort === "ascending" || (!header.ariaSort && header.dataset.numeric === "yes");
  for (const each of all("th[aria-sort]", table)) each.removeAttribute("aria-sort");
  header.ariaSort = descending ? "descending" : "ascending";
  const value = (row) => row.children[column].dataset.value ?? "";
  const compare = header.dataset.numeric === "yes" ? (a, b) => a - b : (a, b) => a.localeCompare(b);
  const rows = [...table.tBodies[0].rows].sort((a, b) => compare(value(a), value(b)));
  table.tBodies[0].append(...(descending ? rows.reverse() : rows));
}

for (const table of all("table[data-sortable]")) {
  const rows = [...table.tBodies[0].rows];
  for (const [column, header] of [...table.tHead.rows[0].cells].entries()) {
    if ("plain" in header.dataset) continue;
    const values = rows.map((row) => row.children[column].dataset.value ?? "");
    header.dataset.numeric = column > 0 && values.every((value) => value !== "" && !Number.isNaN(Number(value))) ? "yes" : "no";
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => sortTable(table, header));
  }
}

one("classes-text").addEventListener("input", (event) => {
  const text = event.target.value.toLowerCase();
  const rows = [...one("classes-table").tBodies[0].rows];
  for (const row of rows) row.hidden = !row.children[0].dataset.value.toLowerCase().includes(text);
  one("classes-count").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} shown`;
});

// Clusters: one class at a time, the first one at the start

const groups = all(".clusters");

function showClusters() {
  const chosen = one("clusters-class").value;
  for (const group of groups) group.hidden = chosen !== "" && group.dataset.class !== chosen;
  const at = groups.findIndex((group) => group.dataset.class === chosen);
  one("clusters-count").textContent = at < 0 ? `${groups.length} classes` : `class ${at + 1} of ${groups.length}`;
}

function stepClusters(step) {
  const at = groups.findIndex((group) => group.dataset.class === one("clusters-class").value);
  one("clusters-class").value = groups[(at + step + groups.length) % groups.length].dataset.class;
  showClusters();
}

if (groups.length) {
  one("clusters-class").value = groups[0].dataset.class;
  showClusters();
  one("clusters-class").addEventListener("change", showClusters);
  one("clusters-previous").addEventListener("click", () => stepClusters(-1));
  one("clusters-next").addEventListener("click", () => stepClusters(1));
  one("clusters-sort").addEventListener("change", (event) => {
    const name = event.target.value;
    const sign = name === "accuracy" ? 1 : -1;
    for (const group of groups) {
      const list = group.querySelector(".cards");
      list.append(...[...list.children].sort((a, b) => sign * (number(a, name) - number(b, name))));
    }
  });
  addEventListener("beforeprint", () => groups.forEach((group) => (group.hidden = false)));
  addEventListener("afterprint", showClusters);
}

filterImages();
