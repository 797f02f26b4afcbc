"""The pictures of the documentation, made by the library: python docs/make_pictures.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from amodal import AmodalSegmenter, Scene, SceneObject
from amodal.data.synthetic.scenes import render_scene
from amodal.inference.draw import draw_scene, draw_uncertainty
from amodal.ops.boxes import mask_to_box

FOLDER = Path(__file__).parent / "pictures"
SEED = 5
SIDE = 400


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


def main() -> None:
    """Write all pictures."""
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


if __name__ == "__main__":
    main()
