// Images of the page: examples, the visitor's own files, and the pixels that the stage draws.

import { element } from "./object_list.js";

/** Decode an image for the stage; one that the browser cannot decode comes from the server. */
export async function decodeImage(blob, [H, W], fromServer) {
  const bitmap = await createImageBitmap(blob).catch(() => null);
  if (bitmap && bitmap.width === W && bitmap.height === H) return bitmap;
  return createImageBitmap(await fromServer());
}

/** Fill the strip of examples; `open(example, blob)` is called with the record and the file of the chosen one. */
export async function showExamples(nav, open, fail) {
  const examples = await (await fetch("examples.json")).json();
  nav.replaceChildren(...examples.map((example) => element("button", {
    type: "button", title: example.title, aria: { label: `Example: ${example.title}`, pressed: false },
    on: {
      click: async () => {
        const response = await fetch(`examples/${example.name}.jpg`).catch(() => null);
        if (!response?.ok) fail("The example cannot be loaded, because the server cannot be reached. Start it again, and click once more.");
        else open(example, await response.blob());
      },
    },
  }, element("img", { src: `examples/${example.name}-small.jpg`, alt: "", width: 56, height: 44 }))));
  return examples;
}

/** Call `take(files)` for files that are dropped on `room` or pasted anywhere. */
export function takeFiles(room, take) {
  for (const kind of ["dragover", "dragleave", "drop"]) {
    room.addEventListener(kind, (event) => {
      event.preventDefault();
      room.classList.toggle("drop", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length) take([...event.dataTransfer.files]);
    });
  }
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files || [])];
    if (files.length) {
      event.preventDefault();
      take(files);
    }
  });
}
