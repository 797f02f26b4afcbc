"""Make the images and the example conversation of the documentation: python docs/make_images.py.

Needs the language model of `aura-small`, which `amodal models fetch aura-small` downloads.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from skimage import data

from amodal import AmodalAssistant, AmodalSegmenter, Scene, SceneObject
from amodal.data.reason_seg import Conversation, read_reason_seg
from amodal.inference.draw import draw_scene, draw_uncertainty
from amodal.models.aura.prompts import answer_parts
from amodal.ops.boxes import mask_to_box
from amodal.synthetic.generate import synthesize
from amodal.synthetic.questions import synthesize_questions
from amodal.synthetic.scenes import render_scene

FOLDER = Path(__file__).parent / "images"
SEED = 5
SIDE = 400
HELD_OUT = {"scenes": 9300, "questions": 4}  # seeds of the dataset in docs/models.md


def true_scene() -> Scene:
    """Draw a procedural scene and return it with its true masks."""
    drawn = render_scene(SEED, size=(SIDE, SIDE))
    objects = [SceneObject.from_masks(t.visible_mask, t.amodal_mask, phrase=t.category) for t in drawn.objects]
    return Scene(objects, (SIDE, SIDE), drawn.image)


def parts(scene: Scene) -> np.ndarray:
    """Draw the visible, amodal and occluded masks side by side."""
    assert scene.image is not None
    shown = []
    for kind in ("visible", "amodal", "occluded"):
        masks = [getattr(obj, f"{kind}_mask") for obj in scene.objects]
        shown.append(draw_scene(scene.image, [SceneObject.from_masks(m, m) for m in masks if m.any()]))
    return np.concatenate(shown, axis=1)


def held_out_conversation(folder: Path) -> Conversation:
    """Return the first held-out conversation with five turns, which is not selected by quality."""
    annotations = synthesize("scenes", 3, HELD_OUT["scenes"], folder / "scenes", progress=False)
    questions = folder / "questions.json"
    synthesize_questions(annotations, questions, seed=HELD_OUT["questions"], words="held_out", progress=False)
    found = read_reason_seg(questions, annotations).conversations
    return next(conversation for conversation in found if len(conversation.turns) == 5)


def write_conversation() -> None:
    """Write `conversation.md` and its images: the answers of `aura-small`, and the right ones where they differ."""
    lines = [
        "# A conversation with aura-small",
        "",
        "Written by `python docs/make_images.py`: the first conversation of five turns about the held-out scenes of",
        "[the bundled models](models.md), in forms that no training question used. It was not selected. Where the",
        "words are wrong, the right answer follows in brackets; the masks are not judged. Solid: predicted visible",
        "part; hatched: predicted occluded part.",
        "",
    ]
    with TemporaryDirectory() as folder:
        conversation = held_out_conversation(Path(folder))
        image = conversation.image.load()
        chat = AmodalAssistant.from_pretrained("aura-small", device="cpu", dtype="float32").chat(image)
        for number, turn in enumerate(conversation.turns, start=1):
            reply = chat.ask(turn.question)
            right = "".join(part.text for part in answer_parts(turn.with_token("[SEG]"), "[SEG]"))
            shown = reply.scene.draw() if reply.scene.objects else image
            Image.fromarray(shown).save(FOLDER / f"chat_{number}.jpg", quality=88)
            lines += [
                f"**{turn.question}**",
                "",
                f"{reply.text}" + ("" if reply.text == right else f" *(The right answer is: {right})*"),
                "",
                f"![Answer {number}](images/chat_{number}.jpg)",
                "",
            ]
    (FOLDER.parent / "conversation.md").write_text("\n".join(lines).rstrip() + "\n")


def segmented_photograph() -> dict[str, np.ndarray]:
    """What `plug-small` predicts for the photograph of `examples/demo.py`: with masks, and with boxes above masks."""
    demo = runpy.run_path("examples/demo.py")
    photograph = np.asarray(data.coffee())
    height, width = photograph.shape[:2]
    segmenter = AmodalSegmenter.from_pretrained("plug-small", device="cpu")
    with_masks = segmenter(photograph, masks=demo["coffee_masks"]((width, height))).draw()
    with_boxes = segmenter(photograph, demo["COFFEE_BOXES"]).draw()
    return {"coffee": with_masks, "coffee_prompts": np.concatenate([with_boxes, with_masks])}


def main() -> None:
    """Write all images and the conversation."""
    FOLDER.mkdir(exist_ok=True)
    scene = true_scene()
    assert scene.image is not None
    segmenter = AmodalSegmenter.from_pretrained("plug-small", device="cpu")
    hidden = max(scene.objects, key=lambda obj: obj.occlusion_rate)
    predicted = segmenter(scene.image, [mask_to_box(hidden.visible_mask).tolist()])
    images = {
        "overlay": scene.draw(),
        "parts": parts(scene),
        "order": scene.draw(),
        "uncertainty": draw_uncertainty(scene.image, predicted.objects[0].uncertainty),
    } | segmented_photograph()
    for name, pixels in images.items():
        image = Image.fromarray(pixels)
        image.thumbnail((1200, 854))
        image.save(FOLDER / f"{name}.jpg", quality=82)
    write_conversation()


if __name__ == "__main__":
    main()
