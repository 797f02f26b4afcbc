// Texts of a pair as page elements. Everything that a person or a model wrote becomes a text node.

// "the mug #2 #3" -> {words: "the mug", numbers: [2, 3]}; null without a number at the end.
function mention(inside) {
  const words = inside.split(/\s+/).filter(Boolean);
  const numbers = [];
  while (words.length) {
    const last = words[words.length - 1];
    const cut = last.lastIndexOf("#");
    const digits = last.slice(cut + 1);
    if (cut < 0 || !/^[0-9]{1,9}$/.test(digits)) break;
    numbers.unshift(Number(digits));
    words.pop();
    if (cut > 0) words.push(last.slice(0, cut));
  }
  return numbers.length ? { words: words.join(" "), numbers } : null;
}

// Pieces of an answer: strings and mentions, in order.
export function parse(answer) {
  const pieces = [];
  let from = 0;
  for (const match of answer.matchAll(/\[([^[\]]*)\]/g)) {
    const found = mention(match[1]);
    if (!found) continue;
    if (match.index > from) pieces.push(answer.slice(from, match.index));
    pieces.push(found);
    from = match.index + match[0].length;
  }
  if (from < answer.length) pieces.push(answer.slice(from));
  return pieces;
}

export function mentionedNumbers(answer) {
  return new Set(parse(answer).flatMap((piece) => piece.numbers ?? []));
}

export function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

export function badge(obj) {
  const element = make("span", "badge", String(obj.number));
  tint(element, obj);
  return element;
}

export function tint(element, obj) {
  element.style.setProperty("--object", obj.colour);
  element.style.setProperty("--object-ink", inkOn(obj.colour));
}

// Dark or light text, whichever is readable on a colour "#rrggbb".
export function inkOn(colour) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return 0.299 * r + 0.587 * g + 0.114 * b > 120 ? "#14161b" : "#ffffff";
}

// Show an answer with marked objects; calls `onPoint` with the number under the pointer, or null.
export function showAnswer(element, answer, objects, onPoint) {
  element.replaceChildren(...parse(answer).map((piece) => (typeof piece === "string" ? piece : chip(piece, objects, onPoint))));
}

function chip(piece, objects, onPoint) {
  const known = piece.numbers.map((number) => objects.find((obj) => obj.number === number));
  if (known.some((obj) => !obj)) {
    return make("span", "unknown", `[${piece.words} ${piece.numbers.map((n) => `#${n}`).join(" ")}: no such object]`);
  }
  const element = make("span", "mention", piece.words); // not a button, which would not wrap like words
  element.tabIndex = 0;
  element.dataset.numbers = piece.numbers.join(" ");
  tint(element, known[0]);
  element.append(...known.map(badge));
  element.addEventListener("pointerenter", () => onPoint(piece.numbers[0]));
  element.addEventListener("pointerleave", () => onPoint(null));
  element.addEventListener("focus", () => onPoint(piece.numbers[0]));
  element.addEventListener("blur", () => onPoint(null));
  return element;
}

// Show the changes from one text to another, word by word (longest common subsequence), or only the new
// text if most words changed.
export function showChanges(element, before, after) {
  const a = before.split(/(\s+)/).filter((w) => w.trim()), b = after.split(/(\s+)/).filter((w) => w.trim());
  if (a.length * b.length > 400000) return element.replaceChildren(after);
  const length = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      length[i][j] = a[i] === b[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  if (length[0][0] < 0.4 * Math.max(a.length, b.length)) return element.replaceChildren(make("ins", "", after));
  const runs = [];
  const add = (tag, word) => {
    const last = runs[runs.length - 1];
    if (last && last.tag === tag) last.words.push(word);
    else runs.push({ tag, words: [word] });
  };
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) { add("", b[j]); i++; j++; }
    else if (i < a.length && (j === b.length || length[i + 1][j] >= length[i][j + 1])) add("del", a[i++]);
    else add("ins", b[j++]);
  }
  element.replaceChildren(...runs.flatMap((run) => [run.tag ? make(run.tag, "", run.words.join(" ")) : run.words.join(" "), " "]));
}
