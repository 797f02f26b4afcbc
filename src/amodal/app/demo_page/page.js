// The page: connects the editor with the controls, opens images, and keeps the session.

import { Server } from "./api.js";
import { Chat } from "./chat.js";
import { counted, Document } from "./document.js";
import { drawPrompts, drawScene } from "./draw.js";
import { Editor } from "./editor.js";
import { drawExploded } from "./exploded.js";
import { drawOrder } from "./graph.js";
import { decodeImage, showExamples, takeFiles } from "./images.js";
import { listen, onStage } from "./keys.js";
import { Messages } from "./messages.js";
import { keepList } from "./object_list.js";
import { Session } from "./session.js";
import { Stage } from "./stage.js";
import { commands, readScene, save, sceneFile, stem } from "./take_home.js";
import { makeTools } from "./tools.js";

const $ = (id) => document.getElementById(id);
const buttons = (name) => [...document.querySelectorAll(`[data-${name}]`)];

const START = "Click an object in the image, or draw a box around the part of it that you can see.";
const LEGENDS = {
  objects: "Filled: visible. Hatched, with a dashed edge: hidden, predicted by the model.",
  contours: "Solid edge: visible part. Dashed edge: whole object, predicted by the model.",
  uncertainty: "Bright: the model is not certain whether the pixel belongs to the whole object.",
  layers: "One layer per object, the front one on top. Hatched: hidden in the photograph. Grey: what is behind an object is unknown.",
  image: "The photograph alone.",
};
const PEELED = "Grey: unknown. The photograph does not show what is behind a removed object; hatched and dashed is the shape that the model predicts.";

const server = new Server();
const objects = new Document();
const messages = new Messages($("message"), $("bubble"), $("room"));
const editor = new Editor({ server, document: objects, messages });
const session = new Session(() => messages.tell("This browser does not keep the session. Save scene.json before you leave the page."));
const chat = new Chat($("talk"), editor);
const state = { image: null, view: "objects", peel: 0, tool: "point", about: null, example: null, previous: null, opening: false };

const page = {
  get toolName() { return state.tool; },
  tool: () => tools[state.tool],
  chooseTool(name) {
    tools[state.tool].cancel();
    state.tool = name;
    for (const button of buttons("tool")) button.setAttribute("aria-checked", String(button.dataset.tool === name));
    const paints = name === "brush" || name === "erase";
    $("brush-size").hidden = !paints;
    $("negative").hidden = paints; // points do not change a painted mask, and the row keeps its height
    $("stage").classList.toggle("hand", name === "hand");
    stage.request();
  },
  flipNegative() {
    editor.negative = !editor.negative;
    $("negative").setAttribute("aria-pressed", String(editor.negative));
    if (editor.negative) page.chooseTool("point");
  },
  setBrush(size) {
    editor.brushSize = Math.min(Math.max(size, 2), 60);
    $("brush").value = String(editor.brushSize);
    stage.request();
  },
};
const stage = new Stage($("stage"), { paint, tool: page.tool, keyboard: (event) => onStage(event, editor, page) });
editor.stage = stage;
const tools = makeTools(editor);
const list = keepList($("objects"), editor);

function paint(pen, { size, scale, x, y, room: [width, height] }) {
  if (!state.image) return;
  const { current } = objects;
  const inDepth = editor.inDepth;
  if (state.view === "layers") return drawExploded(pen, { image: state.image, size, objects: inDepth, width, height, current });
  const pixel = 1 / scale;
  pen.translate(x, y);
  pen.scale(scale, scale);
  const removed = new Set(inDepth.slice(0, state.peel).map((one) => one.id));
  drawScene(pen, { image: state.image, size, objects: objects.objects, current, marked: editor.marked, view: state.view, removed, pixel });
  drawPrompts(pen, { current: state.view === "image" ? null : current, waiting: editor.waiting, pixel });
  const pointer = stage.cursor || (stage.pointer && stage.position(stage.pointer));
  page.tool().draw(pen, pixel, pointer);
  if (stage.cursor) drawCross(pen, stage.cursor, pixel);
  if (editor.clicked) {
    editor.clicked = false;
    performance.measure("click to mask", "click");
  }
}

