// Messages: a line that screen readers read out, and a bubble at the place on the image that a message is about.

const SHOWN_MS = 9000;

export class Messages {
  constructor(line, bubble, room) {
    Object.assign(this, { line, bubble, room });
    bubble.addEventListener("click", () => this.hide());
  }

  /** What has happened. */
  say(text) {
    this.line.textContent = text;
    this.line.classList.remove("bad");
    this.hide();
  }

  /** What went wrong and what to do, at a position [left, top] of the stage, or at its top. */
  tell(text, position = null) {
    this.line.textContent = text;
    this.line.classList.add("bad");
    const [width, height] = [this.room.clientWidth, this.room.clientHeight];
    this.bubble.textContent = text;
    this.bubble.hidden = false;
    const [w, h] = [this.bubble.offsetWidth, this.bubble.offsetHeight];
    const [left, top] = position || [width / 2, 12];
    this.bubble.style.left = `${Math.min(Math.max(left - w / 2, 6), Math.max(width - w - 6, 6))}px`;
    this.bubble.style.top = `${top + 16 + h > height ? Math.max(top - h - 16, 6) : top + 16}px`;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.hide(), SHOWN_MS);
  }

  hide() {
    clearTimeout(this.timer);
    this.bubble.hidden = true;
  }
}
