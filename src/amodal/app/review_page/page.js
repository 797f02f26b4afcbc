// The review page: people judge one pair at a time, by keyboard or mouse.
import { Scene } from "./masks.js";
import { draw, light, listenToStage } from "./stage.js";
import { $, currentAnswer, state } from "./state.js";
import { badge, make, mentionedNumbers, showAnswer, showChanges } from "./text.js";

const REASONS = ["The question names the object", "The answer names a wrong object", "A statement about what hides what is wrong", "Nobody would ask this"];

/* Requests */

async function post(path, body) {
  const answer = await fetch(`api/${path}`, {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ reviewer: state.reviewer, ...body }),
  });
  const kind = answer.headers.get("content-type") ?? "";
  const content = kind.startsWith("application/json") ? await answer.json() : { error: await answer.text() };
  if (!answer.ok) throw Object.assign(new Error(content.error || `error ${answer.status}`), { status: answer.status });
  if (content.progress) showProgress(content.progress);
  return content;
}

// Run one action at a time; report errors, and replace a pair that changed meanwhile by the next one.
async function act(work) {
  if (state.busy) return; // a key pressed twice must not judge the next, unseen pair
  setBusy(true);
  try {
    await work();
  } catch (error) {
    say(error.status ? error.message : "The server does not respond. Nothing is lost; try again.", true);
    if (error.status === 409 && state.item) await next().catch(() => {});
  } finally {
    setBusy(false);
  }
}

function setBusy(busy) {
  state.busy = busy;
  document.body.classList.toggle("busy", busy);
}

async function next() {
  await receive(await post("next", { skip: state.skipped }));
}

async function receive(content) {
  state.reviewer = content.reviewer;
  if (!content.item) return showDone(content.progress);
  const image = new Image();
  image.src = content.item.image.url;
  const failed = await image.decode().then(() => false, () => true);
  show(content.item, image, failed);
}

/* Verdicts */

const accept = () => act(() => judged("Accepted", { verdict: "accept" }));
const refuse = () => act(() => judged("Rejected", { verdict: "reject", note: [state.reason, $("note").value.trim()].filter(Boolean).join(": ") }));
const save = () => act(() => judged("Fixed", { verdict: "fix", question: $("edit-question").value, answer: $("edit-answer").value }));

async function judged(word, body) {
  const item = state.item;
  if (!item) return;
  const content = await post("review", { pair: item.id, tries: item.tries, ...body });
  const outcome = { accepted: "accepted for good", rewritten: "rewritten for good", rejected: "rejected for good", cross_checked: "another person decides" }[content.state];
  say(`${word} pair ${item.id}${outcome ? `: ${outcome}` : ""}.`);
  await next();
}

const skip = () => act(async () => {
  const item = state.item;
  state.skipped = [...state.skipped.filter((id) => id !== item.id), item.id].slice(-500);
  await post("release", { pair: item.id });
  say(`Put pair ${item.id} aside.`);
  await next();
});

const undo = () => act(async () => {
  const content = await post("undo", {});
  await receive(content);
  say(`Withdrew the verdict on pair ${content.item.id}.`);
});

/* Showing */

function show(item, image, failed) {
  Object.assign(state, { item, scene: failed ? null : new Scene(image, item), lit: null, pinned: null, zoom: 1, centre: null, reason: null, draft: null });
  page("desk");
  phase("judge");
  $("question").textContent = item.question;
  showAnswer($("answer"), item.answer, item.objects, light);
  const claims = item.claims.map(([front, behind]) => `#${front} hides part of #${behind}`);
  $("claims").hidden = !claims.length;
  $("claims").textContent = `Stated by the writer: ${claims.join(", ")}.`;
  const notice = failed ? "The image could not be loaded." : item.fault ? `Automatic check: ${item.fault}`
    : item.state === "cross_checked" ? "The earlier verdicts differ. Your verdict decides." : "";
  $("notice").hidden = !notice;
  $("notice").className = failed || item.fault ? "bad" : "";
  $("notice").textContent = notice;
  $("verdicts").replaceChildren(...item.verdicts.map(verdictCard));
  $("frame").style.setProperty("--ratio", item.image.width / item.image.height);
  state.mode = state.mode === "none" ? "visible" : state.mode;
  showObjects();
  showModes();
  $("paper").scrollTop = 0;
  draw();
}

