// The image: the highlighted object, zoom, and the pointer.
import { $, currentAnswer, state } from "./state.js";
import { mentionedNumbers } from "./text.js";

export function light(number) {
  const lit = number ?? state.pinned;
  if (lit === state.lit) return;
  state.lit = lit;
  for (const button of document.querySelectorAll("#objects button")) button.classList.toggle("lit", Number(button.dataset.number) === lit);
  for (const chip of document.querySelectorAll(".mention")) chip.classList.toggle("lit", chip.dataset.numbers.split(" ").map(Number).includes(lit));
  draw();
}

function view() {
  const canvas = $("canvas"), { width, height } = state.scene;
  const fit = Math.min(canvas.width / width, canvas.height / height);
  const scale = fit * state.zoom;
  const centre = state.centre ?? { x: width / 2, y: height / 2 };
  return {
    mode: state.bare ? "none" : state.mode, all: state.all, lit: state.lit, mentioned: mentionedNumbers(currentAnswer()),
    scale, left: canvas.width / 2 - centre.x * scale, top: canvas.height / 2 - centre.y * scale,
  };
}

let asked = false;
export function draw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    const canvas = $("canvas"), box = $("frame").getBoundingClientRect(), sharp = window.devicePixelRatio || 1;
    if (!state.scene || !box.width) return;
    const size = [Math.round(box.width * sharp), Math.round(box.height * sharp)];
    if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
    state.scene.draw(canvas, view());
    $("zoom").hidden = state.zoom === 1;
    $("zoom").textContent = `${Math.round(state.zoom * 100)}%`;
    canvas.dataset.drawn = `${state.item.id} ${state.bare ? "none" : state.mode} ${state.lit ?? "-"}`;
  });
}

function pointOf(event) {
  const box = $("canvas").getBoundingClientRect(), sharp = $("canvas").width / box.width, seen = view();
  return { x: ((event.clientX - box.left) * sharp - seen.left) / seen.scale, y: ((event.clientY - box.top) * sharp - seen.top) / seen.scale };
}

function zoomAt(event, factor) {
  const before = pointOf(event), seen = view();
  const centre = { x: ($("canvas").width / 2 - seen.left) / seen.scale, y: ($("canvas").height / 2 - seen.top) / seen.scale };
  const zoom = Math.min(16, Math.max(1, state.zoom * factor)), change = state.zoom / zoom;
  state.centre = zoom === 1 ? null : { x: before.x + (centre.x - before.x) * change, y: before.y + (centre.y - before.y) * change };
  state.zoom = zoom;
  draw();
}

// choose(number) is called with the object that was clicked.
export function listenToStage(choose) {
  const canvas = $("canvas");
  canvas.addEventListener("pointerdown", onDown);
  canvas.addEventListener("pointermove", onMove);
  canvas.addEventListener("pointerup", (event) => onUp(event, choose));
  canvas.addEventListener("pointerleave", () => light(null));
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); if (state.scene) zoomAt(event, Math.exp(-event.deltaY / 400)); }, { passive: false });
  new ResizeObserver(draw).observe($("frame"));
}

let grip = null;
function onDown(event) {
  if (!state.scene || event.button) return;
  grip = { x: event.clientX, y: event.clientY, moved: false };
  $("canvas").setPointerCapture(event.pointerId);
  if (state.phase === "write") event.preventDefault();
}
function onMove(event) {
  if (!state.scene) return;
  if (!grip) {
    const point = pointOf(event), number = state.scene.at(point.x, point.y, view());
    $("canvas").classList.toggle("over", number !== null);
    return light(number);
  }
  const dx = event.clientX - grip.x, dy = event.clientY - grip.y;
  if (!grip.moved && Math.hypot(dx, dy) < 5) return;
  grip = { x: event.clientX, y: event.clientY, moved: true };
  if (state.zoom === 1) return;
  $("canvas").classList.add("moving");
  const sharp = window.devicePixelRatio || 1, seen = view();
  const centre = state.centre ?? { x: state.scene.width / 2, y: state.scene.height / 2 };
  state.centre = { x: centre.x - (dx * sharp) / seen.scale, y: centre.y - (dy * sharp) / seen.scale };
  draw();
}
function onUp(event, choose) {
  $("canvas").classList.remove("moving");
  const clicked = grip && !grip.moved;
  grip = null;
  if (!clicked || !state.scene) return;
  const point = pointOf(event), number = state.scene.at(point.x, point.y, view());
  if (number !== null) choose(number);
  else if (state.phase !== "write") { state.pinned = null; light(null); }
}
