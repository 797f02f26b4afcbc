// The image and the boxes and points that the visitor draws on it, in image pixels.

const MIN_SIDE = 3; // screen pixels; a shorter drag is taken for a mistake

export class Stage {
  /** `onBox([x0, y0, x1, y1])` and `onPoint([x, y])` are called with image pixels. */
  constructor(image, canvas, { onBox, onPoint }) {
    this.image = image;
    this.canvas = canvas;
    this.tool = "box";
    this.size = [1, 1];
    this.prompts = { boxes: [], points: [] };
    this.start = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      this.start = this.at(event);
      this.end = this.start;
      event.preventDefault();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.start) return;
      this.end = this.at(event);
      this.paint();
    });
    canvas.addEventListener("pointercancel", () => { this.start = null; this.paint(); });
    canvas.addEventListener("pointerup", (event) => {
      if (!this.start) return;
      const [x0, y0] = this.start;
      const [x1, y1] = this.at(event);
      this.start = null;
      const scale = this.canvas.clientWidth / this.size[1];
      const small = Math.abs(x1 - x0) * scale < MIN_SIDE || Math.abs(y1 - y0) * scale < MIN_SIDE;
      if (this.tool === "point") onPoint([x1, y1]);
      else if (!small) onBox([Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)]);
      this.paint();
    });
    new ResizeObserver(() => this.fit()).observe(image);
    image.addEventListener("load", () => this.fit());
  }

  /** Place the canvas exactly over the visible part of the image element. */
  fit() {
    const [H, W] = this.size;
    const box = this.image.getBoundingClientRect();
    const scale = Math.min(box.width / W, box.height / H);
    if (!(scale > 0)) return;
    const style = this.canvas.style;
    style.width = `${W * scale}px`;
    style.height = `${H * scale}px`;
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(W * scale * ratio);
    this.canvas.height = Math.round(H * scale * ratio);
    this.paint();
  }

  /** Position of a pointer event in image pixels, inside the image. */
  at(event) {
    const box = this.canvas.getBoundingClientRect();
    const [H, W] = this.size;
    const x = ((event.clientX - box.left) / box.width) * W;
    const y = ((event.clientY - box.top) / box.height) * H;
    return [Math.min(Math.max(x, 0), W - 0.01), Math.min(Math.max(y, 0), H - 0.01)];
  }

  /** Draw the prompts, the box that is being drawn and the boxes that are being segmented. */
  paint() {
    const pen = this.canvas.getContext("2d");
    const scale = this.canvas.width / this.size[1];
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const line = 2 * (window.devicePixelRatio || 1);
    const rectangle = ([x0, y0, x1, y1], dash) => {
      for (const [colour, width] of [["rgba(0,0,0,.75)", line * 2], ["#fff", line]]) {
        pen.strokeStyle = colour;
        pen.lineWidth = width;
        pen.setLineDash(dash ? [line * 3, line * 2] : []);
        pen.strokeRect(x0 * scale, y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale);
      }
    };
    if (this.start && this.tool === "box") {
      const [[a, b], [c, d]] = [this.start, this.end];
      rectangle([Math.min(a, c), Math.min(b, d), Math.max(a, c), Math.max(b, d)], true);
    }
    for (const box of this.pending || []) rectangle(box, true);
    pen.setLineDash([]);
    for (const [x, y] of this.prompts.points) {
      pen.beginPath();
      pen.arc(x * scale, y * scale, line * 2.6, 0, 7);
      pen.fillStyle = "#fff";
      pen.fill();
      pen.strokeStyle = "rgba(0,0,0,.8)";
      pen.lineWidth = line;
      pen.stroke();
    }
  }
}
