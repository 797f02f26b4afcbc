// What a visitor does to the objects. Each action ends as one state of the document, so that it can be undone.

import { counted, nameOf } from "./document.js";
import { masksOf } from "./layers.js";
import { area, both, encode, inside, isEmpty, isSet, stroked } from "./masks.js";

const NUDGE_MS = 250; // between the last arrow key and the request
const LEAST_SHARE = 0.15; // of a lasso's area that the found mask fills; otherwise the outline itself is the mask

export class Editor extends EventTarget {
  constructor({ server, document, messages }) {
    super();
    Object.assign(this, { server, document, messages });
    this.stage = null;
    this.negative = false;
    this.brushSize = 12; // radius in screen pixels
    this.waiting = []; // prompts that are being segmented
    this.marked = new Set(); // ids of the objects of the latest answer
    this.facts = { order: [], frontToBack: [] }; // ids, computed by the server from the masks
    this.line = Promise.resolve(); // requests run one after the other
    this.pending = 0;
  }

  get brushRadius() { return Math.max(this.brushSize / this.stage.scale, 0.5); }

  say(text) { this.messages.say(text); }

  tell(text, position = null) { this.messages.tell(text, position && this.stage.onScreen(position)); }

  /** Run work that needs the server after the work before it; an error is told at `position`. */
  enqueue(work, prompt = null, position = null) {
    if (prompt) this.waiting.push(prompt);
    this.pending += 1;
    this.notify();
    this.line = this.line.then(work).catch((error) => this.tell(error.message, position)).finally(() => {
      this.waiting = this.waiting.filter((one) => one !== prompt);
      this.pending -= 1;
      this.notify();
    });
    return this.line;
  }

  notify() { this.dispatchEvent(new Event("change")); }

  /** Segment one object; null, with a message at `position`, where nothing was found. */
  async segment(prompt, position) {
    const body = {};
    if (prompt.box) body.boxes = [prompt.box];
    if (prompt.points && prompt.points.length) body.points_per_object = [prompt.points];
    if (prompt.rle) body.masks = [prompt.rle];
    const { objects: [shape] } = await this.server.ask("segment", body);
    if (!isEmpty(masksOf(shape).visible)) return shape;
    this.tell("No object was found here. Click its middle, or draw a box around the part that you can see.", position);
    return null;
  }

  /** The current object if it can be changed; undefined, with a message, if it is locked; null if there is none. */
  changeable(position) {
    const one = this.document.current;
    if (!one || !one.locked) return one;
    this.tell(`${nameOf(one)} is locked. Unlock it in the list, or press Esc to start a new object.`, position);
    return undefined;
  }

  click(position, label) {
    const one = this.changeable(position);
    if (one === undefined) return;
    if (one && one.prompt.mask) {
      this.tell("Points do not change a mask that was drawn by hand. Use the brush, or press Esc and click for a new object.", position);
      return;
    }
    if (!one && !label) {
      this.tell("Click the object itself first; then mark what does not belong to it.", position);
      return;
    }
    performance.mark("click");
    const added = [...position, label];
    this.enqueue(async () => {
      // Several quick clicks: the first makes the object, and the others refine it.
      const target = one ? this.document.find(one.id) : this.document.current;
      const box = target ? target.prompt.box || (target.source === "click" ? null : target.shape.visible_box_xyxy) : null;
      const prompt = { box, points: [...(target ? target.prompt.points : []), added], mask: false };
      const shape = await this.segment(prompt, position);
      if (!shape) return;
      this.clicked = true;
      if (target) {
        const name = target.shape.name;
        this.document.update(`point on ${nameOf(target)}`, target.id, { prompt, shape: { ...shape, name, phrase: target.shape.phrase } });
        this.refresh();
      } else this.finish("new object", { source: "click", prompt, shape });
      this.report(this.document.current);
    }, { points: [added] }, position);
  }

  /** Add an object and select it. */
  finish(label, object) {
    const [id] = this.document.add(label, [object]);
    this.document.select(id);
    this.refresh();
  }

  report(one) {
    if (!one) return;
    const hidden = Math.round(one.shape.occlusion_rate * 100);
    const next = one.prompt.mask ? "Brush and eraser change it further" : "Click again to refine it";
    this.say(`${nameOf(one)}: ${hidden ? `about ${hidden}% of it is hidden` : "nothing of it seems hidden"}. ${next}; Esc starts a new object.`);
  }

