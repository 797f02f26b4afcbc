// Drawings of single objects at the resolution of the image. Each is made once and kept as long as its shape.

import { differing, ends, filled, inWindow, outlines } from "./masks.js";

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

const visibleEnds = (shape) => kept(shape, "visible ends", () => ends(shape.visible));
const amodalEnds = (shape) => kept(shape, "amodal ends", () => ends(shape.amodal));

/** The masks { visible, amodal } of an object, in one window. */
export const masksOf = (shape) => kept(shape, "masks", () => {
  const [visible, amodal] = [filled(visibleEnds(shape)), filled(amodalEnds(shape))];
  const some = [visible, amodal].filter((mask) => mask.w);
  if (!some.length) return { visible, amodal };
  const x = Math.min(...some.map((mask) => mask.x));
  const y = Math.min(...some.map((mask) => mask.y));
  const w = Math.max(...some.map((mask) => mask.x + mask.w)) - x;
  const h = Math.max(...some.map((mask) => mask.y + mask.h)) - y;
  return { visible: inWindow(visible, x, y, w, h), amodal: inWindow(amodal, x, y, w, h) };
});

/** A transparent canvas of a window, whose pixels `paint(words)` sets, one (a, b, g, r) word per pixel. */
function painted({ w, h }, paint) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(w, 1);
  canvas.height = Math.max(h, 1);
  if (!w) return canvas;
  const pen = canvas.getContext("2d");
  const pixels = pen.createImageData(w, h);
  paint(new Uint32Array(pixels.data.buffer));
  pen.putImageData(pixels, 0, 0);
  return canvas;
}

/** Call `run(from, to, row, start)` for the runs of each row of a window; `start` is the index of pixel `from`. */
function eachRun({ x, y, w, h }, ofRow, run) {
  for (let row = y; row < y + h; row += 1) {
    const own = ofRow(row);
    for (let i = 0; i < own.length; i += 2) run(own[i], own[i + 1], row, (row - y) * w + own[i] - x);
  }
}

const rgb = (colour) => {
  const value = parseInt(colour.slice(1), 16);
  return ((value & 255) << 16) | (value & 0xff00) | (value >> 16); // canvases store blue in the higher byte
};
const withAlpha = (word, alpha) => ((alpha << 24) | word) >>> 0;

/** Period of the hatching in image pixels: about as wide on the screen for every size of image. */
const period = (shape) => Math.max(Math.round(Math.max(...shape.visible.size) / 55), 5);

/** Hatch the occluded pixels. */
function hatch(words, shape, word) {
  const { amodal } = masksOf(shape);
  const step = period(shape);
  const stripe = Math.max(Math.round(step / 3), 2);
  const pattern = Uint32Array.from({ length: amodal.w + step }, (_, i) => withAlpha(word, i % step < stripe ? STRIPE_ALPHA : OCCLUDED_ALPHA));
  const occluded = (row) => differing(amodalEnds(shape).rows[row], visibleEnds(shape).rows[row]);
  eachRun(amodal, occluded, (from, to, row, start) => {
    const phase = (from + row) % step;
    words.set(pattern.subarray(phase, phase + to - from), start);
  });
}

function fillVisible(words, shape, word) {
  eachRun(masksOf(shape).visible, (row) => visibleEnds(shape).rows[row], (from, to, _, start) => words.fill(word, start, start + to - from));
}

/** Visible pixels filled, occluded pixels hatched. */
export const overlay = (shape, colour) => kept(shape, `overlay ${colour}`, () => painted(masksOf(shape).amodal, (words) => {
  fillVisible(words, shape, withAlpha(rgb(colour), VISIBLE_ALPHA));
  hatch(words, shape, rgb(colour));
}));

/** One flat colour where the visible mask is. */
export const flat = (shape, colour) => kept(shape, `flat ${colour}`, () => painted(masksOf(shape).visible, (words) => {
  fillVisible(words, shape, withAlpha(rgb(colour), 255));
}));

/** The object alone: its pixels of the image where it is visible, and hatching where it is not. */
export const cutOut = (shape, colour, image, [H, W]) => kept(shape, `cut ${colour}`, () => {
  const { visible } = masksOf(shape);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [Math.max(visible.w, 1), Math.max(visible.h, 1)];
  const pen = canvas.getContext("2d");
  pen.drawImage(flat(shape, colour), 0, 0);
  pen.globalCompositeOperation = "source-in";
  pen.drawImage(image, -visible.x, -visible.y, W, H);
  pen.globalCompositeOperation = "source-over";
  pen.drawImage(painted(visible, (words) => hatch(words, shape, rgb(colour))), 0, 0);
  return canvas;
});

function pathOf(lines) {
  const path = new Path2D();
  for (const [[x, y], ...others] of lines) {
    path.moveTo(x, y);
    for (const corner of others) path.lineTo(corner[0], corner[1]);
    path.closePath();
  }
  return path;
}

export const visibleOutline = (shape) => kept(shape, "visible outline", () => pathOf(outlines(visibleEnds(shape))));
export const amodalOutline = (shape) => kept(shape, "amodal outline", () => pathOf(outlines(amodalEnds(shape))));

const HEAT = [[20, 11, 53], [101, 21, 110], [187, 55, 84], [249, 142, 9], [252, 255, 164]]; // dark: certain

/** The uncertainty of an object as a heat map; null for an object without one, such as an answer. */
export const heat = (shape) => kept(shape, "heat", () => {
  if (!shape.uncertainty) return null;
  const [h, w] = shape.uncertainty.size;
  const values = Uint8Array.from(atob(shape.uncertainty.values), (character) => character.charCodeAt(0));
  return painted({ w, h }, (words) => values.forEach((value, i) => {
    const place = (value / 255) * (HEAT.length - 1);
    const [low, high] = [HEAT[Math.floor(place)], HEAT[Math.ceil(place)]];
    const [r, g, b] = low.map((channel, k) => Math.round(channel + (high[k] - channel) * (place % 1)));
    const alpha = Math.round(Math.sqrt(value / 255) * 230); // the root makes small uncertainties visible
    words[i] = withAlpha((b << 16) | (g << 8) | r, alpha);
  }));
});
