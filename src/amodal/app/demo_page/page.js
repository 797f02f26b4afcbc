// The demo page: sends the image, prompts and questions to the server and shows the results.

import { Stage } from "./canvas.js";
import { drawOrder } from "./graph.js";

const $ = (id) => document.getElementById(id);
const state = { key: null, scene: null, history: [], view: "overlay", version: 0, busy: 0, about: null, selected: 0 };

const stage = new Stage($("shown"), $("ink"), {
  onBox: (box) => prompt({ boxes: [...stage.prompts.boxes, box] }, box),
  onPoint: (point) => prompt({ points: [...stage.prompts.points, point] }),
});

function say(text, bad = false) {
  $("message").textContent = text;
  $("message").classList.toggle("bad", bad);
}

async function call(path, body) {
  const options = { method: "POST", headers: {} };
  if (body instanceof FormData) options.body = body;
  else {
    options.headers["content-type"] = "application/json";
    options.body = JSON.stringify(body || {});
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server cannot be reached.");
  }
  if (response.ok) return response.json();
  const text = await response.text();
  let line = text;
  try {
    line = JSON.parse(text).error || text;
  } catch { /* the text is not JSON: show it as it is */ }
  throw new Error(line || `The server answered ${response.status}.`);
}

async function busy(work) {
  state.busy += 1;
  $("busy").hidden = false;
  refreshButtons();
  try {
    return await work();
  } catch (error) {
    say(error.message, true);
    return null;
  } finally {
    state.busy -= 1;
    $("busy").hidden = state.busy === 0;
    refreshButtons();
  }
}

function refreshButtons() {
  const ready = state.key !== null && state.busy === 0;
  $("everything").disabled = !ready;
  $("undo").disabled = !ready || state.history.length === 0;
  $("clear").disabled = !ready || !(state.scene && state.scene.objects.length);
  const asks = ready && state.about && state.about.asks;
  $("question").disabled = !asks;
  $("send").disabled = !asks;
}

async function open(work) {
  const opened = await busy(work);
  if (!opened) return;
  state.key = opened.key;
  state.history = [];
  stage.prompts = { boxes: [], points: [] };
  $("talk").replaceChildren();
  $("stage").classList.remove("empty");
  document.querySelector(".hint").hidden = true;
  $("shown").hidden = false;
  $("ink").hidden = false;
  show(opened);
  say("Draw a box around the part of an object that you can see, or select the point tool and tap the object.");
}

function upload(file) {
  if (state.about && file.size > state.about.max_upload) {
    say(`Expected a file of at most ${Math.round(state.about.max_upload / 2 ** 20)} MB, got ${Math.round(file.size / 2 ** 20)} MB.`, true);
    return;
  }
  const form = new FormData();
  form.append("image", file, file.name);
  open(() => call("demo/images", form));
}

async function prompt(change, pending) {
  if (!state.key || state.busy) return;
  const before = { boxes: [...stage.prompts.boxes], points: [...stage.prompts.points] };
  stage.prompts = { ...stage.prompts, ...change };
  stage.pending = pending ? [pending] : [];
  stage.paint();
  say("Segmenting …");
  const scene = await busy(() => call(`demo/images/${state.key}/segment`, stage.prompts));
  stage.pending = [];
  if (!scene) {
    stage.prompts = before;
    stage.paint();
    return;
  }
  state.history.push(before);
  show(scene);
  report(scene);
}

function report(scene) {
  const last = scene.objects[scene.objects.length - 1];
  if (!last) say("No object found.");
  else if (last.score === 0) say("No object found there. Try another box.");
  else say(`Object ${scene.objects.length - 1}: ${percent(last.occlusion_rate)} of it hidden.`);
}

async function undo() {
  const before = state.history.pop();
  if (!before) return;
  stage.prompts = before;
  if (before.boxes.length + before.points.length === 0) {
    show({ ...state.scene, objects: [], occlusion_order: [], front_to_back: [] });
    return;
  }
  const scene = await busy(() => call(`demo/images/${state.key}/segment`, before));
  if (scene) show(scene);
}

async function everything() {
  say("Looking for objects …");
  const scene = await busy(() => call(`demo/images/${state.key}/segment`, { everything: true }));
  if (!scene) return;
  state.history = [];
  stage.prompts = { boxes: [], points: [] };
  show(scene);
  say(scene.objects.length ? `${scene.objects.length} objects found.` : "No object found. Draw a box.");
}

function clear() {
  state.history = [];
  stage.prompts = { boxes: [], points: [] };
  show({ ...state.scene, objects: [], occlusion_order: [], front_to_back: [] });
  say("");
}

const percent = (share) => `${Math.round(share * 100)}%`;

