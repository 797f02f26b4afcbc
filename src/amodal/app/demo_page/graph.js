// The occlusion order as a graph: front objects are on the left, arrows point to the objects that they occlude.

const NS = "http://www.w3.org/2000/svg";

function make(name, attributes, parent) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  parent.append(element);
  return element;
}

/** Column of each object: one to the right of its rightmost occluder. Circular occlusion is cut by the depth order. */
function columns(count, pairs, order) {
  const column = new Array(count).fill(0);
  const place = new Map(order.map((index, i) => [index, i]));
  for (const index of order) {
    for (const [front, behind] of pairs) {
      if (behind === index && place.get(front) < place.get(behind)) {
        column[index] = Math.max(column[index], column[front] + 1);
      }
    }
  }
  return column;
}

/** Draw the graph; returns whether any object occludes another. */
export function drawOrder(svg, scene) {
  svg.replaceChildren();
  const pairs = scene.occlusion_order;
  const shown = scene.front_to_back.filter((i) => pairs.some((pair) => pair.includes(i)));
  const column = columns(scene.objects.length, pairs, scene.front_to_back);
  const rows = new Map();
  const spots = new Map();
  for (const index of shown) {
    const row = rows.get(column[index]) || 0;
    rows.set(column[index], row + 1);
    spots.set(index, [26 + column[index] * 74, 24 + row * 46]);
  }
  const width = 52 + 74 * Math.max(...shown.map((i) => column[i]), 0);
  const height = 4 + 46 * Math.max(...rows.values(), 1);
  svg.setAttribute("viewBox", `0 0 ${Math.max(width, 220)} ${height}`);
  const marker = make("marker", { id: "tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, make("defs", {}, svg));
  make("path", { d: "M0 0L8 4L0 8z" }, marker);
  for (const [front, behind] of pairs) {
    const [x0, y0] = spots.get(front);
    const [x1, y1] = spots.get(behind);
    const length = Math.hypot(x1 - x0, y1 - y0) || 1;
    const [dx, dy] = [(x1 - x0) / length, (y1 - y0) / length];
    make("path", { d: `M${x0 + dx * 18} ${y0 + dy * 18}L${x1 - dx * 19} ${y1 - dy * 19}`, "marker-end": "url(#tip)" }, svg);
  }
  for (const [index, [x, y]] of spots) {
    make("circle", { cx: x, cy: y, r: 16, fill: scene.objects[index].colour }, svg);
    make("text", { x, y: y + 1 }, svg).textContent = String(index);
  }
  return shown.length > 0;
}
