// Masks in windows of the image, { x, y, w, h, bits }, one byte per pixel and row by row; and COCO's run lengths.

/** Run lengths of compressed counts: unset pixels first, down the columns of the image. */
function runs(counts) {
  const found = [];
  for (let i = 0; i < counts.length;) {
    let value = 0;
    let shift = 0;
    let part;
    do {
      part = counts.charCodeAt(i++) - 48;
      value |= (part & 31) << shift;
      shift += 5;
    } while (part & 32);
    if (part & 16) value |= -1 << shift;
    if (found.length > 2) value += found[found.length - 2];
    found.push(value);
  }
  return found;
}

const NONE = [];

/** The sorted numbers that are in one of two sorted lists and not in both. */
export function differing(a, b) {
  if (!a.length) return b;
  if (!b.length) return a;
  const found = [];
  for (let i = 0, j = 0; i < a.length || j < b.length;) {
    if (i < a.length && a[i] === b[j]) { i += 1; j += 1; } else if (j === b.length || a[i] < b[j]) found.push(a[i++]);
    else found.push(b[j++]);
  }
  return found;
}

/**
 * Where the runs of an RLE begin and end: per column of the image a sorted list of rows, and per row one of columns.
 * Takes time for the edges of a mask only, not for its pixels.
 */
export function ends(rle) {
  const [H, W] = rle.size;
  const columns = new Array(W).fill(NONE);
  let position = 0;
  runs(rle.counts).forEach((length, i) => {
    for (let start = position; i % 2 && start < position + length;) {
      const column = Math.floor(start / H);
      const stop = Math.min(position + length, (column + 1) * H);
      columns[column] = differing(columns[column], [start - column * H, stop - column * H]); // joins runs that touch
      start = stop;
    }
    position += length;
  });
  const rows = new Array(H).fill(NONE);
  for (let column = 0; column <= W; column += 1) {
    const changes = differing(columns[column - 1] || NONE, columns[column] || NONE);
    for (let i = 0; i < changes.length; i += 2) {
      for (let row = changes[i]; row < changes[i + 1]; row += 1) {
        if (rows[row] === NONE) rows[row] = [];
        rows[row].push(column);
      }
    }
  }
  return { columns, rows };
}

/** The pixels of a mask, from its `ends`, in its tight window; a window without pixels for an empty mask. */
export function filled({ columns, rows }) {
  const set = (list) => list.length > 0;
  const [x, y] = [columns.findIndex(set), rows.findIndex(set)];
  if (x < 0) return { x: 0, y: 0, w: 0, h: 0, bits: new Uint8Array(0) };
  const [w, h] = [columns.findLastIndex(set) - x + 1, rows.findLastIndex(set) - y + 1];
  const bits = new Uint8Array(w * h);
  for (let row = 0; row < h; row += 1) {
    const own = rows[y + row];
    for (let i = 0; i < own.length; i += 2) bits.fill(1, row * w + own[i] - x, row * w + own[i + 1] - x);
  }
  return { x, y, w, h, bits };
}

/** The edges between the pixels of a mask and the others, from its `ends`, as closed lines of corners [x, y]. */
export function outlines({ columns, rows }) {
  const width = columns.length + 1;
  const across = new Map(); // corner → the corner at the other end of its horizontal edge
  const down = new Map(); // the same for its vertical edge
  const link = (edges, a, b) => { edges.set(a, b); edges.set(b, a); };
  for (let row = 0; row <= rows.length; row += 1) {
    const changes = differing(rows[row - 1] || NONE, rows[row] || NONE);
    for (let i = 0; i < changes.length; i += 2) link(across, row * width + changes[i], row * width + changes[i + 1]);
  }
  for (let column = 0; column <= columns.length; column += 1) {
    const changes = differing(columns[column - 1] || NONE, columns[column] || NONE);
    for (let i = 0; i < changes.length; i += 2) link(down, changes[i] * width + column, changes[i + 1] * width + column);
  }
  const lines = [];
  for (const first of across.keys()) { // each corner is visited once: a line deletes its own
    const line = [];
    for (let corner = first; across.has(corner);) {
      const next = across.get(corner);
      across.delete(corner);
      across.delete(next);
      for (const one of [corner, next]) line.push([one % width, Math.floor(one / width)]);
      corner = down.get(next);
    }
    lines.push(line);
  }
  return lines;
}

/** The RLE of a mask in an image of size [H, W]. */
export function encode(mask, [H, W]) {
  const lengths = [];
  let last = 0;
  let start = 0;
  const change = (position) => { lengths.push(position - start); start = position; last = 1 - last; };
  for (let column = 0; column < mask.w; column += 1) {
    const base = (mask.x + column) * H + mask.y;
    for (let row = 0; row < mask.h; row += 1) {
      if (mask.bits[row * mask.w + column] !== last) change(base + row);
    }
    if (last && (mask.h < H || column + 1 === mask.w)) change(base + mask.h); // the next pixel is outside the window
  }
  if (H * W > start) lengths.push(H * W - start);
  let counts = "";
  lengths.forEach((length, i) => {
    let value = i > 2 ? length - lengths[i - 2] : length;
    for (let more = true; more;) {
      let part = value & 31;
      value >>= 5;
      more = part & 16 ? value !== -1 : value !== 0;
      if (more) part |= 32;
      counts += String.fromCharCode(part + 48);
    }
  });
  return { size: [H, W], counts };
}

