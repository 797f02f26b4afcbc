// Keys of the whole page, and those of the stage while it has the focus.

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const TOOLS = { v: "hand", p: "point", b: "box", l: "lasso", d: "brush", e: "erase" };
const typing = (target) => target.matches("textarea, select, input:not([type=range]):not([type=color]):not([type=file])");

/** Listen to the keys of the page. `page` has `tool`, `chooseTool`, `flipNegative` and `setBrush`. */
export function listen(editor, page) {
  document.addEventListener("keydown", (event) => {
    if (typing(event.target)) return;
    const { key } = event;
    if ((event.ctrlKey || event.metaKey) && !event.altKey) {
      const again = key.toLowerCase() === "y" || (key.toLowerCase() === "z" && event.shiftKey);
      if (!again && key.toLowerCase() !== "z") return;
      event.preventDefault();
      editor.step(again ? 1 : -1);
      return;
    }
    if (event.ctrlKey || event.metaKey || !editor.stage.size) return;
    if (key === " " && !event.target.matches("button, input, summary, a")) {
      event.preventDefault();
      editor.stage.spaced = true;
      editor.stage.canvas.classList.add("panning");
    } else if (key === "Delete" || key === "Backspace") {
      if (editor.document.selected !== null) editor.remove(editor.document.selected);
    } else if (key === "Escape") {
      page.tool().cancel();
      editor.messages.hide();
      editor.deselect();
    } else if (key === "+" || key === "=") editor.stage.zoom(1.25);
    else if (key === "-") editor.stage.zoom(0.8);
    else if (key === "0") editor.stage.fit();
    else if (key === "[" || key === "]") page.setBrush(editor.brushSize * (key === "[" ? 0.8 : 1.25));
    else if (TOOLS[key] && !event.altKey) page.chooseTool(TOOLS[key]);
    else if (key === "n") page.flipNegative();
    else return;
    editor.stage.request();
  });
  document.addEventListener("keyup", (event) => {
    if (event.key !== " ") return;
    editor.stage.spaced = false;
    editor.stage.canvas.classList.remove("panning");
  });
}

/** A key while the stage has the focus: arrows move the box (hand), or the cross that Enter uses the tool at. */
export function onStage(event, editor, page) {
  const { stage } = editor;
  if (!stage.size) return;
  const step = STEPS[event.key];
  if (step) {
    event.preventDefault();
    const far = event.shiftKey ? 10 : 1;
    if (page.toolName === "hand") {
      if (editor.document.current) editor.nudge(step[0] * far, step[1] * far);
      else stage.pan(-step[0] * 40, -step[1] * 40);
      return;
    }
    const [H, W] = stage.size;
    const [x, y] = stage.cursor || [W / 2, H / 2];
    const pixels = (event.shiftKey ? 32 : 6) / stage.scale;
    stage.cursor = [Math.min(Math.max(x + step[0] * pixels, 0), W - 0.01), Math.min(Math.max(y + step[1] * pixels, 0), H - 0.01)];
    page.tool().move(stage.cursor, event);
    stage.request();
  } else if (event.key === "Enter") {
    event.preventDefault();
    const [H, W] = stage.size;
    stage.cursor ||= [W / 2, H / 2];
    page.tool().key?.(stage.cursor, event);
    stage.request();
  }
}
