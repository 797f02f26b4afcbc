"""Whether the amodal model gains from the base's mask of clicked points, instead of the box of that mask.

Command: python benchmarks/point_masks.py --annotations data/paste-val/annotations.json --points 1

One occluded object per image, with points on its visible part: the first far from its border, the others anywhere but
at its border. `box` is what `AmodalSegmenter` does. `prompt` also gives the network the mask as mask prompt, and
`given` takes the mask as the visible mask of the result, as for a mask that a user gives. IoUs are means over objects.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from amodal import AmodalSegmenter, read_dataset
from amodal.data.samples import AnnotatedDataset
from amodal.inference.find import MaskProposal
from amodal.inference.prompts import ObjectPrompt
from amodal.inference.scene_object import SceneObject
from amodal.io.images import ImageArray, load_image
from amodal.models.names import DEFAULT_SEGMENTER
from amodal.ops.arrays import Mask
from amodal.ops.boxes import mask_to_box
from amodal.ops.masks import mask_iou
from amodal.ops.rle import decode_mask

MIN_VISIBLE = 400  # pixels
MIN_OCCLUDED = 0.05  # of the object


class WithMask(AmodalSegmenter):
    """A segmenter whose network gets `mask` as mask prompt of the next object."""

    mask: Mask

    def _masks(self, prompts: Sequence[ObjectPrompt]) -> list[Mask | None] | None:
        return [self.mask]


def objects(dataset: AnnotatedDataset, rng: np.random.Generator) -> Iterator[tuple[ImageArray, Mask, Mask]]:
    """One occluded object per image: the image, its visible and its amodal mask."""
    for sample in dataset.images:
        pairs = [(decode_mask(o.visible_rle), decode_mask(o.amodal_rle)) for o in sample.objects if o.amodal_rle]
        usable = [p for p in pairs if p[0].sum() > MIN_VISIBLE and (p[1] & ~p[0]).sum() > MIN_OCCLUDED * p[1].sum()]
        if usable:
            yield load_image(sample.path), *usable[rng.integers(len(usable))]


def clicks(visible: Mask, count: int, rng: np.random.Generator) -> list[list[float]]:
    """Points (x, y) on a mask."""
    depth = cv2.distanceTransform(np.pad(visible, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    points = []
    for share in [0.5] + [0.25] * (count - 1):
        rows, columns = np.nonzero(depth >= share * depth.max())
        chosen = rng.integers(len(rows))
        points.append([columns[chosen] + 0.5, rows[chosen] + 0.5])
    return points


def whole_mask(proposal: MaskProposal, size: tuple[int, int]) -> Mask:
    """The mask (H, W) of a proposal in the pixels of the image."""
    x0, y0, x1, y1 = proposal.window
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = cv2.resize(proposal.mask.astype(np.float32), (x1 - x0, y1 - y0)) > 0.5
    return mask


def chosen_mask(segmenter: AmodalSegmenter, image: ImageArray, points: list[list[float]]) -> tuple[SceneObject, Mask]:
    """The object that points make, and the mask whose box `ObjectFinder.box_of` returned for them."""
    finder, seen = segmenter.finder, []
    propose = finder._propose

    def remember(*args: Any) -> Iterator[MaskProposal]:
        for proposal in propose(*args):
            seen.append(proposal)
            yield proposal

    finder._propose = remember  # type: ignore[method-assign, assignment]
    try:
        found = segmenter(image, points_xy=[points])[0]
    finally:
        finder._propose = propose  # type: ignore[method-assign]
    box = np.array(found.visible_box_xyxy)
    same = [p for p in seen if p.mask.any() and np.allclose(p.box_xyxy, box)]
    return found, whole_mask(same[0], found.size) if same else np.zeros(found.size, bool)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--model", default=DEFAULT_SEGMENTER)
    parser.add_argument("--points", type=int, default=1, help="per object")
    parser.add_argument("--objects", type=int, default=150)
    options = parser.parse_args()
    segmenter, rng = WithMask.from_pretrained(options.model, device="cpu"), np.random.default_rng(0)
    plain = AmodalSegmenter.from_pretrained(options.model, device="cpu")
    rows: dict[str, list[list[float]]] = {"box": [], "prompt": [], "given": []}
    for image, visible, amodal in objects(read_dataset("canonical", options.annotations), rng):
        box, mask = chosen_mask(plain, image, clicks(visible, options.points, rng))
        found = dict.fromkeys(rows, box)
        if mask.any():
            assert isinstance(segmenter, WithMask)
            segmenter.mask = mask
            found |= {"prompt": segmenter(image, mask_to_box(mask)[None])[0], "given": plain(image, masks=[mask])[0]}
        for name, obj in found.items():
            pairs = ((obj.amodal_mask, amodal), (obj.occluded_mask, amodal & ~visible), (obj.visible_mask, visible))
            rows[name].append([mask_iou(a, b) for a, b in pairs])
        if len(rows["box"]) == options.objects:
            break
    print(f"{options.model}, {len(rows['box'])} objects, points per object: {options.points}")
    print("| mask of the points | full | occluded | visible |\n|" + " --- |" * 4)
    for name, values in rows.items():
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in np.mean(values, axis=0)) + " |")


if __name__ == "__main__":
    main()