  drawBox(box) {
    const prompt = { box, points: [], mask: false };
    const middle = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];
    return this.enqueue(async () => {
      const shape = await this.segment(prompt, middle);
      if (!shape) return;
      this.finish("box", { source: "box", prompt, shape });
      this.report(this.document.current);
    }, prompt, middle);
  }

  /** The box of the outline finds the object; what lies outside of the outline is left out. */
  drawLasso(outline) {
    const xs = outline.map(([x]) => x);
    const ys = outline.map(([, y]) => y);
    const box = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
    return this.enqueue(async () => {
      const { size } = this.stage;
      const drawn = inside(outline, size);
      if (isEmpty(drawn)) return this.tell("This outline has no pixels inside. Draw around the visible part of the object.", outline[0]);
      const { objects: [found] } = await this.server.ask("segment", { boxes: [box] });
      const shared = both(drawn, masksOf(found).visible);
      const mask = area(shared) >= LEAST_SHARE * area(drawn) ? shared : drawn;
      const shape = await this.segment({ rle: encode(mask, size) }, outline[0]);
      if (!shape) return;
      this.finish("lasso", { source: "lasso", prompt: { box: null, points: [], mask: true }, shape });
      this.report(this.document.current);
    }, { box }, outline[0]);
  }

  canBrush(position) {
    const one = this.changeable(position);
    if (one === null) this.tell("Choose the object to paint first: click it in the list, or with the hand.", position);
    return Boolean(one);
  }

  /** Change the visible mask by hand; the model then completes the object from this mask. */
  brush(points, value) {
    const { id } = this.document.current;
    const radius = this.brushRadius;
    return this.enqueue(async () => {
      const one = this.document.find(id);
      if (!one) return;
      const { size } = this.stage;
      const mask = stroked(masksOf(one.shape).visible, points, radius, value, size);
      if (isEmpty(mask)) return this.tell("Nothing of the object would be left. Delete it instead, or undo.", points[0]);
      const shape = await this.segment({ rle: encode(mask, size) }, points[0]);
      if (!shape) return;
      const { name, phrase } = one.shape;
      this.document.update(`${value ? "brush on" : "eraser on"} ${nameOf(one)}`, id, {
        prompt: { box: null, points: [], mask: true }, shape: { ...shape, name, phrase },
      });
      this.refresh();
      this.report(this.document.find(id));
    }, null, points[0]);
  }

  /** Move the box of the current object; the request follows when the keys are released for a moment. */
  nudge(dx, dy) {
    const one = this.changeable(null);
    if (!one) return;
    if (!one.prompt.box) return this.tell("Arrow keys move the box of an object that was made with the box tool.");
    if (this.nudged && this.nudged.id !== one.id) this.sendNudge();
    const [H, W] = this.stage.size;
    const [x0, y0, x1, y1] = this.nudged?.id === one.id ? this.nudged.box : one.prompt.box;
    const mx = Math.min(Math.max(dx, -x0), W - x1);
    const my = Math.min(Math.max(dy, -y0), H - y1);
    this.nudged = { id: one.id, box: [x0 + mx, y0 + my, x1 + mx, y1 + my] };
    this.waiting = [...this.waiting.filter((other) => !other.nudged), { box: this.nudged.box, nudged: true }];
    this.stage.request();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.sendNudge(), NUDGE_MS);
  }

  sendNudge() {
    const sent = this.nudged;
    clearTimeout(this.timer);
    if (sent) this.enqueue(() => this.finishNudge(sent).finally(() => {
      if (this.nudged !== sent) return; // further keys have moved the box meanwhile
      this.nudged = null;
      this.waiting = this.waiting.filter((other) => !other.nudged);
    }), null, sent.box.slice(0, 2));
  }

  async finishNudge({ id, box }) {
    const one = this.document.find(id);
    if (!one || !one.prompt.box) return;
    const moved = [box[0] - one.prompt.box[0], box[1] - one.prompt.box[1]];
    const points = one.prompt.points.map(([x, y, label]) => [x + moved[0], y + moved[1], label]);
    const prompt = { box, points, mask: false };
    const shape = await this.segment(prompt, box.slice(0, 2));
    if (!shape) return;
    this.document.update(`box of ${nameOf(one)}`, id, { prompt, shape: { ...shape, name: one.shape.name } }, true);
    this.refresh();
  }

  /** The visible masks of all objects, and their ids in the same order. */
  known() {
    const some = this.document.state.objects.filter((one) => masksOf(one.shape).visible.w);
    return { ids: some.map((one) => one.id), masks: some.map((one) => one.shape.visible) };
  }

  findAll() {
    this.say("Looking for objects …");
    return this.enqueue(async () => {
      const { ids, masks } = this.known();
      const { objects } = await this.server.ask("find", { known: masks });
      const alone = ids.length === 0 ? objects.length : 0; // `amodal segment` without prompts finds the same ones
      if (objects.length) {
        this.document.add("find all", objects.map((shape) => ({ source: "found", alone, prompt: { box: null, points: [], mask: false }, shape })));
        this.refresh();
      }
      this.say(objects.length ? `${counted(objects.length, "new object")} found. The slider "Confidence" hides uncertain ones.` : "No further object found. Click or draw a box around one.");
    });
  }

  /** Ask a question; the objects of the answer are added, or marked where they are there already. */
  async ask(question) {
    let reply = null;
    await this.enqueue(async () => {
      const { ids, masks } = this.known();
      const answered = await this.server.ask("ask", { question, known: masks });
      const fresh = answered.objects.filter((shape) => shape.same_as === null && masksOf(shape).amodal.w);
      const added = fresh.length ? this.document.add("answer", fresh.map((shape) => ({
        source: "answer", question, prompt: { box: null, points: [], mask: false }, shape,
      }))) : [];
      const idOf = (shape) => (shape.same_as === null ? added[fresh.indexOf(shape)] : ids[shape.same_as]);
      const found = answered.objects.map(idOf);
      this.marked = new Set(found.filter((id) => id !== undefined));
      this.document.select([...this.marked][0] ?? null);
      if (added.length) this.refresh();
      const known = this.marked.size - added.length;
      const told = [added.length && `added ${counted(added.length)}`, known > 0 && `marked ${counted(known)} that ${known === 1 ? "was" : "were"} there`];
      this.say(`The answer is beside the image. It ${told.filter(Boolean).join(" and ") || "names no object"}.`);
      reply = { text: answered.answer, parts: answered.parts.map((part) => ({ text: part.text, ids: part.objects.map((i) => found[i]).filter((id) => id !== undefined) })) };
    });
    return reply;
  }

  selectAt(position) {
    const at = position.map(Math.floor);
    const order = this.facts.frontToBack;
    const hit = [...this.document.objects].filter((one) => !one.hidden && isSet(masksOf(one.shape).visible, ...at))
      .sort((a, b) => order.indexOf(a.id) - order.indexOf(b.id))[0];
    this.marked = new Set();
    this.document.select(hit ? hit.id : null);
    this.say(hit ? `${nameOf(hit)} selected.` : "Nothing selected; the next click starts a new object.");
  }

  deselect() {
    this.marked = new Set();
    this.document.select(null);
    this.say("The next click starts a new object.");
  }

  remove(id) {
    const one = this.document.find(id);
    if (!one) return;
    if (one.locked) return this.tell(`${nameOf(one)} is locked. Unlock it in the list to delete it.`);
    this.document.remove(`delete ${nameOf(one)}`, [id]);
    this.refresh();
    this.say(`${nameOf(one)} deleted. Undo brings it back.`);
  }

  removeAll() {
    const ids = this.document.state.objects.filter((one) => !one.locked).map((one) => one.id);
    if (!ids.length) return;
    this.document.remove("delete all", ids);
    this.refresh();
    this.say(`${counted(ids.length)} deleted. Undo brings ${ids.length === 1 ? "it" : "them"} back.`);
  }

  step(by) {
    const label = this.document.step(by);
    if (label === null) return this.say(by < 0 ? "Nothing to undo." : "Nothing to redo.");
    this.refresh();
    this.say(`${by < 0 ? "Undone" : "Done again"}: ${label}.`);
  }

  /** The scene as the server takes it. */
  body(objects = this.document.objects) {
    return {
      objects: objects.map((one) => {
        const { uncertainty, same_as, ...record } = one.shape;
        return { ...record, name: one.name || record.name };
      }),
    };
  }

  /** Ask the server who occludes whom, after the masks have changed. */
  refresh() {
    const { objects } = this.document;
    const shapes = objects.map((one) => one.shape);
    if (this.asked && shapes.length === this.asked.length && shapes.every((shape, i) => shape === this.asked[i])) return;
    this.asked = shapes;
    if (!objects.length) {
      this.facts = { order: [], frontToBack: [] };
      return this.notify();
    }
    this.enqueue(async () => {
      if (this.asked !== shapes) return; // a later change asks again
      const scene = await this.server.ask("scene", this.body(objects));
      const id = (index) => objects[index].id;
      this.facts = { order: scene.occlusion_order.map((pair) => pair.map(id)), frontToBack: scene.front_to_back.map(id) };
      this.notify();
    });
  }

  /** The objects from front to back; those that the server does not know yet are in front. */
  get inDepth() {
    const place = (one) => this.facts.frontToBack.indexOf(one.id);
    return this.document.objects.filter((one) => !one.hidden).sort((a, b) => place(a) - place(b));
  }
}
