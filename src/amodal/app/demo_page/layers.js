// Drawings of single objects at the resolution of the image. Each is made once and kept as long as its shape.

import { decode, inWindow } from "./masks.js";

const VISIBLE_ALPHA = 115; // of 255
const OCCLUDED_ALPHA = 45;
const STRIPE_ALPHA = 235;
export const UNKNOWN = "#8f8f8f"; // what is behind a removed object was never seen

const known = new WeakMap(); // shape → Map(kind → drawing)

function kept(shape, kind, make) {
  if (!known.has(shape)) known.set(shape, new Map());
  const drawings = known.get(shape);
  if (!drawings.has(kind)) drawings.set(kind, make());
  return drawings.get(kind);
}

/** The masks { visible, amodal } of an object, in one window. */
export const masksOf = (shape) => kept(shape, "masks", () => {
  const [visible, amodal] = [decode(shape.visible), decode(shape.amodal)];
  const some = [visible, amodal].filter((mask) => mask.w);
  if (!some.length) return { visible, amodal };
  const x = Math.min(...some.map((mask) => mask.x));
  const y = Math.min(...some.map((mask) => mask.y));
  const w = Math.max(...some.map((mask) => mask.x + mask.w)) - x;
  const h = Math.max(...some.map((mask) => mask.y + mask.h)) - y;
  return { visible: inWindow(visible, x, y, w, h), amodal: inWindow(amodal, x, y, w, h) };
});

/** A canvas whose pixels (r, g, b, a) come from `colourAt(index, x, y)` of the window; null is transparent. */
function painted({ w, h, x, y }, colourAt) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(w, 1);
  canvas.height = Math.max(h, 1);
  if (!w) return canvas;
  const pen = canvas.getContext("2d");
  const pixels = pen.createImageData(w, h);
  const words = new Uint32Array(pixels.data.buffer);
  for (let row = 0, i = 0; row < h; row += 1) {
    for (let column = 0; column < w; column += 1, i += 1) words[i] = colourAt(i, x + column, y + row);
  }
  pen.putImageData(pixels, 0, 0);
  return canvas;
}

const rgb = (colour) => {
  const value = parseInt(colour.slice(1), 16);
  return ((value & 255) << 16) | (value & 0xff00) | (value >> 16); // canvases store blue in the higher byte
};
const withAlpha = (word, alpha) => ((alpha << 24) | word) >>> 0;

/** Period of the hatching in image pixels: about as wide on the screen for every size of image. */
const period = (shape) => Math.max(Math.round(Math.max(...shape.visible.size) / 55), 5);

const hatch = (shape, word) => {
  const step = period(shape);
  const stripe = Math.max(Math.round(step / 3), 2);
  return (x, y) => withAlpha(word, (x + y) % step < stripe ? STRIPE_ALPHA : OCCLUDED_ALPHA);
};

/** Visible pixels filled, occluded pixels hatched. */
export const overlay = (shape, colour) => kept(shape, `overlay ${colour}`, () => {
  const { visible, amodal } = masksOf(shape);
  const word = rgb(colour);
  const stripes = hatch(shape, word);
  return painted(amodal, (i, x, y) => {
    if (visible.bits[i]) return withAlpha(word, VISIBLE_ALPHA);
    return amodal.bits[i] ? stripes(x, y) : 0;
  });
});

/** One flat colour where the visible mask is. */
export const flat = (shape, colour) => kept(shape, `flat ${colour}`, () => {
  const { visible } = masksOf(shape);
  const word = withAlpha(rgb(colour), 255);
  return painted(visible, (i) => (visible.bits[i] ? word : 0));
});

/** The object alone: its pixels of the image where it is visible, and hatching where it is not. */
export const cutOut = (shape, colour, image, [H, W]) => kept(shape, `cut ${colour}`, () => {
  const { visible, amodal } = masksOf(shape);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [Math.max(visible.w, 1), Math.max(visible.h, 1)];
  const pen = canvas.getContext("2d");
  pen.drawImage(flat(shape, colour), 0, 0);
  pen.globalCompositeOperation = "source-in";
  pen.drawImage(image, -visible.x, -visible.y, W, H);
  pen.globalCompositeOperation = "source-over";
  const stripes = hatch(shape, rgb(colour));
  pen.drawImage(painted(amodal, (i, x, y) => (amodal.bits[i] && !visible.bits[i] ? stripes(x, y) : 0)), 0, 0);
  return canvas;
});

/** The edges between the pixels of a mask and the others, as a path in image pixels. */
function outline({ x, y, w, h, bits }) {
  const path = new Path2D();
  const at = (column, row) => (column >= 0 && row >= 0 && column < w && row < h ? bits[row * w + column] : 0);
  for (let row = 0; row <= h; row += 1) {
    for (let column = 0; column < w; column += 1) {
      const from = column;
      while (column < w && at(column, row) !== at(column, row - 1)) column += 1;
      if (column > from) { path.moveTo(x + from, y + row); path.lineTo(x + column, y + row); }
    }
  }
  for (let column = 0; column <= w; column += 1) {
    for (let row = 0; row < h; row += 1) {
      const from = row;
      while (row < h && at(column, row) !== at(column - 1, row)) row += 1;
      if (row > from) { path.moveTo(x + column, y + from); path.lineTo(x + column, y + row); }
    }
  }
  return path;
}

export const visibleOutline = (shape) => kept(shape, "visible outline", () => outline(masksOf(shape).visible));
export const amodalOutline = (shape) => kept(shape, "amodal outline", () => outline(masksOf(shape).amodal));

const HEAT = [[20, 11, 53], [101, 21, 110], [187, 55, 84], [249, 142, 9], [252, 255, 164]]; // dark: certain

/** The uncertainty of an object as a heat map; null for an object without one, such as an answer. */
export const heat = (shape) => kept(shape, "heat", () => {
  if (!shape.uncertainty) return null;
  const [h, w] = shape.uncertainty.size;
  const values = Uint8Array.from(atob(shape.uncertainty.values), (character) => character.charCodeAt(0));
  return painted({ x: 0, y: 0, w, h }, (i) => {
    const place = (values[i] / 255) * (HEAT.length - 1);
    const [low, high] = [HEAT[Math.floor(place)], HEAT[Math.ceil(place)]];
    const [r, g, b] = low.map((value, k) => Math.round(value + (high[k] - value) * (place % 1)));
    const alpha = Math.round(Math.sqrt(values[i] / 255) * 230); // the root makes small uncertainties visible
    return withAlpha((b << 16) | (g << 8) | r, alpha);
  });
});
