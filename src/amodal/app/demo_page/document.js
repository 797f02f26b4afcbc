// The objects of an image and the history of their changes. A state is never changed, only replaced by another one.

const MAX_STATES = 200;

/**
 * An object: `id`, `name` (empty until it is named), `colour`, `hidden`, `locked`, `source` (how it was made), `prompt`
 * with `box`, `points` [[x, y, label]] and `mask` (whether the visible mask was given), and `shape`, its record as in
 * scene.json with its uncertainty. Shapes are replaced as a whole.
 */
export class Document extends EventTarget {
  constructor() {
    super();
    this.reset();
  }

  reset(states = [{ label: "", objects: [], nextId: 1, leastScore: 0 }], place = states.length - 1) {
    this.states = states;
    this.place = place;
    this.selected = null;
    this.changed();
  }

  get state() { return this.states[this.place]; }

  /** Objects that the confidence slider lets through; it filters only those that "Find all" found. */
  get objects() {
    return this.state.objects.filter((one) => one.source !== "found" || one.shape.score >= this.state.leastScore);
  }

  get current() { return this.objects.find((one) => one.id === this.selected) || null; }

  get canUndo() { return this.place > 0; }

  get canRedo() { return this.place + 1 < this.states.length; }

  find(id) { return this.state.objects.find((one) => one.id === id) || null; }

  /** Add a state. With `merge`, it replaces the latest one if that has the same label. */
  commit(label, change, merge = false) {
    const replaces = merge && this.place > 0 && this.state.label === label && !this.canRedo;
    const next = { ...this.state, ...change, label };
    this.states = [...this.states.slice(0, this.place + (replaces ? 0 : 1)), next].slice(-MAX_STATES);
    this.place = this.states.length - 1;
    this.changed();
  }

  /** Add objects, which get the next ids where they have none; returns their ids. */
  add(label, made, merge = false) {
    let { nextId } = this.state;
    const added = made.map((one) => {
      const id = one.id ?? nextId;
      nextId = Math.max(nextId, id + 1);
      return { name: "", hidden: false, locked: false, colour: colourOf(id - 1), ...one, id };
    });
    this.commit(label, { objects: [...this.state.objects, ...added], nextId }, merge);
    return added.map((one) => one.id);
  }

  update(label, id, change, merge = false) {
    const objects = this.state.objects.map((one) => (one.id === id ? { ...one, ...change } : one));
    this.commit(label, { objects }, merge);
  }

  remove(label, ids) {
    this.commit(label, { objects: this.state.objects.filter((one) => !ids.includes(one.id)) });
    if (ids.includes(this.selected)) this.select(null);
  }

  /** Move an object in the list, by one place up (-1) or down (1). */
  move(label, id, step) {
    const objects = [...this.state.objects];
    const from = objects.findIndex((one) => one.id === id);
    const to = from + step;
    if (from < 0 || to < 0 || to >= objects.length) return;
    objects.splice(to, 0, ...objects.splice(from, 1));
    this.commit(label, { objects });
  }

  step(by) {
    if (!this.states[this.place + by]) return null;
    const label = by < 0 ? this.state.label : this.states[this.place + by].label;
    this.place += by;
    if (this.selected !== null && !this.find(this.selected)) this.selected = null;
    this.changed();
    return label;
  }

  select(id) {
    this.selected = id;
    this.changed();
  }

  changed() { this.dispatchEvent(new Event("change")); }
}

/** How many objects, in words. */
export const counted = (number, kind = "object") => `${number} ${kind}${number === 1 ? "" : "s"}`;

/** What an object is called. */
export const nameOf = (object) => object.name || object.shape.name || object.shape.phrase || `Object ${object.id}`;

/** The colour of object `index`; hues are a golden angle apart, and every eight objects the saturation changes. */
export function colourOf(index) {
  const [saturation, value] = [[0.85, 1], [0.5, 1], [0.9, 0.75]][Math.floor(index / 8) % 3];
  const hue = ((0.56 + index * 0.618034) % 1) * 6;
  const channel = (offset) => {
    const k = (offset + hue) % 6;
    return Math.round(255 * (value - value * saturation * Math.max(0, Math.min(k, 4 - k, 1))));
  };
  return `#${[channel(5), channel(3), channel(1)].map((c) => c.toString(16).padStart(2, "0")).join("")}`;
}
