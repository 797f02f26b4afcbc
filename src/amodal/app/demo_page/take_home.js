// What a visitor takes home: files in other tools' formats, scene.json, and the command line with the same result.

import { masksOf } from "./layers.js";
import { nameOf } from "./document.js";

const VERSION = 1;

export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

export const stem = (name) => name.replace(/\.[^.]*$/, "") || "image";

async function base64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return btoa(text);
}

/** A scene.json with the image and everything that the page knows about the objects; `Scene.load` reads it too. */
export async function sceneFile(editor, image, size) {
  const scene = await editor.server.ask("scene", editor.body());
  scene.objects.forEach((record, i) => {
    const { id, colour, hidden, locked, source, prompt, question, alone, shape } = editor.document.objects[i];
    record.page = { id, colour, hidden, locked, source, prompt, question, alone, own_name: editor.document.objects[i].name };
    record.uncertainty = shape.uncertainty || null;
  });
  const page = { version: VERSION, name: image.name, type: image.blob.type, image: await base64(image.blob) };
  return new Blob([JSON.stringify({ ...scene, image: image.name, page })], { type: "application/json" });
}

/**
 * Read a scene.json of this page or of `amodal segment`. Returns { size, objects, image }; `image` is null if the file
 * does not have it. Throws an error with what to do.
 */
export function readScene(text) {
  let content;
  try {
    content = JSON.parse(text);
  } catch {
    throw new Error("This file is not JSON. Open a scene.json of this page or of amodal segment.");
  }
  const isRle = (rle) => rle && Array.isArray(rle.size) && typeof rle.counts === "string";
  if (!content || !Array.isArray(content.size) || !Array.isArray(content.objects)
    || !content.objects.every((one) => isRle(one?.visible) && isRle(one?.amodal) && Array.isArray(one.visible_box_xyxy))) {
    throw new Error("This file is not a scene: it needs size and objects with visible and amodal masks. Open a scene.json of this page or of amodal segment.");
  }
  const objects = content.objects.map(({ page, ...shape }) => ({
    source: "file", prompt: { box: null, points: [], mask: true }, ...pick(page), shape: { same_as: null, ...shape },
  }));
  const ids = objects.map((one) => one.id);
  if (!ids.every(Number.isInteger) || new Set(ids).size < ids.length) for (const one of objects) delete one.id;
  const { page } = content;
  const image = page?.image ? { name: String(page.name), blob: new Blob([bytesOf(page.image)], { type: String(page.type) }) } : null;
  return { size: content.size, objects, image };
}

const bytesOf = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

function pick(page) {
  if (!page) return {};
  const kept = {};
  if (/^#[0-9a-f]{6}$/i.test(page.colour)) kept.colour = page.colour;
  for (const key of ["hidden", "locked"]) kept[key] = page[key] === true;
  for (const key of ["source", "question"]) if (typeof page[key] === "string") kept[key] = page[key];
  if (typeof page.own_name === "string") kept.name = page.own_name.slice(0, 60);
  if (page.id > 0) kept.id = page.id;
  if (typeof page.alone === "number") kept.alone = page.alone;
  if (page.prompt && Array.isArray(page.prompt.points)) {
    kept.prompt = { box: Array.isArray(page.prompt.box) ? page.prompt.box.map(Number) : null, points: page.prompt.points.map((p) => p.map(Number)), mask: page.prompt.mask === true };
  }
  return kept;
}

const quoted = (word) => (/^[\w./:=,@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

/**
 * The commands with the same result, and the prompts file that they need or null. Objects from boxes or single points
 * become options; other ones become annotations: the box that a point found, or the mask that was drawn.
 */
export function commands(objects, imageName, size, options) {
  const asFound = (one) => !one.prompt.box && !one.prompt.points.length && !one.prompt.mask; // neither refined nor painted
  const isAnswer = (one) => one.source === "answer" && asFound(one);
  const [answers, others] = [objects.filter(isAnswer), objects.filter((one) => !isAnswer(one))];
  const lines = [...new Set(answers.map((one) => one.question))].map((question) => ["amodal", "ask", imageName, question]);
  let file = null;
  if (others.length) {
    const line = ["amodal", "segment", imageName];
    const boxes = others.every((one) => one.prompt.box && !one.prompt.points.length && !one.prompt.mask);
    const points = others.every((one) => !one.prompt.box && !one.prompt.mask && one.prompt.points.length
      && one.prompt.points.every(([, , label], i) => label === (i ? 0 : 1)));
    const single = others.length === 1 && others[0].prompt.box && !others[0].prompt.mask;
    if (others.every((one) => one.alone === others.length && one.source === "found" && asFound(one))) { /* without prompts, all are found */ } else if (boxes || single) {
      for (const one of others) line.push("--box", one.prompt.box.join(","));
      if (single) for (const point of others[0].prompt.points) line.push("--point", pointOption(point));
    } else if (points) {
      for (const one of others) for (const point of one.prompt.points) line.push("--point", pointOption(point));
    } else {
      line.push("--annotations", "prompts.json");
      file = promptsFile(others, imageName, size);
    }
    lines.unshift([...line, ...options]);
  }
  return { text: lines.map((line) => line.map(quoted).join(" ")).join("\n"), file };
}

const pointOption = ([x, y, label]) => (label ? `${x},${y}` : `${x},${y},0`);

function promptsFile(objects, imageName, [H, W]) {
  const names = [...new Set(objects.map(nameOf))];
  const annotations = objects.map((one, i) => {
    const [x0, y0, x1, y1] = one.shape.visible_box_xyxy;
    const record = { id: i + 1, image_id: 1, category_id: names.indexOf(nameOf(one)) + 1, iscrowd: 0 };
    const { w, h } = masksOf(one.shape).visible;
    return one.prompt.mask ? { ...record, segmentation: one.shape.visible, area: w * h } : { ...record, bbox: [x0, y0, x1 - x0, y1 - y0], area: (x1 - x0) * (y1 - y0) };
  });
  const content = {
    images: [{ id: 1, file_name: imageName, width: W, height: H }],
    categories: names.map((name, i) => ({ id: i + 1, name })),
    annotations,
  };
  return new Blob([JSON.stringify(content, null, 1)], { type: "application/json" });
}