export const isSet = (mask, x, y) => x >= mask.x && y >= mask.y && x < mask.x + mask.w && y < mask.y + mask.h
  && mask.bits[(y - mask.y) * mask.w + x - mask.x] === 1;

export function area(mask) {
  let count = 0;
  for (let i = 0; i < mask.bits.length; i += 1) count += mask.bits[i];
  return count;
}

export const isEmpty = (mask) => !mask.bits.includes(1);

/** A copy of the mask in another window. */
export function inWindow(mask, x, y, w, h) {
  const bits = new Uint8Array(w * h);
  const left = Math.max(x, mask.x);
  const right = Math.min(x + w, mask.x + mask.w);
  for (let row = Math.max(y, mask.y); row < Math.min(y + h, mask.y + mask.h) && left < right; row += 1) {
    const from = (row - mask.y) * mask.w - mask.x;
    bits.set(mask.bits.subarray(from + left, from + right), (row - y) * w + left - x);
  }
  return { x, y, w, h, bits };
}

/** The mask after a stroke of a round brush along points [x, y]; `value` is 1 to add pixels and 0 to remove them. */
export function stroked(mask, points, radius, value, [H, W]) {
  const xs = points.map((point) => point[0]);
  const ys = points.map((point) => point[1]);
  const has = mask.w > 0;
  const x = Math.max(Math.floor(Math.min(...xs) - radius), 0);
  const y = Math.max(Math.floor(Math.min(...ys) - radius), 0);
  const right = Math.min(Math.ceil(Math.max(...xs) + radius), W);
  const bottom = Math.min(Math.ceil(Math.max(...ys) + radius), H);
  const left = has ? Math.min(x, mask.x) : x;
  const top = has ? Math.min(y, mask.y) : y;
  const result = inWindow(mask, left, top, Math.max(right, has ? mask.x + mask.w : 0) - left,
    Math.max(bottom, has ? mask.y + mask.h : 0) - top);
  points.forEach((end, i) => {
    const begin = points[Math.max(i - 1, 0)];
    const [dx, dy] = [end[0] - begin[0], end[1] - begin[1]];
    const length = dx * dx + dy * dy || 1;
    const last = Math.min(Math.ceil(Math.max(begin[1], end[1]) + radius), H);
    for (let row = Math.max(Math.floor(Math.min(begin[1], end[1]) - radius), 0); row < last; row += 1) {
      const stop = Math.min(Math.ceil(Math.max(begin[0], end[0]) + radius), W);
      for (let column = Math.max(Math.floor(Math.min(begin[0], end[0]) - radius), 0); column < stop; column += 1) {
        const [px, py] = [column + 0.5 - begin[0], row + 0.5 - begin[1]];
        const share = Math.min(Math.max((px * dx + py * dy) / length, 0), 1);
        if (Math.hypot(px - share * dx, py - share * dy) <= radius) {
          result.bits[(row - top) * result.w + column - left] = value;
        }
      }
    }
  });
  return result;
}

/** The pixels whose centres are inside a polygon [[x, y], ...]. */
export function inside(polygon, [H, W]) {
  const ys = polygon.map((point) => point[1]);
  const xs = polygon.map((point) => point[0]);
  const x = Math.max(Math.floor(Math.min(...xs)), 0);
  const y = Math.max(Math.floor(Math.min(...ys)), 0);
  const w = Math.min(Math.ceil(Math.max(...xs)), W) - x;
  const h = Math.min(Math.ceil(Math.max(...ys)), H) - y;
  const bits = new Uint8Array(Math.max(w * h, 0));
  for (let row = 0; row < h; row += 1) {
    const centre = y + row + 0.5;
    const crossings = [];
    polygon.forEach(([x1, y1], i) => {
      const [x0, y0] = polygon[(i || polygon.length) - 1];
      if ((y0 > centre) !== (y1 > centre)) crossings.push(x0 + ((centre - y0) / (y1 - y0)) * (x1 - x0));
    });
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const from = Math.max(Math.ceil(crossings[i] - 0.5) - x, 0);
      const to = Math.min(Math.ceil(crossings[i + 1] - 0.5) - x, w);
      if (from < to) bits.fill(1, row * w + from, row * w + to);
    }
  }
  return { x, y, w: Math.max(w, 0), h: Math.max(h, 0), bits };
}

/** The pixels that are in both masks, in the window of the first. */
export function both(a, b) {
  const other = inWindow(b, a.x, a.y, a.w, a.h);
  return { ...a, bits: a.bits.map((bit, i) => bit & other.bits[i]) };
}
