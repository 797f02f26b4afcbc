// The occlusion order as a graph: front objects are on the left, arrows point to the objects that they occlude.

import { nameOf } from "./document.js";

const NS = "http://www.w3.org/2000/svg";

function make(name, attributes, parent) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  parent.append(element);
  return element;
}

/** Column of each object: one to the right of its rightmost occluder. Circular occlusion is cut by the depth order. */
function columns(pairs, order) {
  const column = new Map(order.map((id) => [id, 0]));
  const place = new Map(order.map((id, i) => [id, i]));
  for (const id of order) {
    for (const [front, behind] of pairs) {
      if (behind === id && place.get(front) < place.get(behind)) column.set(id, Math.max(column.get(id), column.get(front) + 1));
    }
  }
  return column;
}

/** Draw the graph of the objects (by id) and describe it in words; returns whether any object occludes another. */
export function drawOrder(svg, { order, frontToBack }, objects, selected, onSelect) {
  svg.replaceChildren();
  const byId = new Map(objects.map((one) => [one.id, one]));
  const pairs = order.filter((pair) => pair.every((id) => byId.has(id)));
  const shown = frontToBack.filter((id) => pairs.some((pair) => pair.includes(id)));
  const column = columns(pairs, frontToBack);
  const rows = new Map();
  const spots = new Map();
  for (const id of shown) {
    const row = rows.get(column.get(id)) || 0;
    rows.set(column.get(id), row + 1);
    spots.set(id, [48 + column.get(id) * 92, 24 + row * 56]);
  }
  const width = 96 + 92 * Math.max(...shown.map((id) => column.get(id)), 0);
  const height = 14 + 56 * Math.max(...rows.values(), 1);
  svg.setAttribute("viewBox", `0 0 ${Math.max(width, 260)} ${height}`);
  const name = (id) => nameOf(byId.get(id));
  svg.setAttribute("aria-label", pairs.length ? `Occlusion order. ${pairs.map(([a, b]) => `${name(a)} occludes ${name(b)}`).join("; ")}.` : "Occlusion order: no object occludes another.");
  const marker = make("marker", { id: "tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, make("defs", {}, svg));
  make("path", { d: "M0 0L8 4L0 8z" }, marker);
  for (const [front, behind] of pairs) {
    const [x0, y0] = spots.get(front);
    const [x1, y1] = spots.get(behind);
    const length = Math.hypot(x1 - x0, y1 - y0) || 1;
    const [dx, dy] = [(x1 - x0) / length, (y1 - y0) / length];
    make("path", { d: `M${x0 + dx * 16} ${y0 + dy * 16}L${x1 - dx * 17} ${y1 - dy * 17}`, "marker-end": "url(#tip)" }, svg);
  }
  for (const [id, [x, y]] of spots) {
    const spot = make("g", {}, svg);
    make("circle", { cx: x, cy: y, r: id === selected ? 15 : 12, fill: byId.get(id).colour }, spot);
    make("text", { x, y: y + 26 }, spot).textContent = name(id).slice(0, 13);
    spot.addEventListener("click", () => onSelect(id));
  }
  return shown.length > 0;
}
