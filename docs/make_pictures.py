"""Pictures and conversation of the documentation, made by the library: python docs/make_pictures.py."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from amodal import AmodalAssistant, AmodalSegmenter, Scene, SceneObject
from amodal.data.formats.reason_seg import Conversation, read_reason_seg
from amodal.inference.draw import draw_scene, draw_uncertainty
from amodal.models.aura.prompts import answer_parts
from amodal.ops.boxes import mask_to_box
from amodal.synthetic.generate import synthesize
from amodal.synthetic.questions import synthesize_questions
from amodal.synthetic.scenes import render_scene

FOLDER = Path(__file__).parent / "pictures"
SEED = 5
SIDE = 400
HELD_OUT = {"scenes": 9300, "questions": 4}  # seeds of the set in docs/models.md


def true_scene() -> Scene:
    """A procedural scene with its own truth."""
    drawn = render_scene(SEED, size=(SIDE, SIDE))
    objects = [SceneObject.from_masks(t.visible_mask, t.amodal_mask, phrase=t.category) for t in drawn.objects]
    return Scene(objects, (SIDE, SIDE), drawn.image)


def parts(scene: Scene) -> np.ndarray:
    """Visible, amodal and hidden masks side by side."""
    assert scene.image is not None
    shown = []
    for kind in ("visible", "amodal", "occluded"):
        masks = [getattr(thing, f"{kind}_mask") for thing in scene.objects]
        shown.append(draw_scene(scene.image, [SceneObject.from_masks(m, m) for m in masks if m.any()]))
    return np.concatenate(shown, axis=1)


def held_out_conversation(folder: Path) -> Conversation:
    """The first of five turns in the held-out set, not a chosen one."""
    annotations = synthesize("scenes", 3, HELD_OUT["scenes"], folder / "scenes", progress=False)
    questions = folder / "questions.json"
    synthesize_questions(annotations, questions, seed=HELD_OUT["questions"], words="held_out", progress=False)
    found = read_reason_seg(questions, annotations).conversations
    return next(conversation for conversation in found if len(conversation.turns) == 5)


def write_conversation() -> None:
    """`conversation.md` and its pictures: what `aura-tiny` says, and what would have been right."""
    lines = [
        "# A conversation with aura-tiny",
        "",
        "Written by `python docs/make_pictures.py`: the first conversation of five turns about the held-out scenes of",
        "[models](models.md), in forms of asking that no training question used. It was not chosen; mistakes",
        "stand as they were made. Solid is what the model sees of an object, hatched what it takes to be hidden.",
        "",
    ]
    with TemporaryDirectory() as folder:
        conversation = held_out_conversation(Path(folder))
        picture = conversation.image.load()
        chat = AmodalAssistant.from_pretrained("aura-tiny", device="cpu", dtype="float32").chat(picture)
        for number, turn in enumerate(conversation.turns, start=1):
            reply = chat.ask(turn.question)
            right = "".join(part.text for part in answer_parts(turn.with_token("[SEG]"), "[SEG]"))
            shown = reply.scene.draw() if reply.scene.objects else picture
            Image.fromarray(shown).save(FOLDER / f"chat_{number}.jpg", quality=88)
            lines += [
                f"**{turn.question}**",
                "",
                f"{reply.text}" + ("" if reply.text == right else f" *(Right would be: {right})*"),
                "",
                f"![Answer {number}](pictures/chat_{number}.jpg)",
                "",
            ]
    (FOLDER.parent / "conversation.md").write_text("\n".join(lines).rstrip() + "\n")


def main() -> None:
    """Write all pictures and the conversation."""
    FOLDER.mkdir(exist_ok=True)
    scene = true_scene()
    assert scene.image is not None
    segmenter = AmodalSegmenter.from_pretrained("plug-tiny", device="cpu")
    hidden = max(scene.objects, key=lambda thing: thing.occlusion_rate)
    predicted = segmenter(scene.image, [mask_to_box(hidden.visible_mask).tolist()])
    pictures = {
        "overlay": scene.draw(),
        "parts": parts(scene),
        "order": scene.draw(),
        "uncertainty": draw_uncertainty(scene.image, predicted.objects[0].uncertainty),
    }
    for name, pixels in pictures.items():
        picture = Image.fromarray(pixels)
        picture.thumbnail((1200, 640))
        picture.save(FOLDER / f"{name}.jpg", quality=82)
    write_conversation()


if __name__ == "__main__":
    main()
