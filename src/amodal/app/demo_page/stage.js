// The stage: a canvas with zoom and pan, and the pointers and keys that act on it in image pixels.

const MAX_SCALE = 40; // screen pixels per image pixel

export class Stage {
  /**
   * `paint(pen, stage)` draws everything; `tool()` returns the tool in use, whose `down`, `move`, `up` and `cancel` get
   * a position [x, y] in image pixels and the event.
   */
  constructor(canvas, { paint, tool, keyboard }) {
    Object.assign(this, { canvas, paint, tool, size: null, scale: 1, x: 0, y: 0, fitted: true });
    this.cursor = null; // position of the keyboard's cross, in image pixels
    this.pointers = new Map();
    this.spaced = false; // the space key is held down
    this.drag = null;
    new ResizeObserver(() => (this.fitted ? this.fit() : this.request())).observe(canvas);
    canvas.addEventListener("wheel", (event) => {
      if (!this.size) return;
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), this.screen(event));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", (event) => this.up(event, true));
    canvas.addEventListener("pointerleave", () => { this.pointer = null; this.request(); });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("blur", () => { this.cursor = null; this.request(); });
    canvas.addEventListener("keydown", (event) => keyboard(event));
  }

  /** Screen position in CSS pixels of the canvas. */
  screen(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  /** Image position of a screen position, inside the image. */
  position([left, top]) {
    const [H, W] = this.size;
    return [Math.min(Math.max((left - this.x) / this.scale, 0), W - 0.01), Math.min(Math.max((top - this.y) / this.scale, 0), H - 0.01)];
  }

  onScreen([x, y]) { return [x * this.scale + this.x, y * this.scale + this.y]; }

  get room() { return [this.canvas.clientWidth, this.canvas.clientHeight]; }

  /** Show the whole image. */
  fit() {
    if (!this.size || !this.room[0]) return;
    const [H, W] = this.size;
    const [width, height] = this.room;
    this.scale = Math.min(width / W, height / H);
    this.x = (width - W * this.scale) / 2;
    this.y = (height - H * this.scale) / 2;
    this.fitted = true;
    this.request();
  }

  zoom(factor, [left, top] = this.room.map((side) => side / 2)) {
    if (!this.size) return;
    const [H, W] = this.size;
    const whole = Math.min(this.room[0] / W, this.room[1] / H);
    const scale = Math.min(Math.max(this.scale * factor, whole), MAX_SCALE);
    if (scale <= whole * 1.001) return this.fit();
    this.x = left - ((left - this.x) * scale) / this.scale;
    this.y = top - ((top - this.y) * scale) / this.scale;
    this.scale = scale;
    this.fitted = false;
    this.pan(0, 0);
  }

  pan(dx, dy) {
    const [H, W] = this.size;
    const kept = (value, side, length) => (length <= side ? (side - length) / 2 : Math.min(Math.max(value, side - length), 0));
    this.x = kept(this.x + dx, this.room[0], W * this.scale);
    this.y = kept(this.y + dy, this.room[1], H * this.scale);
    this.request();
  }

  down(event) {
    if (!this.size) return;
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, this.screen(event));
    if (this.pointers.size === 2) { // two fingers zoom and pan
      if (this.drag === "tool") this.tool().cancel();
      this.drag = "pinch";
    } else if (this.spaced || event.button === 1) this.drag = "pan";
    else if (event.button === 0 || event.button === 2) {
      this.drag = "tool";
      this.tool().down(this.position(this.screen(event)), event);
    }
    this.request();
    event.preventDefault();
  }

  move(event) {
    if (!this.size) return;
    const here = this.screen(event);
    this.pointer = here;
    const before = this.pointers.get(event.pointerId);
    if (before && this.drag === "pan") this.pan(here[0] - before[0], here[1] - before[1]);
    else if (before && this.drag === "pinch" && this.pointers.size === 2) {
      const [, other] = [...this.pointers].find(([id]) => id !== event.pointerId);
      const distance = (a) => Math.hypot(a[0] - other[0], a[1] - other[1]) || 1;
      this.zoom(distance(here) / distance(before), other);
      this.pan((here[0] - before[0]) / 2, (here[1] - before[1]) / 2);
    } else if (this.drag === "tool" || !this.drag) this.tool().move(this.position(here), event);
    if (before) this.pointers.set(event.pointerId, here);
    this.request();
  }

  up(event, cancelled = false) {
    if (!this.pointers.delete(event.pointerId)) return;
    if (this.drag === "tool") {
      if (cancelled) this.tool().cancel();
      else this.tool().up(this.position(this.screen(event)), event);
    }
    if (!this.pointers.size) this.drag = null;
    this.request();
  }

  /** Paint at the next frame. */
  request() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = null;
      const ratio = window.devicePixelRatio || 1;
      const [width, height] = this.room;
      const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
      if (this.canvas.width !== w || this.canvas.height !== h) [this.canvas.width, this.canvas.height] = [w, h];
      const pen = this.canvas.getContext("2d");
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      pen.clearRect(0, 0, width, height);
      if (this.size) this.paint(pen, this);
    });
  }
}
