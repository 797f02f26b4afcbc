// What the page knows, shared by its parts.
export const $ = (id) => document.getElementById(id);

export const state = {
  reviewer: "", item: null, scene: null, skipped: [], busy: false, phase: "judge", // judge | write | refuse
  mode: "visible", bare: false, all: false, lit: null, pinned: null, zoom: 1, centre: null, reason: null, draft: null, lease: 900,
};

// The answer as it is shown or being written, in the short form.
export const currentAnswer = () => (state.phase === "write" ? $("edit-answer").value : state.item.answer);
