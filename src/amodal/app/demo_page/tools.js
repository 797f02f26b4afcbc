// The tools: each turns a press, a move and a release on the image into one action of the editor.

import { drawBox } from "./draw.js";

const MIN_SIDE = 4; // screen pixels; a shorter drag is taken for a mistake

const nothing = { down() {}, move() {}, up() {}, cancel() {}, draw() {}, key: null };

/** A point on the current object, or on a new one; with Alt, the right button or the switch, a point not on it. */
function point(editor) {
  return {
    ...nothing,
    up: (position, event) => editor.click(position, event.altKey || event.button === 2 || editor.negative ? 0 : 1),
    key: (position, event) => editor.click(position, event.altKey || editor.negative ? 0 : 1),
  };
}

/** A box around the visible part of a new object. The keyboard sets two corners, one after the other. */
function box(editor) {
  let start = null;
  let end = null;
  const corners = () => [Math.min(start[0], end[0]), Math.min(start[1], end[1]), Math.max(start[0], end[0]), Math.max(start[1], end[1])];
  const finish = (position) => {
    end = position;
    const made = corners();
    start = null;
    const scale = editor.stage.scale;
    if ((made[2] - made[0]) * scale < MIN_SIDE || (made[3] - made[1]) * scale < MIN_SIDE) {
      editor.tell("This box is too small. Drag from one corner of the object to the opposite one.", position);
    } else editor.drawBox(made);
  };
  return {
    ...nothing,
    down: (position) => { start = position; end = position; },
    move: (position) => { end = position; },
    up: (position) => { if (start) finish(position); },
    cancel: () => { start = null; },
    key: (position) => {
      if (start) finish(position);
      else { start = position; end = position; editor.say("First corner set. Move to the opposite corner and press Enter."); }
    },
    draw: (pen, pixel) => { if (start) drawBox(pen, corners(), pixel); },
  };
}

/** A free outline around the visible part of a new object. */
function lasso(editor) {
  let points = null;
  const finish = () => {
    const outline = points;
    points = null;
    if (outline.length < 3) editor.tell("This outline is too small. Draw around the visible part of the object.", outline[0]);
    else editor.drawLasso(outline);
  };
  return {
    ...nothing,
    down: (position) => { points = [position]; },
    move: (position) => {
      if (!points) return;
      const last = points[points.length - 1];
      if (Math.hypot(position[0] - last[0], position[1] - last[1]) * editor.stage.scale >= 2) points.push(position);
    },
    up: () => { if (points) finish(); },
    cancel: () => { points = null; },
    key: (position) => {
      points ||= [];
      const [first] = points;
      if (points.length > 2 && Math.hypot(position[0] - first[0], position[1] - first[1]) * editor.stage.scale < 8) finish();
      else { points.push(position); editor.say("Corner set. Press Enter at the first corner again to close the outline."); }
    },
    draw: (pen, pixel) => {
      if (points) drawLine(pen, points, "#fff", 2 * pixel, true);
    },
  };
}

/** A round brush that adds pixels to the visible part of the current object, or removes them. */
function brush(editor, value) {
  let points = null;
  const colour = value ? "rgba(255, 255, 255, .75)" : "rgba(20, 20, 26, .75)";
  return {
    ...nothing,
    down: (position) => { points = editor.canBrush(position) ? [position] : null; },
    move: (position) => { if (points) points.push(position); },
    up: () => {
      if (points) editor.brush(points, value);
      points = null;
    },
    cancel: () => { points = null; },
    key: (position) => { if (editor.canBrush(position)) editor.brush([position], value); },
    draw: (pen, pixel, position) => {
      if (points) drawLine(pen, points, colour, 2 * editor.brushRadius);
      if (!position) return;
      pen.beginPath();
      pen.arc(position[0], position[1], editor.brushRadius, 0, 7);
      pen.strokeStyle = "#fff";
      pen.lineWidth = 1.5 * pixel;
      pen.stroke();
    },
  };
}

/** Selects the object under the pointer; a drag moves the image. */
function hand(editor) {
  let last = null;
  let moved = false;
  return {
    ...nothing,
    down: (_, event) => { last = [event.clientX, event.clientY]; moved = false; },
    move: (_, event) => {
      if (!last) return;
      const [dx, dy] = [event.clientX - last[0], event.clientY - last[1]];
      moved ||= Math.hypot(dx, dy) > 3;
      if (!moved) return;
      editor.stage.pan(dx, dy);
      last = [event.clientX, event.clientY];
    },
    up: (position) => {
      if (last && !moved) editor.selectAt(position);
      last = null;
    },
    cancel: () => { last = null; },
    key: (position) => editor.selectAt(position),
  };
}

function drawLine(pen, points, colour, width, dashed = false) {
  pen.beginPath();
  points.forEach(([x, y]) => pen.lineTo(x, y));
  if (points.length === 1) pen.lineTo(points[0][0] + 0.01, points[0][1]);
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.lineCap = "round";
  pen.lineJoin = "round";
  pen.setLineDash(dashed ? [3 * width, 2 * width] : []);
  pen.stroke();
  pen.setLineDash([]);
}

export const makeTools = (editor) => ({
  point: point(editor), box: box(editor), lasso: lasso(editor), brush: brush(editor, 1), erase: brush(editor, 0), hand: hand(editor),
});
