// The image and its masks: decoding, drawing at the screen's resolution, zoom, and the object under the pointer.
import { inkOn } from "./text.js";

const DARK = "#12141a";

// Decode run lengths (off, on, off, ...; row by row) to a canvas of the mask's box, white inside the mask.
function maskCanvas(runs, width) {
  let at = 0, left = Infinity, right = -1, top = Infinity, bottom = -1, area = 0;
  runs.forEach((run, index) => {
    if (index % 2 && run) {
      const y0 = Math.floor(at / width), y1 = Math.floor((at + run - 1) / width);
      top = Math.min(top, y0);
      bottom = Math.max(bottom, y1);
      left = y1 > y0 ? 0 : Math.min(left, at % width);
      right = y1 > y0 ? width - 1 : Math.max(right, (at + run - 1) % width);
      area += run;
    }
    at += run;
  });
  if (right < 0) return null;
  const box = { x: left, y: top, w: right - left + 1, h: bottom - top + 1 };
  const canvas = newCanvas(box.w, box.h);
  const pixels = new ImageData(box.w, box.h);
  const words = new Uint32Array(pixels.data.buffer);
  at = 0;
  runs.forEach((run, index) => {
    if (index % 2) {
      for (let p = at; p < at + run; p++) words[(Math.floor(p / width) - top) * box.w + (p % width) - left] = 0xffffffff;
    }
    at += run;
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return { canvas, ...box, area, has: (x, y) => x >= left && x <= right && y >= top && y <= bottom && words[(y - top) * box.w + x - left] !== 0 };
}

function newCanvas(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.ceil(width));
  canvas.height = Math.max(1, Math.ceil(height));
  return canvas;
}

function difference(amodal, visible) {
  if (!amodal) return null;
  const canvas = newCanvas(amodal.w, amodal.h);
  const pen = canvas.getContext("2d");
  pen.drawImage(amodal.canvas, 0, 0);
  if (visible) {
    pen.globalCompositeOperation = "destination-out";
    pen.drawImage(visible.canvas, visible.x - amodal.x, visible.y - amodal.y);
  }
  return { ...amodal, canvas };
}

export class Scene {
  // image: a loaded <img>; item: the item that the server sent.
  constructor(image, item) {
    this.image = image;
    this.width = item.image.width;
    this.height = item.image.height;
    this.objects = item.objects.map((obj) => {
      const visible = maskCanvas(obj.visible, this.width), amodal = maskCanvas(obj.amodal, this.width);
      return { ...obj, visible, amodal, covered: obj.hidden > 0 ? difference(amodal, visible) : null };
    });
  }

  // Number of the smallest shown object at a point of the image, or null.
  at(x, y, view) {
    const px = Math.floor(x), py = Math.floor(y);
    const hit = this.shown(view).filter((obj) => {
      const mask = view.mode === "whole" ? obj.amodal : obj.visible;
      return mask && mask.has(px, py);
    });
    const area = (obj) => (obj.amodal ?? obj.visible).area;
    hit.sort((a, b) => area(a) - area(b));
    return hit.length ? hit[0].number : null;
  }

  shown(view) {
    return this.objects.filter((obj) => view.all || view.mentioned.has(obj.number) || obj.number === view.lit);
  }

  // view: {mode: visible|whole|none, all, mentioned: Set, lit: number|null, scale, left, top}, in canvas pixels.
  draw(canvas, view) {
    const pen = canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.imageSmoothingQuality = "high";
    pen.imageSmoothingEnabled = view.scale < 6;
    pen.drawImage(this.image, view.left, view.top, this.width * view.scale, this.height * view.scale);
    pen.imageSmoothingEnabled = true;
    if (view.mode === "none") return;
    const shown = this.shown(view);
    const lit = shown.find((obj) => obj.number === view.lit);
    if (lit) shown.push(...shown.splice(shown.indexOf(lit), 1)); // drawn over all others
    if (lit) this.#spotlight(pen, canvas, view, lit);
    const line = Math.max(2, Math.min(canvas.width, canvas.height) / 420);
    for (const obj of shown) this.#paint(pen, view, obj, line, lit && lit !== obj ? 0.35 : 1);
    for (const obj of shown) this.#number(pen, view, obj, lit && lit !== obj ? 0.55 : 1);
  }

  #spotlight(pen, canvas, view, obj) {
    const mask = view.mode === "whole" ? obj.amodal : obj.visible ?? obj.amodal;
    if (!mask) return;
    const veil = newCanvas(canvas.width, canvas.height);
    const brush = veil.getContext("2d");
    brush.fillStyle = "rgb(10 11 15 / .58)";
    brush.fillRect(view.left, view.top, this.width * view.scale, this.height * view.scale);
    brush.globalCompositeOperation = "destination-out";
    place(brush, mask, view);
    pen.drawImage(veil, 0, 0);
  }

  #paint(pen, view, obj, line, strength) {
    const loud = view.lit === obj.number;
    const { visible, amodal, covered } = obj;
    pen.globalAlpha = strength;
    if (visible) {
      fill(pen, visible, view, obj.colour, loud ? 0.2 : 0.4);
      ring(pen, visible, view, line + 1.6, DARK);
      ring(pen, visible, view, line, obj.colour);
    }
    if (view.mode === "whole" && covered) {
      hatch(pen, covered, view, obj.colour, line);
      ring(pen, amodal, view, line + 1.2, DARK);
      ring(pen, amodal, view, line * 0.8, obj.colour);
    }
    pen.globalAlpha = 1;
  }

  #number(pen, view, obj, strength) {
    if (view.mode === "visible" && !obj.visible) return;
    const sharp = window.devicePixelRatio || 1, most = Math.min(20, 9 + pen.canvas.width / sharp / 80);
    const side = Math.sqrt((obj.visible ?? obj.amodal)?.area ?? 0) * view.scale / sharp;
    const size = Math.max(10, Math.min(most, side * 0.16)) * sharp;
    const x = view.left + (obj.anchor[0] + 0.5) * view.scale, y = view.top + (obj.anchor[1] + 0.5) * view.scale;
    const text = String(obj.number);
    pen.globalAlpha = strength;
    pen.font = `700 ${size}px system-ui, sans-serif`;
    const half = Math.max(size * 0.78, pen.measureText(text).width / 2 + size * 0.42);
    pen.beginPath();
    pen.roundRect(x - half, y - size * 0.78, 2 * half, size * 1.56, size);
    pen.fillStyle = obj.colour;
    pen.strokeStyle = DARK;
    pen.lineWidth = size / 8;
    pen.fill();
    pen.stroke();
    pen.fillStyle = inkOn(obj.colour);
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.fillText(text, x, y + size * 0.05);
    pen.globalAlpha = 1;
  }
}

