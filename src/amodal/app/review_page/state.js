// State of the page, shared by its modules.
export const $ = (id) => document.getElementById(id);

export const state = {
  reviewer: "", item: null, scene: null, skipped: [], busy: false, phase: "judge", // judge | write | refuse
  mode: "visible", bare: false, all: false, lit: null, pinned: null, zoom: 1, centre: null, reason: null, draft: null, lease: 900,
};

// The answer that is shown or edited, in its editable form.
export const currentAnswer = () => (state.phase === "write" ? $("edit-answer").value : state.item.answer);