function verdictCard(verdict, index) {
  const card = make("article", "verdict"), head = make("header");
  const word = { accept: "accepts", fix: "rewrites", reject: "rejects" }[verdict.verdict];
  head.append(make("span", `word-${verdict.verdict}`, `Reviewer ${index + 1} ${word}`));
  card.append(head);
  if (verdict.verdict === "fix") {
    const proposals = state.item.verdicts.filter((other) => other.verdict === "fix");
    const key = ["T", "Y"][proposals.indexOf(verdict)];
    const take = make("button", "", "Use this text ");
    take.type = "button";
    if (key) take.append(make("kbd", "", key));
    take.addEventListener("click", () => takeOver(verdict));
    head.append(take);
    for (const part of ["question", "answer"]) {
      if (verdict[part] === null) continue;
      const line = make("p");
      showChanges(line, state.item[part], verdict[part]);
      card.append(line);
    }
  }
  if (verdict.note) card.append(make("p", "note", `“${verdict.note}”`));
  return card;
}

function showObjects() {
  const mentioned = mentionedNumbers(currentAnswer());
  const listed = state.item.objects.filter((obj) => state.all || state.phase === "write" || mentioned.has(obj.number));
  $("objects").replaceChildren(...listed.map((obj) => {
    const button = make("button", mentioned.has(obj.number) ? "" : "absent");
    button.type = "button";
    button.dataset.number = obj.number;
    const hidden = Math.round(obj.hidden * 100);
    const behind = obj.behind.length ? ` behind ${obj.behind.map((n) => `#${n}`).join(", ")}` : "";
    button.append(badge(obj), make("span", "", obj.name), make("small", "", hidden ? `${hidden}% hidden${behind}` : "whole"));
    button.addEventListener("pointerenter", () => light(obj.number));
    button.addEventListener("pointerleave", () => light(null));
    button.addEventListener("mousedown", (event) => event.preventDefault()); // the text field keeps its selection
    button.addEventListener("click", () => choose(obj.number));
    const item = make("li");
    item.append(button);
    return item;
  }));
}

function showModes() {
  for (const button of document.querySelectorAll("[data-mode]")) {
    button.setAttribute("aria-checked", String(button.dataset.mode === state.mode));
  }
  $("others").setAttribute("aria-pressed", String(state.all));
  $("others").firstChild.textContent = `All ${state.item?.objects.length ?? ""} objects `;
}

function showProgress(progress) {
  const s = progress.states;
  const parts = [["accepted", s.accepted, "--accept"], ["rewritten", s.rewritten, "--fix"], ["rejected", s.rejected, "--reject"],
    ["under review", s.reviewed + s.cross_checked, "--under"], ["not seen yet", s.checked, "--open"]];
  const total = parts.reduce((sum, part) => sum + part[1], 0);
  $("bar").replaceChildren(...parts.filter((part) => part[1]).map(([, count, colour]) => {
    const part = make("span");
    part.style.flexGrow = count;
    part.style.background = `var(${colour})`;
    return part;
  }));
  const words = parts.map(([name, count]) => `${count} ${name}`).join(", ");
  $("bar").setAttribute("aria-label", words);
  $("bar").title = words;
  const decided = s.accepted + s.rewritten + s.rejected;
  $("count").textContent = `${decided} of ${total} decided · ${progress.mine} by you · ${progress.left} to go`;
  $("who").textContent = state.reviewer;
  state.lease = progress.lease_seconds;
}

