"""Select objects of a test set by how much of them is hidden and by how convex they are.

The occluded part is easier to predict the larger it is and the simpler the shape of the object is. Scores of two test
sets can therefore be compared only if their objects are alike. This script writes a list of selected objects for
`amodal evaluate masks --objects FILE`, and prints the mean IoUs of their true visible masks and of the convex hulls of
these, which show how alike two sets are. It looks at true masks only. The model card of `plug-small` compares its
scores with its targets in this way.

Command: python benchmarks/select_objects.py --annotations data/paste-heldout/annotations.json --min-occlusion 0.2
         --min-convexity 0.65 --max-objects 500 --out objects.txt
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import numpy as np

from amodal import read_dataset
from amodal.io.files import write_atomic
from amodal.ops.arrays import Mask
from amodal.ops.masks import convex_hull_mask, mask_iou


def main() -> None:
    """Write the list of objects and print the mean IoUs."""
    options = _arguments()
    images = read_dataset("canonical", options.annotations).images
    objects = ((image, obj) for image in images for obj in image.objects)
    lines, baselines = [], []
    for image, obj in islice(objects, options.max_objects):
        visible, amodal = obj.visible_mask(), obj.amodal_mask()
        if amodal is None or not is_selected(visible, amodal, options.min_occlusion, options.min_convexity):
            continue
        hull = convex_hull_mask(visible) | visible
        lines.append(f"{image.id}_{obj.id}\n")
        hidden = amodal & ~visible
        baselines.append((mask_iou(visible, amodal), mask_iou(hull, amodal), mask_iou(hull & ~visible, hidden)))
    write_atomic(options.out, "".join(lines))
    names = "mIoU_full of the visible mask", "mIoU_full of its hull", "mIoU_occ of its hull"
    means = np.mean(baselines, axis=0) if baselines else [float("nan")] * 3
    print(f"Written: {options.out}, {len(lines)} objects")
    print(", ".join(f"{name} {mean:.3f}" for name, mean in zip(names, means, strict=True)))


def is_selected(visible: Mask, amodal: Mask, min_occlusion: float, min_convexity: float) -> bool:
    """Whether a large enough share of an object is hidden, and it fills a large enough share of its convex hull."""
    hidden = 1 - visible.sum() / amodal.sum()
    return bool(hidden >= min_occlusion and amodal.sum() >= min_convexity * (convex_hull_mask(amodal) | amodal).sum())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--annotations", type=Path, required=True, help="Canonical file.")
    parser.add_argument("--min-occlusion", type=float, default=0.2, help="Smallest hidden share of an object.")
    parser.add_argument("--min-convexity", type=float, default=0.65, help="Smallest share of its hull that it fills.")
    parser.add_argument("--max-objects", type=int, help="Look at the first N objects only.")
    parser.add_argument("--out", type=Path, required=True, help="File to write.")
    return parser.parse_args()


if __name__ == "__main__":
    main()
