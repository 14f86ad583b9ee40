// Maps to colours, as camkit's overlay makes them: alpha of the heat plus the rest of the picture, the brightest value white.

import { bytes } from "./ask.js";

/** Numbers as the server sends them: float32, little-endian, in base64. */
export function floats(text) {
  const raw = bytes(text);
  const view = new DataView(raw.buffer);
  return Float32Array.from({ length: raw.length / 4 }, (_, at) => view.getFloat32(4 * at, true));
}

/** The colour of one map's value, red, green and blue in 0 to 1, is written to `into`. */
function heat(map, table) {
  return (at, into) => {
    const level = 3 * Math.min(255, Math.max(0, Math.trunc(Math.fround(255 * map[at]))));
    for (let channel = 0; channel < 3; channel++) into[channel] = table[level + channel] / 255;
  };
}

const FOR = [0.84, 0.1, 0.11];
const AGAINST = [0.1, 0.35, 0.95];

/** Values of both signs over the picture in grey, which takes no side; the largest has the full colour. */
function signs(made, picture, shown, look) {
  const most = largest(shown.map) || 1;
  const cover = Math.min(1, 1.7 * look.alpha) / most;
  const { width, height, data } = picture;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const at = 4 * (y * width + x);
      const value = shown.map[y * shown.width + x];
      const colour = value < 0 ? AGAINST : FOR;
      const share = cover * Math.abs(value);
      const grey = 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
      for (let channel = 0; channel < 3; channel++) made.data[at + channel] = 255 * share * colour[channel] + (1 - share) * grey;
      made.data[at + 3] = 255;
    }
  }
}

/** The strongest of several maps gives the colour, its value the strength. */
function concepts(maps, size, count, colours) {
  return (at, into) => {
    let owner = 0;
    for (let each = 1; each < count; each++) if (maps[each * size + at] > maps[owner * size + at]) owner = each;
    const strength = maps[owner * size + at];
    for (let channel = 0; channel < 3; channel++) into[channel] = (strength * colours[owner % colours.length][channel]) / 255;
  };
}

export function largest(map) {
  let most = 0;
  for (const each of map) most = Math.max(most, Math.abs(each));
  return most;
}

/**
 * Draw a map over a picture.
 *
 * @param canvas where to.
 * @param picture ImageData of what the network saw.
 * @param shown {kind, map, width, height, count}; kind is heat, signed, concepts or saliency. The map may reach beyond
 *   the picture at the right and the bottom, where the input was padded.
 * @param look {alpha, table, concepts}.
 */
export function paint(canvas, picture, shown, look) {
  const { width, height } = picture;
  canvas.width = width;
  canvas.height = height;
  const made = new ImageData(width, height);
  if (shown.kind === "saliency") saliency(made, shown);
  else if (shown.kind === "signed") signs(made, picture, shown, look);
  else blend(made, picture, shown, look);
  canvas.getContext("2d").putImageData(made, 0, 0);
}

function blend(made, picture, shown, look) {
  const size = shown.width * shown.height;
  const colour = {
    heat: () => heat(shown.map, look.table),
    concepts: () => concepts(shown.map, size, shown.count, look.concepts),
  }[shown.kind]();
  const { width, height, data } = picture;
  const mixed = new Float32Array(3 * width * height);
  const hot = [0, 0, 0];
  let most = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const at = y * width + x;
      colour(y * shown.width + x, hot);
      for (let channel = 0; channel < 3; channel++) {
        const value = look.alpha * hot[channel] + (1 - look.alpha) * (data[4 * at + channel] / 255);
        mixed[3 * at + channel] = value;
        if (value > most) most = value;
      }
    }
  }
  most = most || 1;
  for (let at = 0; at < width * height; at++) {
    for (let channel = 0; channel < 3; channel++) made.data[4 * at + channel] = Math.trunc(255 * (mixed[3 * at + channel] / most));
    made.data[4 * at + 3] = 255;
  }
}

/** White on black, without the picture; the brightest hundredth is white. */
function saliency(made, shown) {
  const sorted = Float32Array.from(shown.map).sort();
  const place = 0.99 * (sorted.length - 1);
  const low = Math.floor(place);
  const high = Math.min(low + 1, sorted.length - 1);
  const top = sorted[low] + (sorted[high] - sorted[low]) * (place - low) || sorted[sorted.length - 1] || 1;
  for (let y = 0; y < made.height; y++) {
    for (let x = 0; x < made.width; x++) {
      const grey = Math.trunc(255 * Math.min(1, Math.max(0, shown.map[y * shown.width + x] / top)));
      made.data.set([grey, grey, grey, 255], 4 * (y * made.width + x));
    }
  }
}