function drawCross(pen, [x, y], pixel) {
  for (const [colour, width] of [["#000", 4], ["#fff", 2]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = width * pixel;
    pen.beginPath();
    pen.moveTo(x - 12 * pixel, y);
    pen.lineTo(x + 12 * pixel, y);
    pen.moveTo(x, y - 12 * pixel);
    pen.lineTo(x, y + 12 * pixel);
    pen.stroke();
  }
}

/** Show the document and the editor as they are. */
function show() {
  const all = objects.state.objects;
  const shown = objects.objects;
  list();
  $("no-objects").hidden = shown.length > 0;
  $("hint").hidden = Boolean(state.image);
  $("undo").disabled = !objects.canUndo;
  $("redo").disabled = !objects.canRedo;
  $("new").disabled = objects.selected === null;
  $("clear").disabled = !all.length;
  const open = Boolean(state.image) && !state.opening;
  for (const id of ["find", "question", "send"]) $(id).disabled = !open;
  for (const id of ["download", "save-scene"]) $(id).disabled = !open || !shown.length;
  $("busy").hidden = editor.pending === 0 && !state.opening;
  const some = all.some((one) => one.source === "found");
  $("confidence-label").hidden = !some;
  $("confidence").value = String(objects.state.leastScore);
  $("filtered").textContent = some && all.length > shown.length ? `${all.length - shown.length} hidden` : "";
  $("peel").max = String(editor.inDepth.length);
  state.peel = Math.min(state.peel, editor.inDepth.length);
  $("peel").value = String(state.peel);
  $("peeled").textContent = String(state.peel);
  $("legend").textContent = state.peel && state.view !== "layers" && state.view !== "image" ? PEELED : LEGENDS[state.view];
  $("order-card").hidden = !drawOrder($("order"), editor.facts, shown, objects.selected, (id) => objects.select(id));
  if ($("command").open) showCommand();
  stage.request();
}

function showCommand() {
  if (!state.image || !objects.objects.length) {
    $("command-text").textContent = "No objects yet.";
    $("prompts").hidden = true;
    return;
  }
  const { text, file } = commands(objects.objects, server.image.name, stage.size, state.about?.options || []);
  $("command-text").textContent = text;
  $("prompts").hidden = !file;
  $("command-note").textContent = file ? "Put prompts.json and the image into the folder in which you run the command." : "Run the command in the folder of the image.";
  state.prompts = file;
}

function keep() {
  if (!state.image || state.opening) return;
  session.save({ work: work() });
}

objects.addEventListener("change", () => { show(); keep(); });
editor.addEventListener("change", show);

function choose(view) {
  state.view = view;
  for (const button of buttons("view")) button.setAttribute("aria-checked", String(button.dataset.view === view));
  show();
  keep();
}

function showSource() {
  const { example } = state;
  $("source").textContent = example ? example.source : "";
  $("stage").setAttribute("aria-label", `${example ? example.alt : "Image"}. Arrow keys move the cross, Enter uses the tool, plus and minus zoom.`);
  for (const button of $("examples").children) button.setAttribute("aria-pressed", String(button.title === example?.title));
  if (example) $("question").placeholder = example.question;
}

/** Open an image. The work on the image before stays in the browser and can be reopened once. */
async function open(blob, name, example = null) {
  if (state.about && blob.size > state.about.max_upload) {
    messages.tell(`This file has ${Math.round(blob.size / 2 ** 20)} MB, and the server takes ${Math.round(state.about.max_upload / 2 ** 20)} MB. Save the image smaller and open it again.`);
    return false;
  }
  state.opening = true;
  show();
  try {
    await editor.line;
    const before = state.image && objects.states.length > 1 ? { image: server.image, work: work() } : state.previous;
    const opened = await server.open(blob, name);
    state.image = await decodeImage(blob, opened.size, () => server.view());
    Object.assign(state, { example, previous: before, peel: 0 });
    session.save({ image: server.image, previous: before });
    stage.size = opened.size;
    chat.restore([]);
    editor.marked = new Set();
    objects.reset();
    stage.fit();
    showPrevious();
    messages.say(START);
    return true;
  } catch (error) {
    messages.tell(error.status === 422 ? `${name} cannot be opened. Choose another file, or save it as JPEG or PNG. (${error.message})` : error.message);
    return false;
  } finally {
    state.opening = false;
    showSource();
    editor.refresh();
    show();
    keep();
  }
}

const work = () => ({
  states: objects.states, place: objects.place, selected: objects.selected, size: stage.size, talk: chat.lines,
  view: state.view, example: state.example, key: server.key,
});

async function openExample(example, blob) {
  if (!await open(blob, `${example.name}.jpg`, example)) return;
  await editor.enqueue(async () => {
    const made = await server.ask("segment", { boxes: example.objects.map((one) => one.box) });
    objects.add("example", made.objects.map((shape, i) => ({
      name: example.objects[i].name, source: "box", prompt: { box: example.objects[i].box, points: [], mask: false }, shape,
    })));
    objects.reset([objects.state]);
    editor.refresh();
    messages.say(`${example.title}: already segmented. ${START}`);
  });
}

/** Show a session that was kept, without asking the server. */
async function restore({ image, work: kept }) {
  const before = { image: server.image, key: server.key };
  Object.assign(server, { image, key: kept.key });
  try {
    state.image = await decodeImage(image.blob, kept.size, () => server.view());
  } catch (error) {
    Object.assign(server, before);
    throw error;
  }
  stage.size = kept.size;
  Object.assign(state, { example: kept.example, peel: 0 });
  editor.marked = new Set();
  chat.lines = kept.talk; // kept with the session whenever the objects change
  objects.reset(kept.states, kept.place);
  objects.select(kept.selected);
  chat.restore(kept.talk); // after the objects, which give the marks their colours
  choose(kept.view);
  stage.fit();
  showSource();
  editor.refresh();
}

function showPrevious() {
  $("previous").hidden = !state.previous;
  if (state.previous) $("previous").textContent = `Back to ${state.previous.image.name.slice(0, 24)}`;
}

async function reopenPrevious() {
  if (state.opening) return;
  state.opening = true;
  show();
  try {
    await editor.line;
    const { previous } = state;
    const left = { image: server.image, work: work() };
    await restore(previous);
    state.previous = left;
    session.save({ image: previous.image, previous: left });
    messages.say(`Back to ${previous.image.name}, with all of its objects.`);
  } catch (error) {
    messages.tell(error.message);
  } finally {
    state.opening = false;
    showPrevious();
    show();
    keep();
  }
}

async function openScene(file, image = null) {
  try {
    const scene = readScene(await file.text());
    const blob = image || scene.image?.blob;
    if (blob && !await open(blob, image ? image.name : scene.image.name)) return;
    if (!state.image) throw new Error("Open the image of this scene first, or both files together; this scene.json does not contain it.");
    if (scene.size.some((side, i) => side !== stage.size[i])) {
      throw new Error(`This scene belongs to an image of ${scene.size[1]} x ${scene.size[0]} pixels; the open image has ${stage.size[1]} x ${stage.size[0]}. Open its image first.`);
    }
    await editor.enqueue(async () => {
      const checked = await server.ask("scene", { objects: scene.objects.map((one) => one.shape) });
      const shapes = checked.objects.map((record, i) => ({ ...record, uncertainty: scene.objects[i].shape.uncertainty || null }));
      objects.commit("open scene.json", { objects: [] });
      objects.add("open scene.json", scene.objects.map((one, i) => ({ ...one, shape: shapes[i] })), true);
      editor.refresh();
      messages.say(`${counted(shapes.length)} opened from ${file.name}.`);
    });
  } catch (error) {
    messages.tell(error.message);
  }
}

/** Open files of the visitor: an image, a scene.json, or both. */
function take(files) {
  const scene = files.find((file) => file.name.endsWith(".json") || file.type === "application/json");
  const image = files.find((file) => file !== scene);
  if (scene) openScene(scene, image);
  else if (image) open(image, image.name || "pasted.png");
}

async function download() {
  await editor.enqueue(async () => {
    const form = $("form").value;
    const blob = await server.download(form, editor.body());
    save(blob, `${stem(server.image.name)}-${form}.zip`);
    messages.say(`${counted(objects.objects.length)} exported.`);
  });
}

for (const button of buttons("tool")) button.addEventListener("click", () => page.chooseTool(button.dataset.tool));
for (const button of buttons("view")) button.addEventListener("click", () => choose(button.dataset.view));
for (const group of document.querySelectorAll("[role=radiogroup]")) { // arrow keys choose the next button, as in a radio group
  group.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const all = [...group.children];
    const next = all[(all.indexOf(document.activeElement) + step + all.length) % all.length];
    next.focus();
    next.click();
  });
}
const on = (id, event, listener) => $(id).addEventListener(event, listener);
on("negative", "click", () => page.flipNegative());
on("brush", "input", () => page.setBrush(Number($("brush").value)));
on("new", "click", () => { page.chooseTool(state.tool === "hand" ? "point" : state.tool); editor.deselect(); });
on("undo", "click", () => editor.step(-1));
on("redo", "click", () => editor.step(1));
on("find", "click", () => editor.findAll());
on("clear", "click", () => editor.removeAll());
on("confidence", "input", () => { objects.commit("confidence", { leastScore: Number($("confidence").value) }, true); });
on("confidence", "change", () => editor.refresh());
on("peel", "input", () => {
  state.peel = Number($("peel").value);
  if (state.peel && (state.view === "layers" || state.view === "image")) choose("objects");
  show();
});
on("zoom-in", "click", () => stage.zoom(1.4));
on("zoom-out", "click", () => stage.zoom(1 / 1.4));
on("zoom-fit", "click", () => stage.fit());
on("download", "click", download);
on("save-scene", "click", () => editor.enqueue(async () => save(await sceneFile(editor, server.image, stage.size), `${stem(server.image.name)}-scene.json`)));
on("command", "toggle", showCommand);
on("copy", "click", async () => {
  await navigator.clipboard?.writeText($("command-text").textContent).catch(() => null);
  messages.say("Command copied.");
});
on("prompts", "click", () => save(state.prompts, "prompts.json"));
on("previous", "click", reopenPrevious);
on("ask", "submit", (event) => {
  event.preventDefault();
  const question = $("question").value.trim() || $("question").placeholder;
  $("question").value = "";
  if (state.image) chat.ask(question).then(() => { show(); keep(); });
});
for (const id of ["file", "camera", "scene-file"]) {
  on(id, "change", (event) => {
    const files = [...event.target.files];
    event.target.value = "";
    if (files.length) take(files);
  });
}
takeFiles($("room"), take);
listen(editor, page);

async function start() {
  show();
  const kept = await session.load();
  if (kept) {
    await restore(kept).catch((error) => messages.tell(`The kept session cannot be shown. ${error.message}`));
    state.previous = kept.previous || null;
    showPrevious();
    if (state.image) messages.say(`Your session is back: ${server.image.name} with ${counted(objects.objects.length)}.`);
  }
  try {
    state.about = await server.about();
    for (const [form, text] of Object.entries(state.about.exports)) $("form").append(new Option(text, form));
    $("chat-card").hidden = !state.about.asks;
    const examples = await showExamples($("examples"), openExample, (text) => messages.tell(text));
    if (!kept) $("examples").firstChild?.click();
    showSource();
    if (!examples.length) messages.say(START);
  } catch (error) {
    messages.tell(error.message);
  }
  document.body.dataset.ready = "true";
}

start();
