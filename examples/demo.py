"""Segment a synthetic scene and a photograph with the bundled models, and ask a question about the scene.

Writes masks, `scene.json` and overlays to demo-output/.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from amodal import AmodalAssistant, AmodalSegmenter
from amodal.ops.boxes import mask_to_box
from amodal.ops.occlusion import occlusion_rate
from amodal.synthetic.scenes import render_scene

OUT = Path("demo-output")
SCENE_SEED = 20_000
# Boxes in scikit-image's photograph `coffee`: saucer (under the cup), spoon (behind the cup) and cup
COFFEE_BOXES = [[76, 68, 480, 388], [326, 66, 425, 327], [172, 17, 410, 308]]
QUESTION = "What is hidden most?"


def main() -> None:
    """Run the demo."""
    segmenter = AmodalSegmenter.from_pretrained("plug-tiny")

    truth = render_scene(SCENE_SEED)
    boxes = np.array([mask_to_box(obj.visible_mask) for obj in truth.objects])
    scene = segmenter(truth.image, boxes)
    scene.save(OUT / "scene")
    Image.fromarray(truth.image).save(OUT / "scene" / "input.png")

    photograph = np.asarray(data.coffee())
    coffee = segmenter(photograph, COFFEE_BOXES)
    coffee.save(OUT / "coffee")

    reply = AmodalAssistant.from_pretrained("aura-tiny").ask(truth.image, QUESTION)
    reply.scene.save(OUT / "answer")

    for name, result in (("synthetic scene", scene), ("photograph", coffee)):
        rates = ", ".join(f"{obj.occlusion_rate:.0%}" for obj in result.objects)
        print(f"{name}: {len(result.objects)} objects with occlusion rates {rates}")
    true = [(occlusion_rate(obj.visible_mask, obj.amodal_mask), obj.category) for obj in truth.objects]
    print(f"true occlusion rates of the synthetic scene: {', '.join(f'{rate:.0%} ({kind})' for rate, kind in true)}")
    print(f"{QUESTION} {reply.text} (the true answer: the {max(true)[1]})")
    print(f"Look at overlay.png in {OUT}/scene, {OUT}/coffee and {OUT}/answer")
    print("The bundled models are small: expect rough outlines and mistakes (docs/models.md has their scores)")


if __name__ == "__main__":
    main()
