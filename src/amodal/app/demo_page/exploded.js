// The exploded view: one tilted layer per object, the background at the bottom and the front object on top.

import { nameOf } from "./document.js";
import { cutOut, flat, masksOf, UNKNOWN } from "./layers.js";

const TILT = [0.86, 0.16, -0.5, 0.52]; // the two axes of the image on the screen

/** Draw the layers of `objects`, ordered front to back, into an area of the given size in CSS pixels. */
export function drawExploded(pen, { image, size: [H, W], objects, width, height, current }) {
  const [a, b, c, d] = TILT;
  const lift = Math.min(height * 0.45 / Math.max(objects.length, 1), 110);
  const room = lift * objects.length;
  const scale = Math.min((width * 0.92) / (W * a - H * c), (height * 0.94 - room) / (W * b + H * d));
  const left = (width - scale * (W * a + H * c)) / 2; // the tilted image is centred
  const bottom = height * 0.97 - scale * (W * b + H * d);
  pen.fillStyle = "#20232b";
  pen.fillRect(0, 0, width, height);
  const layer = (level, draw) => {
    pen.save();
    pen.transform(scale * a, scale * b, scale * c, scale * d, left, bottom - level * lift);
    draw();
    pen.restore();
  };
  layer(0, () => {
    pen.drawImage(image, 0, 0, W, H);
    for (const one of objects) pen.drawImage(flat(one.shape, UNKNOWN), masksOf(one.shape).visible.x, masksOf(one.shape).visible.y);
  });
  [...objects].reverse().forEach((one, index) => layer(index + 1, () => {
    pen.strokeStyle = one === current ? "#fff" : "rgba(255, 255, 255, .35)";
    pen.lineWidth = (one === current ? 2.5 : 1) / scale;
    pen.fillStyle = "rgba(160, 170, 190, .07)";
    pen.fillRect(0, 0, W, H);
    pen.strokeRect(0, 0, W, H);
    const { x, y } = masksOf(one.shape).amodal;
    pen.drawImage(cutOut(one.shape, one.colour, image, [H, W]), x, y);
    pen.fillStyle = "#fff";
    pen.font = `600 ${15 / scale}px system-ui, sans-serif`;
    pen.fillText(nameOf(one), 10 / scale, 22 / scale);
  }));
}
