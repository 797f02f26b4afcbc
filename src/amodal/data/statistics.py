"""Statistics of a dataset, computed in one pass over its objects."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from amodal.data.relations import derive_occluders
from amodal.data.samples import AnnotatedDataset, ImageSample
from amodal.errors import InputError
from amodal.io.files import atomic_path, require_file
from amodal.io.progress import progress_bar
from amodal.ops.occlusion import rle_occlusion_rate
from amodal.ops.rle import rle_area

EDGES = tuple(i / 10 for i in range(11))
"""Borders of the histogram's ranges; each range excludes its lower end, and a rate of exactly 0 has its own range."""

PLOTTED_CATEGORIES = 25


@dataclass
class CategoryStatistics:
    """Counts of one category.

    Attributes:
        objects: number of objects.
        amodal: number of objects whose amodal mask is known.
        occluded: number of objects with an occlusion rate above 0.
        rate_sum: sum of the occlusion rates of the objects with amodal masks.
    """

    objects: int = 0
    amodal: int = 0
    occluded: int = 0
    rate_sum: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Counts and the mean occlusion rate, None where no amodal mask is known."""
        mean = self.rate_sum / self.amodal if self.amodal else None
        return {"objects": self.objects, "occluded": self.occluded, "mean_occlusion_rate": mean}


@dataclass
class DatasetStatistics:
    """Statistics of a dataset.

    Attributes:
        format: name of the dataset's format.
        num_images: number of images.
        num_objects: number of objects in all images.
        num_amodal: objects whose amodal mask is known; occlusion rates are measured on these.
        num_occluded: objects with an occlusion rate above 0.
        num_relations: pairs of an object and its occluder, stated or derived.
        num_stuff: regions flagged as stuff.
        num_crowd: regions flagged as crowds.
        rate_sum: sum of the occlusion rates of the objects with amodal masks.
        annotators: number of objects per annotator.
        categories: statistics per category name, the most frequent category first.
        zero: objects with an occlusion rate of 0.
        histogram: number of the other objects per range of `EDGES`.
        areas: pixels of each visible mask.
        sizes: number of images per (H, W).
        most_objects: largest number of objects in one image.
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
    categories: dict[str, CategoryStatistics] = field(default_factory=dict)
    zero: int = 0
    histogram: list[int] = field(default_factory=lambda: [0] * (len(EDGES) - 1))
    areas: list[int] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    most_objects: int = 0

    def ranges(self) -> list[tuple[str, int]]:
        """Label and number of objects of each range of occlusion rates."""
        labels = [f"{round(low * 100)}-{round(high * 100)} %" for low, high in pairwise(EDGES)]
        return [("0 %", self.zero), *zip(labels, self.histogram, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """Machine-readable form."""
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
            "categories": {name: category.to_json() for name, category in self.categories.items()},
        }


def compute_statistics(dataset: AnnotatedDataset, *, progress: bool = False) -> DatasetStatistics:
    """Compute the statistics of a dataset.

    Args:
        dataset: any dataset that was read.
        progress: show a progress bar.

    Raises:
        InputError: an object cannot be read.
    """
    statistics = DatasetStatistics(dataset.format, num_images=len(dataset.images))
    for name in dataset.categories.values():
        statistics.categories.setdefault(name, CategoryStatistics())
    for image in progress_bar(dataset.images, "stats", progress):
        _add(statistics, derive_occluders(image), dataset.categories)
    statistics.categories = dict(sorted(statistics.categories.items(), key=lambda item: -item[1].objects))
    return statistics


def check_plot(path: Path) -> Path:
    """Return the file for a plot, after a check of its ending and its place.

    Raises:
        InputError: it has another ending than .png, .pdf or .svg, or cannot be written.
    """
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise InputError(f"plot: expected a .png, .pdf or .svg file, got {str(path)!r}")
    return require_file(path, "plot")


def plot_statistics(statistics: DatasetStatistics, path: Path) -> None:
    """Draw the histogram of occlusion rates and the most frequent categories.

    Args:
        statistics: from `compute_statistics`.
        path: file to write (.png, .pdf or .svg).

    Raises:
        InputError: the file has another ending or cannot be written.
    """
    from matplotlib.figure import Figure

    check_plot(path)
    shown = list(statistics.categories.items())[:PLOTTED_CATEGORIES]
    figure = Figure(figsize=(11, max(4.0, 1.2 + 0.22 * len(shown))), layout="constrained")
    left, right = figure.subplots(1, 2)
    labels, counts = zip(*statistics.ranges(), strict=True)
    left.bar(labels, counts, color=["#9aa5b1"] + ["#c44e52"] * (len(labels) - 1))
    left.set(title="Occlusion rate", ylabel="objects")
    left.tick_params(axis="x", rotation=60)
    names = [name for name, _ in shown]
    right.barh(names, [f.objects for _, f in shown], color="#9aa5b1", label="all")
    right.barh(names, [f.occluded for _, f in shown], color="#c44e52", label="occluded")
    right.invert_yaxis()
    right.set(title=f"Categories ({len(shown)} of {len(statistics.categories)})", xlabel="objects")
    right.legend()
    with atomic_path(path, "plot") as temporary:
        figure.savefig(temporary, dpi=120)


def _add(statistics: DatasetStatistics, image: ImageSample, categories: dict[int, str]) -> None:
    statistics.sizes[image.size] += 1
    statistics.most_objects = max(statistics.most_objects, len(image.objects))
    for obj in image.objects:
        name = categories.get(obj.category_id, str(obj.category_id))
        category = statistics.categories.setdefault(name, CategoryStatistics())
        statistics.num_objects += 1
        category.objects += 1
        statistics.num_stuff += obj.is_stuff
        statistics.num_crowd += obj.iscrowd
        statistics.num_relations += len(obj.occluders)
        statistics.areas.append(rle_area(obj.visible_rle))
        if obj.annotator is not None:
            statistics.annotators[obj.annotator] += 1
        if obj.amodal_rle is None:
            continue
        rate = rle_occlusion_rate(obj.visible_rle, obj.amodal_rle)
        for part in (statistics, category):
            part.rate_sum += rate
        statistics.num_amodal += 1
        category.amodal += 1
        if rate == 0:
            statistics.zero += 1
            continue
        statistics.num_occluded += 1
        category.occluded += 1
        statistics.histogram[int(np.searchsorted(EDGES, rate)) - 1] += 1