function showDone(progress) {
  state.item = state.scene = null;
  page("done");
  const waiting = progress.left;
  $("done-title").textContent = waiting ? "Nothing for you right now" : "All done. Thank you!";
  $("done-text").textContent = waiting
    ? `${waiting} ${waiting === 1 ? "pair is" : "pairs are"} held by other people at the moment.`
    : `You judged ${progress.mine} ${progress.mine === 1 ? "pair" : "pairs"}; the open pairs wait for other people.`;
  $("again").focus();
}

function page(name) {
  for (const id of ["hello", "desk", "done"]) $(id).hidden = id !== name;
}

function phase(name) {
  state.phase = name;
  if (name === "judge") document.activeElement?.blur(); // a field that is about to be hidden must not receive the next key
  $("desk").dataset.phase = name;
  $("reading").hidden = name === "write";
  $("writing").hidden = name !== "write";
  $("rejecting").hidden = name !== "refuse";
  $("judge").hidden = name !== "judge";
  $("saving").hidden = name !== "write";
  $("refusing").hidden = name !== "refuse";
  $("skip").hidden = $("undo").hidden = name !== "judge";
}

function say(text, bad = false) {
  $("said").textContent = text;
  $("said").className = bad ? "bad" : "";
  if (!$("done").hidden || !$("hello").hidden) $(bad && !$("hello").hidden ? "hello-error" : "done-text").textContent = text;
}

/* Writing */

function write() {
  phase("write");
  $("faults").replaceChildren();
  $("edit-question").value = state.draft?.question ?? state.item.question;
  $("edit-answer").value = state.draft?.answer ?? state.item.answer;
  preview();
  $("edit-question").focus();
  $("paper").scrollTop = 0;
}

function takeOver(verdict) {
  state.draft = { question: verdict.question ?? state.item.question, answer: verdict.answer ?? state.item.answer };
  write();
}

function preview() {
  showAnswer($("preview"), $("edit-answer").value, state.item.objects, light);
  showObjects();
  draw();
  clearTimeout(checking);
  checking = setTimeout(checkText, 400);
}

// Show the result of the automatic check; people may decide otherwise.
let checking = 0;
async function checkText() {
  const body = { pair: state.item?.id, question: $("edit-question").value, answer: $("edit-answer").value };
  if (state.phase !== "write") return;
  const content = await post("check", body).catch(() => ({ faults: [] }));
  if (state.phase === "write" && body.answer === $("edit-answer").value && body.question === $("edit-question").value) {
    $("faults").replaceChildren(...content.faults.map((fault) => make("li", "", fault)));
  }
}

function leaveWriting() {
  state.draft = { question: $("edit-question").value, answer: $("edit-answer").value };
  phase("judge");
  showObjects();
  draw();
}

function startRefusing() {
  phase("refuse");
  state.reason = null;
  $("note").value = "";
  $("reasons").replaceChildren(...REASONS.map((text, index) => {
    const button = make("button");
    button.type = "button";
    button.append(make("kbd", "", String(index + 1)), text);
    button.addEventListener("click", () => pickReason(index));
    return button;
  }));
  pickReason(null);
  $("rejecting").scrollIntoView({ block: "nearest" });
}

function pickReason(index) {
  state.reason = index === null || state.reason === REASONS[index] ? null : REASONS[index];
  [...$("reasons").children].forEach((button, at) => button.setAttribute("aria-pressed", String(REASONS[at] === state.reason)));
}

