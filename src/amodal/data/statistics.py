"""Figures about a dataset, gathered in one pass."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from amodal.data.relations import with_occluders
from amodal.data.samples import AnnotatedDataset, ImageSample
from amodal.errors import InputError
from amodal.io.files import appearing
from amodal.io.progress import bar
from amodal.ops.rle import rle_area, rle_occlusion_rate

EDGES = tuple(i / 10 for i in range(11))
"""Borders of the histogram's ranges, each open at its lower end; a rate of exactly 0 has its own."""

PLOTTED_CATEGORIES = 25


@dataclass
class CategoryFigures:
    """Objects of a category.

    Attributes:
        objects: all of them.
        amodal: those whose amodal mask is known.
        occluded: those of which something is hidden.
        rate_sum: sum of the occlusion rates of those with amodal masks.
    """

    objects: int = 0
    amodal: int = 0
    occluded: int = 0
    rate_sum: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Counts and the mean rate, None where no amodal mask is known."""
        mean = self.rate_sum / self.amodal if self.amodal else None
        return {"objects": self.objects, "occluded": self.occluded, "mean_occlusion_rate": mean}


@dataclass
class Statistics:
    """Figures about a dataset.

    Attributes:
        format: of the dataset.
        num_images: in the dataset.
        num_objects: in all images.
        num_amodal: objects whose amodal mask is known; rates are of these.
        num_occluded: objects of which something is hidden.
        num_relations: pairs of an object and one in front of it, stated or derived.
        num_stuff: regions flagged as stuff.
        num_crowd: regions flagged as crowds.
        rate_sum: sum of the occlusion rates of those with amodal masks.
        annotators: objects of each.
        categories: by name, the most frequent first.
        zero: objects with a rate of 0.
        histogram: the other objects, by range.
        areas: pixels of each visible mask.
        sizes: images by (H, W).
        most_objects: of one image.
    """

    format: str
    num_images: int = 0
    num_objects: int = 0
    num_amodal: int = 0
    num_occluded: int = 0
    num_relations: int = 0
    num_stuff: int = 0
    num_crowd: int = 0
    rate_sum: float = 0.0
    annotators: Counter[str] = field(default_factory=Counter)
    categories: dict[str, CategoryFigures] = field(default_factory=dict)
    zero: int = 0
    histogram: list[int] = field(default_factory=lambda: [0] * (len(EDGES) - 1))
    areas: list[int] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    most_objects: int = 0

    def ranges(self) -> list[tuple[str, int]]:
        """Label and count of each range of occlusion rates."""
        labels = [f"{round(low * 100)}-{round(high * 100)} %" for low, high in pairwise(EDGES)]
        return [("0 %", self.zero), *zip(labels, self.histogram, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """The machine-readable form."""
        areas = np.array(self.areas or [0])
        return {
            "format": self.format,
            "num_images": self.num_images,
            "num_objects": self.num_objects,
            "num_with_amodal_mask": self.num_amodal,
            "num_occluded": self.num_occluded,
            "mean_occlusion_rate": self.rate_sum / self.num_amodal if self.num_amodal else None,
            "num_occlusion_relations": self.num_relations,
            "num_stuff": self.num_stuff,
            "num_crowd": self.num_crowd,
            "annotators": dict(self.annotators.most_common()),
            "objects_per_image": {
                "mean": self.num_objects / self.num_images if self.num_images else 0.0,
                "max": self.most_objects,
            },
            "visible_area": {"min": int(areas.min()), "median": float(np.median(areas)), "max": int(areas.max())},
            "image_sizes": [{"size": list(size), "images": count} for size, count in self.sizes.most_common(10)],
            "occlusion_rates": [{"range": label, "objects": count} for label, count in self.ranges()],
            "categories": {name: figures.to_json() for name, figures in self.categories.items()},
        }


def gather(dataset: AnnotatedDataset, *, progress: bool = False) -> Statistics:
    """Go through a dataset once.

    Raises:
        InputError: an object that cannot be read.
    """
    figures = Statistics(dataset.format, num_images=len(dataset.images))
    for name in dataset.categories.values():
        figures.categories.setdefault(name, CategoryFigures())
    for image in bar(dataset.images, "stats", progress):
        _add(figures, with_occluders(image), dataset.categories)
    figures.categories = dict(sorted(figures.categories.items(), key=lambda item: -item[1].objects))
    return figures


def plot(figures: Statistics, path: Path) -> None:
    """Draw the histogram of occlusion rates and the most frequent categories.

    Args:
        figures: from `gather`.
        path: picture to write (.png, .pdf or .svg).

    Raises:
        InputError: a file of another kind, or one that cannot be written.
    """
    from matplotlib.figure import Figure

    if path.suffix not in (".png", ".pdf", ".svg"):
        raise InputError(f"plot: expected a .png, .pdf or .svg file, got {str(path)!r}")
    shown = list(figures.categories.items())[:PLOTTED_CATEGORIES]
    picture = Figure(figsize=(11, max(4.0, 1.2 + 0.22 * len(shown))), layout="constrained")
    left, right = picture.subplots(1, 2)
    labels, counts = zip(*figures.ranges(), strict=True)
    left.bar(labels, counts, color=["#9aa5b1"] + ["#c44e52"] * (len(labels) - 1))
    left.set(title="Occlusion rate", ylabel="objects")
    left.tick_params(axis="x", rotation=60)
    names = [name for name, _ in shown]
    right.barh(names, [f.objects for _, f in shown], color="#9aa5b1", label="all")
    right.barh(names, [f.occluded for _, f in shown], color="#c44e52", label="partly hidden")
    right.invert_yaxis()
    right.set(title=f"Categories ({len(shown)} of {len(figures.categories)})", xlabel="objects")
    right.legend()
    with appearing(path, "plot") as temporary:
        picture.savefig(temporary, dpi=120)


def _add(figures: Statistics, image: ImageSample, categories: dict[int, str]) -> None:
    figures.sizes[image.size] += 1
    figures.most_objects = max(figures.most_objects, len(image.objects))
    for thing in image.objects:
        name = categories.get(thing.category_id, str(thing.category_id))
        own = figures.categories.setdefault(name, CategoryFigures())
        figures.num_objects += 1
        own.objects += 1
        figures.num_stuff += thing.is_stuff
        figures.num_crowd += thing.iscrowd
        figures.num_relations += len(thing.occluders)
        figures.areas.append(rle_area(thing.visible_rle))
        if thing.annotator is not None:
            figures.annotators[thing.annotator] += 1
        if thing.amodal_rle is None:
            continue
        rate = rle_occlusion_rate(thing.visible_rle, thing.amodal_rle)
        for part in (figures, own):
            part.rate_sum += rate
        figures.num_amodal += 1
        own.amodal += 1
        if rate == 0:
            figures.zero += 1
            continue
        figures.num_occluded += 1
        own.occluded += 1
        figures.histogram[int(np.searchsorted(EDGES, rate)) - 1] += 1
