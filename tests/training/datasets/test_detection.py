from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from amodal.data.datasets import read_dataset
from amodal.data.samples import AnnotatedDataset
from amodal.errors import InputError
from amodal.training.datasets.crops import Augmentation
from amodal.training.datasets.detection import DetectionImages, DetectionSource
from tests.data.toy import write_toy

PLAIN = Augmentation(colour=0.0, hue=0.0, grey=0.0, blur=0.0, noise=0.0, flip=0.5)


def toy(folder: Path) -> AnnotatedDataset:
    return read_dataset("canonical", write_toy(folder / "toy"))


def test_a_whole_image_has_the_boxes_of_its_visible_parts(tmp_path: Path) -> None:
    source = DetectionSource(toy(tmp_path), min_visible_pixels=440, all_annotated=False)
    images = DetectionImages([source], image_size=128, classes=["GREEN"])
    item = images[(0, 1, (0,))]
    objects = source.dataset.images[1].objects
    assert item["boxes"].tolist() == [[2 * v for v in o.visible_box_xyxy] for o in objects]
    assert item["classes"].tolist() == [0, 1]
    assert item["learned"].tolist() == [False, True]  # 432 visible pixels of the first
    batch = images.collate([item, images[(0, 0, (0,))]])
    assert batch["ignored"].tolist() == [[True, False]] * 2
    assert batch["all_annotated"].tolist() == [False, False]
    assert batch["pixel_values"].shape == (2, 3, 128, 128)


def test_boxes_follow_windows_and_flips(tmp_path: Path) -> None:
    images = DetectionImages([DetectionSource(toy(tmp_path))], image_size=128, classes=["red"], augmentation=PLAIN)
    shapes, flipped = set(), 0
    for seed in range(40):
        item = images[(0, 2, (seed,))]
        pixels = item["pixels"].astype(int)
        for (x0, y0, x1, y1), number, learned in zip(item["boxes"], item["classes"], item["learned"], strict=True):
            if not learned:
                continue
            channel = 0 if number == 1 else 1  # red or green
            is_own = (pixels[..., channel] > 130) & (pixels[..., 1 - channel] < 130)
            rows, columns = np.flatnonzero(is_own.any(1)), np.flatnonzero(is_own.any(0))
            box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            np.testing.assert_allclose([x0, y0, x1, y1], box, atol=2.5)
            shapes.add(round(float(x1 - x0)))
        red = item["boxes"][item["classes"] == 1]
        green = item["boxes"][item["classes"] == 0]
        flipped += bool(len(red) and len(green) and red[0, 0] > green[0, 0])
    assert len(shapes) > 8 and 5 < flipped < 35


def test_objects_that_a_window_cuts_away_are_ignored(tmp_path: Path) -> None:
    images = DetectionImages([DetectionSource(toy(tmp_path))], image_size=64, classes=[])
    image = images.sources[0].dataset.images[0]
    x0, y0, x1, _ = (int(v) for v in image.objects[1].visible_box_xyxy)
    cut = (x1 - 6, y0, 64, 64)  # a quarter of the object's width
    boxes, _, learned = images._boxes(image, cut, images.sources[0])
    assert len(boxes) == 1 and learned.tolist() == [False]
    boxes, _, learned = images._boxes(image, (x0 + 2, y0, 64, 64), images.sources[0])
    assert learned.tolist()[-1] is True


def test_a_source_without_objects_is_refused() -> None:
    with pytest.raises(InputError, match="expected sources with at least one annotated image"):
        DetectionImages([DetectionSource(AnnotatedDataset((), {}, "coco"))], image_size=64, classes=[])