function place(pen, mask, view, dx = 0, dy = 0) {
  pen.drawImage(mask.canvas, view.left + mask.x * view.scale + dx, view.top + mask.y * view.scale + dy, mask.w * view.scale, mask.h * view.scale);
}

// A canvas around a mask, larger by `pad` on all sides, and the view in its coordinates.
function layer(mask, view, pad) {
  const x = Math.floor(view.left + mask.x * view.scale - pad), y = Math.floor(view.top + mask.y * view.scale - pad);
  const canvas = newCanvas(mask.w * view.scale + 2 * pad + 2, mask.h * view.scale + 2 * pad + 2);
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  return { canvas, pen, x, y, view: { ...view, left: view.left - x, top: view.top - y } };
}

function fill(pen, mask, view, colour, alpha) {
  const own = layer(mask, view, 1);
  place(own.pen, mask, own.view);
  own.pen.globalCompositeOperation = "source-in";
  own.pen.fillStyle = colour;
  own.pen.fillRect(0, 0, own.canvas.width, own.canvas.height);
  const before = pen.globalAlpha;
  pen.globalAlpha = before * alpha;
  pen.drawImage(own.canvas, own.x, own.y);
  pen.globalAlpha = before;
}

// A line around a mask: the mask drawn at shifted positions, minus the mask itself.
function ring(pen, mask, view, width, colour) {
  const own = layer(mask, view, width + 1);
  for (let step = 0; step < 16; step++) {
    place(own.pen, mask, own.view, width * Math.cos((step * Math.PI) / 8), width * Math.sin((step * Math.PI) / 8));
  }
  own.pen.globalCompositeOperation = "destination-out";
  place(own.pen, mask, own.view);
  own.pen.globalCompositeOperation = "source-in";
  own.pen.fillStyle = colour;
  own.pen.fillRect(0, 0, own.canvas.width, own.canvas.height);
  pen.drawImage(own.canvas, own.x, own.y);
}

// The occluded part: a light tint and diagonal stripes that are aligned between objects.
function hatch(pen, mask, view, colour, line) {
  const own = layer(mask, view, 1);
  const period = 5 * line;
  own.pen.strokeStyle = colour;
  own.pen.lineWidth = 1.3 * line;
  own.pen.beginPath();
  const start = -own.canvas.height - ((own.x + own.y) % period);
  for (let x = start; x < own.canvas.width + own.canvas.height; x += period) {
    own.pen.moveTo(x, own.canvas.height);
    own.pen.lineTo(x + own.canvas.height, 0);
  }
  own.pen.stroke();
  own.pen.globalAlpha = 0.22;
  own.pen.fillStyle = colour;
  own.pen.fillRect(0, 0, own.canvas.width, own.canvas.height);
  own.pen.globalAlpha = 1;
  own.pen.globalCompositeOperation = "destination-in";
  place(own.pen, mask, own.view);
  pen.drawImage(own.canvas, own.x, own.y);
}