function show(scene) {
  state.scene = scene;
  state.version += 1;
  state.selected = Math.max(scene.objects.length - 1, 0);
  stage.size = scene.size;
  $("peel").max = String(scene.objects.length);
  $("peel").value = "0";
  const some = scene.objects.length > 0;
  $("views").hidden = !some;
  $("export-card").hidden = !some;
  $("no-objects").hidden = some;
  listObjects(scene);
  $("order-card").hidden = !(some && drawOrder($("order"), scene));
  choose("overlay");
  link();
  refreshButtons();
}

function listObjects(scene) {
  $("objects").replaceChildren(...scene.objects.map((object, index) => {
    const chip = element("span", "chip", String(index));
    chip.style.background = object.colour;
    const name = element("div", "name", object.phrase || `object ${index}`);
    const bar = element("div", "bar");
    const fill = element("span");
    fill.style.width = percent(1 - object.occlusion_rate);
    fill.style.background = object.colour;
    bar.append(fill);
    const middle = element("div");
    middle.append(name, bar);
    const item = element("li");
    item.append(chip, middle, element("span", "share", `${percent(object.occlusion_rate)} hidden`));
    return item;
  }));
}

function element(kind, className, text) {
  const made = document.createElement(kind);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function choose(view) {
  state.view = view;
  for (const button of document.querySelectorAll("[data-view]")) {
    button.setAttribute("aria-checked", String(button.dataset.view === view));
  }
  const peel = Number($("peel").value);
  $("peeled").textContent = String(peel);
  const some = state.scene.objects.length > 0;
  const kind = peel > 0 ? "peeled" : some ? view : "image";
  const number = kind === "peeled" ? peel : state.selected;
  $("shown").src = `demo/images/${state.key}/view/${kind}?number=${number}&v=${state.version}`;
  $("shown").alt = kind === "overlay" ? "Image with the objects found" : "Image";
  $("ink").style.visibility = kind === "peeled" ? "hidden" : "visible";
}

function link() {
  $("download").href = `demo/images/${state.key}/export/${$("form").value}`;
}

async function ask(event) {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question || state.busy || !state.key) return;
  $("question").value = "";
  $("talk").append(element("p", "you", question));
  const reply = await busy(() => call(`demo/images/${state.key}/ask`, { question }));
  if (!reply) {
    $("question").value = question;
    $("talk").lastChild.remove();
    return;
  }
  state.history = [];
  stage.prompts = { boxes: [], points: [] };
  show(reply);
  say("");
  $("talk").append(answer(reply));
  $("talk").scrollTop = $("talk").scrollHeight;
  $("question").focus();
}

/** The answer of the model; words that name objects have the colour of their mask. */
function answer(reply) {
  const line = element("p", "it");
  for (const part of reply.parts) {
    const [first] = part.objects;
    if (first === undefined) {
      line.append(part.text);
      continue;
    }
    const mark = element("span", "mark", `${part.text} ${part.objects.join(", ")}`);
    mark.style.background = reply.objects[first].colour;
    line.append(mark);
  }
  return line;
}

function tool(name) {
  stage.tool = name;
  for (const kind of ["box", "point"]) $(`tool-${kind}`).setAttribute("aria-checked", String(kind === name));
}

$("tool-box").addEventListener("click", () => tool("box"));
$("tool-point").addEventListener("click", () => tool("point"));
$("everything").addEventListener("click", everything);
$("undo").addEventListener("click", undo);
$("clear").addEventListener("click", clear);
$("ask").addEventListener("submit", ask);
$("form").addEventListener("change", link);
$("peel").addEventListener("input", () => choose(state.view));
$("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) upload(file);
  event.target.value = "";
});
for (const button of document.querySelectorAll("[data-view]")) {
  button.addEventListener("click", () => {
    $("peel").value = "0";
    choose(button.dataset.view);
  });
}
$("objects").addEventListener("click", (event) => {
  const item = event.target.closest("li");
  if (!item) return;
  state.selected = [...$("objects").children].indexOf(item);
  choose("uncertainty");
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  $("stage").addEventListener(kind, (event) => {
    event.preventDefault();
    $("stage").classList.toggle("drop", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) upload(event.dataTransfer.files[0]);
  });
}
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "b") tool("box");
  if (event.key === "p") tool("point");
});
$("shown").addEventListener("error", () => say("The server has removed this image; open it again.", true));

async function start() {
  state.about = await (await fetch("api/about")).json();
  state.about.examples.forEach((name, index) => {
    const button = element("button", "", `Example ${index + 1}`);
    button.addEventListener("click", () => open(() => call(`demo/examples/${encodeURIComponent(name)}`)));
    $("examples").append(button);
  });
  for (const [form, text] of Object.entries(state.about.exports)) {
    const option = element("option", "", text);
    option.value = form;
    $("form").append(option);
  }
  if (!state.about.asks) $("chat-card").hidden = true;
  refreshButtons();
}

start();
