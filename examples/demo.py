"""Segment a procedural scene and a real photograph with the bundled models, and ask about the scene.

Writes masks, `scene.json` and overlays to demo-output/ and says where they are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from amodal import AmodalAssistant, AmodalSegmenter
from amodal.ops.boxes import mask_to_box
from amodal.ops.masks import occlusion_rate
from amodal.synthetic.scenes import render_scene

OUT = Path("demo-output")
SCENE_SEED = 20_000
# scikit-image's photograph `coffee`: saucer (under the cup), spoon (behind the cup) and cup
COFFEE_BOXES = [[76, 68, 480, 388], [326, 66, 425, 327], [172, 17, 410, 308]]
QUESTION = "What is hidden most?"


def main() -> None:
    """Run the demo."""
    segmenter = AmodalSegmenter.from_pretrained("plug-tiny")

    picture = render_scene(SCENE_SEED)
    boxes = np.array([mask_to_box(thing.visible_mask) for thing in picture.objects])
    scene = segmenter(picture.image, boxes)
    scene.save(OUT / "scene")
    Image.fromarray(picture.image).save(OUT / "scene" / "input.png")

    photograph = np.asarray(data.coffee())
    coffee = segmenter(photograph, COFFEE_BOXES)
    coffee.save(OUT / "coffee")

    reply = AmodalAssistant.from_pretrained("aura-tiny").ask(picture.image, QUESTION)
    reply.scene.save(OUT / "answer")

    for name, result in (("procedural scene", scene), ("photograph", coffee)):
        hidden = ", ".join(f"{thing.occlusion_rate:.0%}" for thing in result.objects)
        print(f"{name}: {len(result.objects)} objects, hidden {hidden}")
    true = [(occlusion_rate(thing.visible_mask, thing.amodal_mask), thing.category) for thing in picture.objects]
    print(f"true of the procedural scene: {', '.join(f'{rate:.0%} ({kind})' for rate, kind in true)}")
    print(f"{QUESTION} {reply.text} (true: the {max(true)[1]})")
    print(f"Look at overlay.png in {OUT}/scene, {OUT}/coffee and {OUT}/answer")
    print("The bundled models are small: expect leaks, rough outlines, mistakes (docs/models.md has their figures)")


if __name__ == "__main__":
    main()