// A click on an object's button or mask: inserts its mention while writing; otherwise keeps it highlighted.
function choose(number) {
  if (state.phase !== "write") {
    state.pinned = state.pinned === number ? null : number;
    return light(null);
  }
  const field = $("edit-answer");
  const words = field.value.slice(field.selectionStart, field.selectionEnd).trim();
  const name = state.item.objects.find((obj) => obj.number === number).name;
  const clean = (words || `the ${name}`).replace(/[[\]#]/g, "");
  field.focus();
  field.setRangeText(`[${clean} #${number}]`, field.selectionStart, field.selectionEnd, "end");
  preview();
}

/* Keys */

function setMode(mode) {
  state.mode = mode;
  showModes();
  draw();
}

function setBare(bare) {
  if (state.bare === bare) return;
  state.bare = bare;
  draw();
}

const KEYS = {
  a: accept, f: write, e: write, r: startRefusing, s: skip, z: undo,
  v: () => setMode(state.mode === "visible" ? "whole" : "visible"),
  l: () => { state.all = !state.all; showModes(); showObjects(); draw(); },
  t: () => takeNth(0), y: () => takeNth(1),
  0: () => { state.zoom = 1; state.centre = null; draw(); },
  "?": () => $("help").showModal(),
  escape: () => { state.pinned = null; light(null); },
};

function takeNth(index) {
  const proposal = state.item.verdicts.filter((verdict) => verdict.verdict === "fix")[index];
  if (proposal) takeOver(proposal);
}

function onKey(event) {
  if ($("desk").hidden || $("help").open || !state.item) return;
  const typing = event.target.matches("textarea, input");
  if (state.phase === "write") {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); save(); }
    if (event.key === "Escape") leaveWriting();
    return;
  }
  if (state.phase === "refuse") {
    if (event.key === "Escape") phase("judge");
    else if (event.key === "Enter" && !event.target.matches("button")) { event.preventDefault(); refuse(); }
    else if (!typing && /^[1-4]$/.test(event.key)) { event.preventDefault(); pickReason(Number(event.key) - 1); }
    return;
  }
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === " ") { event.preventDefault(); return setBare(true); }
  if (event.repeat) return;
  if (/^[1-9]$/.test(event.key)) {
    const number = Number(event.key);
    if (state.item.objects.some((obj) => obj.number === number)) choose(number);
    return;
  }
  const action = KEYS[event.key.toLowerCase()];
  if (action) { event.preventDefault(); action(); }
}

/* Start */

function enter(name) {
  state.reviewer = name;
  return act(async () => {
    try {
      await next();
      localStorage.setItem("reviewer", state.reviewer);
    } catch (error) {
      page("hello");
      throw error;
    }
  });
}

function listen() {
  const clicks = { accept, fix: write, reject: startRefusing, save, cancel: leaveWriting, refuse, back: () => phase("judge"), skip, undo,
    again: () => enter(state.reviewer), "done-undo": undo, others: KEYS.l, "help-open": KEYS["?"] };
  for (const [id, action] of Object.entries(clicks)) $(id).addEventListener("click", (event) => { action(); event.currentTarget?.blur(); });
  for (const button of document.querySelectorAll("[data-mode]")) button.addEventListener("click", () => { setMode(button.dataset.mode); button.blur(); });
  $("who").addEventListener("click", () => act(async () => {
    if (state.item) await post("release", { pair: state.item.id });
    state.item = state.scene = null;
    state.skipped = [];
    localStorage.removeItem("reviewer");
    page("hello");
    $("name").focus();
  }));
  $("hello-form").addEventListener("submit", (event) => { event.preventDefault(); $("hello-error").textContent = ""; enter($("name").value); });
  $("writing").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["edit-question", "edit-answer"]) $(id).addEventListener("input", preview);
  listenToStage(choose);
  document.addEventListener("keydown", onKey);
  document.addEventListener("keyup", (event) => { if (event.key === " ") setBare(false); });
  window.addEventListener("blur", () => setBare(false));
  keepLease();
}

// A person who takes long keeps the pair; after leaving the page, the lease ends.
function keepLease() {
  setTimeout(async () => {
    if (state.item && !document.hidden && !state.busy) {
      await post("renew", { pair: state.item.id }).catch((error) => { if (error.status) say(error.message, true); });
    }
    keepLease();
  }, Math.max(5, state.lease / 3) * 1000);
}

listen();
const known = localStorage.getItem("reviewer");
if (known) enter(known);
else { page("hello"); $("name").focus(); }
