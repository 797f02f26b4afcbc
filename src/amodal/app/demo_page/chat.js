// Questions and answers. The words of an answer that name objects are buttons that select them.

import { element } from "./object_list.js";

export class Chat {
  constructor(talk, editor) {
    Object.assign(this, { talk, editor });
    this.lines = [];
  }

  /** Show earlier lines, for instance after a reload. */
  restore(lines) {
    this.lines = lines;
    this.talk.replaceChildren(...lines.map((line) => this.line(line)));
    this.talk.scrollTop = this.talk.scrollHeight;
  }

  add(line) {
    this.lines.push(line);
    this.talk.append(this.line(line));
    this.talk.scrollTop = this.talk.scrollHeight;
  }

  async ask(question) {
    this.add({ from: "you", parts: [{ text: question, ids: [] }] });
    const reply = await this.editor.ask(question);
    this.add({ from: "it", parts: reply ? reply.parts : [{ text: "There is no answer; the message at the image says why.", ids: [] }] });
  }

  line({ from, parts }) {
    const { document: doc } = this.editor;
    return element("p", { className: from }, ...parts.map(({ text, ids }) => {
      if (!ids.length) return text;
      const mark = element("button", { type: "button", className: "mark", textContent: text, title: "Select this object", on: {
        click: () => {
          const there = ids.filter((id) => doc.find(id));
          this.editor.marked = new Set(there);
          doc.select(there[0] ?? null);
          if (!there.length) this.editor.tell("This object was deleted. Undo brings it back.");
        },
      } });
      mark.style.borderColor = doc.find(ids[0])?.colour || "";
      return mark;
    }));
  }
}
