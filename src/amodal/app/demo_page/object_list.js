// The list of objects: colour, name, rate, and buttons to hide, lock, reorder and delete.

import { nameOf } from "./document.js";

export function element(kind, properties = {}, ...children) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "aria") for (const [key, text] of Object.entries(value)) made.setAttribute(`aria-${key}`, String(text));
    else if (name === "on") for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

const button = (text, label, click, pressed) => element("button", {
  type: "button", textContent: text, title: label, className: "small", aria: { label, ...(pressed === undefined ? {} : { pressed }) }, on: { click },
});

/** Keep `list` as the document is. Focus and text that is being typed survive. */
export function keepList(list, editor) {
  const { document: doc } = editor;
  const rows = new Map(); // id → { item, object }

  const make = (one) => {
    const label = nameOf(one);
    const change = (text, values, merge) => doc.update(`${text} ${label}`, one.id, values, merge);
    const colour = element("input", {
      type: "color", value: one.colour, aria: { label: `Colour of ${label}` },
      on: { change: (event) => change("colour of", { colour: event.target.value }) },
    });
    const name = element("input", {
      className: "name", value: one.name, placeholder: label, maxLength: 60, aria: { label: `Name of ${label}` },
      on: {
        change: (event) => change("name of", { name: event.target.value.trim() }),
        focus: () => { if (doc.selected !== one.id) doc.select(one.id); },
        keydown: (event) => { if (event.key === "Enter") event.target.blur(); },
      },
    });
    const rate = Math.round(one.shape.occlusion_rate * 100);
    const select = element("button", {
      type: "button", className: "select", textContent: `${rate}% hidden`, aria: { label: `Select ${label}, ${rate}% hidden`, pressed: false },
      on: { click: () => { editor.marked = new Set(); doc.select(one.id); } },
    });
    const bar = element("div", { className: "bar" }, element("span"));
    bar.firstChild.style.width = `${100 - rate}%`;
    bar.firstChild.style.background = one.colour;
    const tools = element("div", { className: "row-tools" },
      button(one.hidden ? "Show" : "Hide", `${one.hidden ? "Show" : "Hide"} ${label}`, () => change(one.hidden ? "show" : "hide", { hidden: !one.hidden }), one.hidden),
      button(one.locked ? "Unlock" : "Lock", `${one.locked ? "Unlock" : "Lock"} ${label}`, () => change(one.locked ? "unlock" : "lock", { locked: !one.locked }), one.locked),
      button("↑", `Move ${label} up`, () => doc.move(`order of ${label}`, one.id, -1)),
      button("↓", `Move ${label} down`, () => doc.move(`order of ${label}`, one.id, 1)),
      button("✕", `Delete ${label}`, () => editor.remove(one.id)));
    const item = element("li", {}, colour, element("div", { className: "middle" }, name, bar), select, tools);
    item.dataset.id = String(one.id);
    item.classList.toggle("faint", one.hidden);
    return item;
  };

  return () => {
    const focused = list.contains(document.activeElement) ? document.activeElement : null;
    const kept = focused && [focused.closest("li").dataset.id, focused.getAttribute("aria-label")?.split(" ")[0], focused.className];
    const { objects } = doc;
    for (const [id] of rows) if (!objects.some((one) => one.id === id)) rows.delete(id);
    const items = objects.map((one) => {
      if (rows.get(one.id)?.object !== one) rows.set(one.id, { object: one, item: make(one) });
      return rows.get(one.id).item;
    });
    if (items.length !== list.children.length || items.some((item, i) => item !== list.children[i])) list.replaceChildren(...items);
    for (const one of objects) {
      const { item } = rows.get(one.id);
      const chosen = one.id === doc.selected;
      item.classList.toggle("chosen", chosen || editor.marked.has(one.id));
      item.querySelector(".select").setAttribute("aria-pressed", String(chosen));
    }
    if (kept && !list.contains(document.activeElement)) { // the row was made again: return to the same control
      const controls = [...(rows.get(Number(kept[0]))?.item.querySelectorAll("button, input") || [])];
      const same = controls.find((one) => one.className === kept[2] && one.getAttribute("aria-label").split(" ")[0] === kept[1])
        || controls.find((one) => one.className === kept[2]);
      same?.focus();
    }
  };
}
