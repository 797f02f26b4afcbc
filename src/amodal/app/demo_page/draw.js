// The views of the stage: objects over the image, outlines, uncertainty, and the image after removing front objects.

import { nameOf } from "./document.js";
import { amodalOutline, flat, heat, masksOf, overlay, UNKNOWN, visibleOutline } from "./layers.js";

const DARK = "rgba(10, 10, 14, .8)";

/**
 * Draw the image and its objects; the pen's unit is a pixel of the image.
 *
 * `scene` has `image`, `size` [H, W], `objects`, `current`, `marked` (ids), `view`, `removed` (ids of removed front objects) and
 * `pixel`, the size of a screen pixel in the pen's unit.
 */
export function drawScene(pen, scene) {
  const [H, W] = scene.size;
  pen.imageSmoothingEnabled = scene.pixel > 0.5; // pixels stay sharp when they are large
  pen.drawImage(scene.image, 0, 0, W, H);
  const shown = scene.objects.filter((one) => !one.hidden && !scene.removed.has(one.id));
  if (scene.view === "image") return;
  if (scene.view === "uncertainty") return drawUncertainty(pen, scene, shown);
  for (const one of scene.objects) if (scene.removed.has(one.id)) place(pen, one.shape, flat(one.shape, UNKNOWN));
  if (scene.view === "objects") for (const one of shown) place(pen, one.shape, overlay(one.shape, one.colour));
  for (const one of shown) outlines(pen, one, scene);
  drawNames(pen, shown, scene);
}

const place = (pen, shape, layer) => {
  const { x, y, w, h } = masksOf(shape).amodal;
  if (w) pen.drawImage(layer, x, y, w, h);
};

function outlines(pen, one, { pixel, current, marked }) {
  const line = (one === current || marked.has(one.id) ? 3 : 1.75) * pixel;
  for (const [colour, width] of [[DARK, line + 2 * pixel], [one.colour, line]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.setLineDash([]);
    pen.stroke(visibleOutline(one.shape));
  }
  pen.setLineDash([6 * pixel, 4 * pixel]);
  pen.strokeStyle = one.colour;
  pen.lineWidth = line;
  pen.stroke(amodalOutline(one.shape));
  pen.setLineDash([]);
}

function drawUncertainty(pen, scene, shown) {
  const [H, W] = scene.size;
  pen.fillStyle = "rgba(16, 16, 22, .6)";
  pen.fillRect(0, 0, W, H);
  for (const one of shown) {
    const map = heat(one.shape);
    if (!map) continue;
    const [x0, y0, x1, y1] = one.shape.uncertainty.window;
    pen.imageSmoothingEnabled = true;
    pen.drawImage(map, x0, y0, x1 - x0, y1 - y0);
  }
  for (const one of shown) outlines(pen, one, { ...scene, pixel: scene.pixel * 0.6 });
  drawNames(pen, shown, scene);
}

function drawNames(pen, shown, { pixel, current, size: [H, W] }) {
  pen.font = `600 ${13 * pixel}px system-ui, sans-serif`;
  pen.textBaseline = "middle";
  const taken = [];
  for (const one of shown) {
    const { x, y, w } = masksOf(one.shape).visible;
    if (!w) continue;
    const text = nameOf(one).slice(0, 30);
    const [width, height] = [pen.measureText(text).width + 12 * pixel, 20 * pixel];
    const left = Math.max(Math.min(x, W - width), 0);
    let top = Math.max(Math.min(y - height - 2 * pixel, H - height), 0);
    const covered = ([l, t, wide]) => l < left + width && left < l + wide && Math.abs(t - top) < height;
    while (taken.some(covered) && top + 2 * height <= H) top += height + pixel;
    taken.push([left, top, width]);
    pen.fillStyle = one === current ? "#fff" : "rgba(255, 255, 255, .82)";
    pen.fillRect(left, top, width, height);
    pen.fillStyle = one.colour;
    pen.fillRect(left, top, 5 * pixel, height);
    pen.fillStyle = "#14161c";
    pen.fillText(text, left + 8 * pixel, top + height / 2);
  }
}

/** Draw the prompts of the current object and what waits for the server. */
export function drawPrompts(pen, { current, waiting, pixel }) {
  for (const prompt of [...waiting, ...(current ? [current.prompt] : [])]) {
    if (prompt.box) drawBox(pen, prompt.box, pixel);
    for (const [x, y, label] of prompt.points || []) drawPoint(pen, x, y, label, pixel);
  }
}

export function drawBox(pen, [x0, y0, x1, y1], pixel) {
  for (const [colour, width] of [[DARK, 3], ["#fff", 1.5]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = width * pixel;
    pen.setLineDash([5 * pixel, 4 * pixel]);
    pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }
  pen.setLineDash([]);
}

function drawPoint(pen, x, y, label, pixel) {
  pen.beginPath();
  pen.arc(x, y, 7 * pixel, 0, 7);
  pen.fillStyle = label ? "#12804a" : "#b3261e";
  pen.fill();
  pen.strokeStyle = "#fff";
  pen.lineWidth = 2 * pixel;
  pen.stroke();
  pen.beginPath();
  pen.moveTo(x - 3.5 * pixel, y);
  pen.lineTo(x + 3.5 * pixel, y);
  if (label) { pen.moveTo(x, y - 3.5 * pixel); pen.lineTo(x, y + 3.5 * pixel); }
  pen.stroke();
}
