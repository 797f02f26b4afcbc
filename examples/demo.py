"""Segment a photograph by boxes and by given masks, segment a drawn scene, and ask a question about a photograph.

Writes masks, `scene.json` and overlays to demo-output/.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from skimage import data

from amodal import AmodalAssistant, AmodalSegmenter
from amodal.errors import NotFetchedError
from amodal.ops.boxes import mask_to_box
from amodal.ops.occlusion import occlusion_rate
from amodal.synthetic.scenes import render_scene

OUT = Path("demo-output")
SCENE_SEED = 20_000
COFFEE_NAMES = ("saucer", "spoon", "cup")
# Boxes of these in scikit-image's photograph `coffee`: the saucer is under the cup, and the spoon behind it
COFFEE_BOXES = [[76, 68, 480, 388], [326, 66, 425, 327], [172, 17, 410, 308]]
# Outlines of the visible parts of cup and spoon in the same photograph, drawn by hand
CUP = [(173, 110), (177, 75), (200, 45), (240, 24), (290, 18), (335, 25), (375, 48), (398, 75), (405, 110), (402, 145),
       (390, 185), (375, 215), (360, 235), (345, 238), (322, 248), (318, 258), (330, 257), (325, 272), (305, 283),
       (275, 284), (257, 278), (252, 262), (240, 280), (228, 303), (212, 307), (198, 298), (196, 280), (205, 255),
       (222, 235), (205, 222), (190, 200), (178, 165)]  # fmt: skip
HANDLE = [(399, 78), (405, 67), (418, 68), (425, 77), (420, 100), (411, 122), (406, 118), (404, 95)]
BOWL = [(385, 203), (388, 212), (382, 235), (395, 248), (405, 265), (406, 282), (395, 305), (375, 322), (355, 325),
        (338, 315), (328, 300), (326, 280), (332, 258), (345, 243), (365, 240), (375, 220)]  # fmt: skip
SAUCER_BOX = (77, 72, 479, 388)
QUESTION = "Where is the cat?"


def coffee_masks(size: tuple[int, int]) -> np.ndarray:
    """The visible parts of saucer, spoon and cup, drawn by hand: (3, H, W) bool for an image of `size` (W, H)."""
    images = [Image.new("1", size) for _ in range(3)]
    saucer, spoon, cup = (ImageDraw.Draw(image) for image in images)
    saucer.ellipse(SAUCER_BOX, fill=1)
    for part in (HANDLE, BOWL):
        spoon.polygon(part, fill=1)
    cup.polygon(CUP, fill=1)
    masks = np.array([np.asarray(image) for image in images])
    masks[0] &= ~masks[1] & ~masks[2]
    masks[1] &= ~masks[2]
    return masks


def main() -> None:
    """Run the demo."""
    segmenter = AmodalSegmenter.from_pretrained("plug-small")

    truth = render_scene(SCENE_SEED)
    boxes = np.array([mask_to_box(obj.visible_mask) for obj in truth.objects])
    scene = segmenter(truth.image, boxes)
    scene.save(OUT / "scene")
    Image.fromarray(truth.image).save(OUT / "scene" / "input.png")

    photograph = np.asarray(data.coffee())
    coffee = segmenter(photograph, COFFEE_BOXES)
    coffee.save(OUT / "coffee")
    height, width = photograph.shape[:2]
    completed = segmenter(photograph, masks=coffee_masks((width, height)))
    completed.save(OUT / "coffee-masks")

    folders = ["coffee", "coffee-masks", "scene"]
    try:
        reply = AmodalAssistant.from_pretrained("aura-small").ask(data.chelsea(), QUESTION)
        reply.scene.save(OUT / "answer")
        hidden = ", ".join(f"{obj.occlusion_rate:.0%}" for obj in reply.scene.objects) or "no object"
        answer = f"answer, about a photograph of a cat that nothing hides: {QUESTION} {reply.text} ({hidden})"
        folders.append("answer")
    except NotFetchedError as error:
        answer = f"No question about a photograph was asked: {error}"

    true = [(occlusion_rate(obj.visible_mask, obj.amodal_mask), obj.category) for obj in truth.objects]
    kinds = [f"{kind} (truth {rate:.0%})" for rate, kind in true]
    print("Occlusion rates, the share of each object that is hidden; the numbers are those in the images:")
    for folder, prompts, names, result in (
        ("scene", "boxes", kinds, scene),
        ("coffee", "boxes", COFFEE_NAMES, coffee),
        ("coffee-masks", "visible masks drawn by hand", COFFEE_NAMES, completed),
    ):
        numbered = enumerate(zip(result.objects, names, strict=True))
        rates = ", ".join(f"{number} {name}: {obj.occlusion_rate:.0%}" for number, (obj, name) in numbered)
        print(f"{folder}, from {prompts}: {rates}")
    print(answer)
    print(f"Look at overlay.png in {', '.join(str(OUT / folder) for folder in folders)}")
    print("Filled: the visible part; hatched: the hidden part; thin rectangle: the box of the visible part")
    print("The bundled models are small: expect rough outlines and mistakes (docs/models/ has their scores)")


if __name__ == "__main__":
    main()
