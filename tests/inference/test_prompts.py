"""Prompts in every form that people have them in: one test per form, and one clear line per mistake."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from amodal.errors import InputError
from amodal.inference.prompts import collect_prompts, prompts_from_detections, with_box
from amodal.ops.rle import decode_mask, encode_mask

SIZE = (20, 30)
BOX = [4, 5, 10, 12]


def square() -> np.ndarray:
    found = np.zeros(SIZE, bool)
    found[5:12, 4:10] = True
    return found


MASK_FORMS: dict[str, Any] = {
    "bool array (N, H, W)": square()[None],
    "one bool array (H, W)": square(),
    "list of arrays": [square()],
    "uint8 of 0 and 255": (square() * 255).astype(np.uint8)[None],
    "tensor": torch.from_numpy(square())[None],
    "tensor with a channel": torch.from_numpy(square())[None, None],
    "COCO RLE": [encode_mask(square())],
    "one COCO RLE": encode_mask(square()),
    "polygon": [[[4, 5, 10, 5, 10, 12, 4, 12]]],
}


@pytest.mark.parametrize("form", MASK_FORMS)
def test_a_mask_is_kept_exactly(form: str) -> None:
    (prompt,) = collect_prompts(SIZE, masks=MASK_FORMS[form])
    assert prompt.visible is not None
    assert (decode_mask(prompt.visible) == square()).all()
    assert with_box(prompt).box_xyxy == tuple(map(float, BOX))


@pytest.mark.parametrize("boxes", [[BOX], BOX, np.array([BOX]), np.array(BOX), torch.tensor([BOX])], ids=str)
def test_boxes_and_a_flat_box(boxes: Any) -> None:
    (prompt,) = collect_prompts(SIZE, boxes_xyxy=boxes)
    assert prompt.box_xyxy == tuple(map(float, BOX))


def test_prompts_are_mixed_per_object() -> None:
    first, second, third = collect_prompts(
        SIZE,
        boxes_xyxy=[BOX, None, None],
        masks=[None, square(), None],
        points_xy=[[[5, 6]], None, [[1, 2], [3, 4]]],
        point_labels=[[1], None, [1, 0]],
    )
    assert first.box_xyxy and first.points_xy is not None and first.visible is None
    assert second.visible and second.box_xyxy is None and second.points_xy is None
    assert third.point_labels is not None and third.point_labels.tolist() == [1, 0]


class Detections:
    """What `supervision.Detections` has."""

    def __init__(self, mask: np.ndarray | None) -> None:
        self.xyxy = np.array([BOX], np.float32)
        self.mask = mask
        self.confidence = np.array([0.9])
        self.class_id = np.array([3])
        self.tracker_id = np.array([7])
        self.data = {"class_name": np.array(["mug"])}


def ultralytics_results(with_masks: bool) -> SimpleNamespace:
    """What an ultralytics `Results` has, as recorded from a segmentation model."""
    boxes = SimpleNamespace(
        xyxy=torch.tensor([BOX]).float(), cls=torch.tensor([41.0]), conf=torch.tensor([0.8]), id=None
    )
    polygon = np.array([[4, 5], [10, 5], [10, 12], [4, 12]], np.float32)
    masks = SimpleNamespace(xy=[polygon], data=torch.zeros(1, 24, 32)) if with_masks else None
    return SimpleNamespace(boxes=boxes, masks=masks, names={41: "cup"}, orig_shape=SIZE)


def test_supervision_detections() -> None:
    (prompt,) = prompts_from_detections(Detections(square()[None]), SIZE)
    assert (prompt.name, prompt.class_id, prompt.tracker_id) == ("mug", 3, 7)
    assert prompt.visible and (decode_mask(prompt.visible) == square()).all()
    (boxed,) = prompts_from_detections(Detections(None), SIZE)
    assert boxed.visible is None and boxed.box_xyxy == tuple(map(float, BOX))


def test_ultralytics_results() -> None:
    (prompt,) = prompts_from_detections(ultralytics_results(True), SIZE)
    assert (prompt.name, prompt.class_id, prompt.tracker_id) == ("cup", 41, None)
    assert prompt.visible and (decode_mask(prompt.visible) == square()).all()
    (boxed,) = prompts_from_detections(ultralytics_results(False), SIZE)
    assert boxed.box_xyxy == tuple(map(float, BOX))


def test_torchvision_dictionary() -> None:
    probabilities = torch.from_numpy(square()).float()[None, None] * 0.8
    found = {"boxes": torch.tensor([BOX]), "labels": torch.tensor([2]), "masks": probabilities}
    (prompt,) = prompts_from_detections(found, SIZE)
    assert prompt.class_id == 2
    assert prompt.visible and (decode_mask(prompt.visible) == square()).all()


def test_coco_annotations() -> None:
    polygon = [[4, 5, 10, 5, 10, 12, 4, 12]]
    plain = {"id": 17, "category_id": 3, "segmentation": polygon, "bbox": [4, 5, 6, 7]}
    canonical = {"id": 18, "segmentation": encode_mask(np.ones(SIZE, bool)), "visible_mask": encode_mask(square())}
    boxed = {"id": 19, "bbox": [4, 5, 6, 7]}
    first, second, third = prompts_from_detections([plain, canonical, boxed], SIZE)
    assert (first.source_id, first.class_id) == (17, 3)
    for prompt in (first, second):
        assert prompt.visible and (decode_mask(prompt.visible) == square()).all()
    assert third.visible is None and third.box_xyxy == tuple(map(float, BOX))


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "prompts: expected boxes, points, masks or detections, got none"),
    "mask of another size": ({"masks": np.ones((1, 5, 5), bool)}, r"mask: expected the image's shape \(20, 30\)"),
    "empty mask": ({"masks": np.zeros((1, *SIZE), bool)}, "mask: expected at least one pixel"),
    "mask as floats": ({"masks": np.full((1, *SIZE), 0.7)}, "mask: expected bool, got float64"),
    "numbered mask": ({"masks": np.arange(600).reshape(1, *SIZE)}, "mask: expected bool, got int64"),
    "more masks than boxes": (
        {"masks": np.stack([square()] * 2), "boxes_xyxy": [BOX]},
        "prompts: expected one entry per object in each list, got 1 boxes, 2 masks",
    ),
    "unreadable RLE": ({"masks": [{"size": list(SIZE), "counts": "###"}]}, "segmentation"),
    "RLE of another size": ({"masks": [{"size": [5, 5], "counts": "1"}]}, "segmentation"),
    "normalised box": ({"boxes_xyxy": [[0.1, 0.2, 0.5, 0.6]]}, "looks normalised"),
    "inverted box": ({"boxes_xyxy": [[10, 5, 4, 12]]}, "inverted"),
    "box outside": ({"boxes_xyxy": [[100, 5, 140, 12]]}, "inside the 30 x 20 image"),
    "five numbers": ({"boxes_xyxy": [[1, 2, 3, 4, 5]]}, "four numbers"),
    "point outside": ({"points_xy": [[[100, 5]]]}, "inside the 30 x 20 image"),
    "only background": ({"points_xy": [[[1, 5]]], "point_labels": [[0]]}, "at least one point with label 1"),
    "flat points": ({"points_xy": [10, 20]}, r"point: expected a list of points"),
    "one flat point": ({"points_xy": [[10, 20]]}, r"point: expected a list of points"),
    "another label": ({"points_xy": [[[1, 5]]], "point_labels": [[2]]}, "a list of 1 label of 0 or 1"),
    "labels alone": ({"boxes_xyxy": [BOX], "point_labels": [[1]]}, "together with points_xy"),
    "an object without a prompt": ({"boxes_xyxy": [BOX, None]}, "object 1: prompts: expected a box, points or a mask"),
    "detections and boxes": ({"detections": Detections(None), "boxes_xyxy": [BOX]}, "without other prompts"),
    "a string as detections": ({"detections": "mug"}, "expected a supervision.Detections"),
    "annotation without mask": ({"detections": [{"id": 5}]}, "annotation 5: expected a segmentation or a bbox"),
    "the second of two boxes": (
        {"boxes_xyxy": [BOX, [4, 5, 4, 12]]},
        "object 1: box: expected an area, got .* not X,Y,width",
    ),
    "a number as boxes": ({"boxes_xyxy": 5}, "boxes: expected a list with an entry per object, got 5"),
    "ragged points": ({"points_xy": [[[1, 2], [3]]]}, "point: expected two finite numbers X,Y"),
    "flat labels": (
        {"points_xy": [[[1, 5]]], "point_labels": [1]},
        "point_labels: expected a list of 1 label of 0 or 1",
    ),
    "a file as masks": ({"masks": "mask.png"}, "masks: expected a list of masks, got a path"),
    "a file as a mask": ({"masks": [Path("mask.png")]}, "mask: expected an array, an RLE or polygons, got a path"),
    "a flat polygon": ({"masks": [4, 5, 10, 5, 10, 12]}, "masks: expected a list of masks, got numbers"),
    "masks in the last axis": (
        {"masks": [np.ones((*SIZE, 2), bool)]},
        r"masks of several objects have the shape \(N, H, W\)",
    ),
    "a label map": ({"masks": [np.full(SIZE, 7)]}, r"pass one mask \(image == number\) per object"),
    "a box of another object": ({"masks": [square()], "boxes_xyxy": [[15, 13, 29, 19]]}, "which covers 0% of it"),
    "a mask with its box as xywh": ({"masks": [square()], "boxes_xyxy": [[4, 5, 6, 7]]}, "not X,Y,width,height"),
    "names of another number": ({"boxes_xyxy": [BOX], "names": ["mug", "cup"]}, "got 1 boxes, 2 names"),
    "a number as a name": ({"boxes_xyxy": [BOX], "names": [3]}, "names: expected a text per object, got 3"),
    "a text as a class": ({"boxes_xyxy": [BOX], "class_ids": ["mug"]}, "class_ids: expected an integer per object"),
    "names of detections": ({"detections": [{"bbox": [4, 5, 6, 7]}], "names": ["mug"]}, "got names too"),
}


@pytest.mark.parametrize(
    "empty",
    [
        {"boxes_xyxy": []},
        {"boxes_xyxy": np.zeros((0, 4))},
        {"masks": []},
        {"detections": []},
        {"detections": {"boxes": torch.zeros(0, 4)}},
        {"boxes_xyxy": [], "names": []},
    ],
)
def test_no_object_is_no_mistake(empty: dict[str, Any]) -> None:
    assert collect_prompts(SIZE, **empty) == []


def test_names_and_class_ids() -> None:
    first, second = collect_prompts(SIZE, boxes_xyxy=[BOX, BOX], names=["mug", None], class_ids=np.array([3, 4]))
    assert (first.name, first.class_id, second.name, second.class_id) == ("mug", 3, None, 4)


@pytest.mark.parametrize(
    "boxes",
    [
        torch.tensor([BOX]).bfloat16(),
        torch.tensor([BOX], dtype=torch.float32, requires_grad=True),
        [torch.tensor(BOX, dtype=torch.float32, requires_grad=True)],
        [[torch.tensor(float(value), requires_grad=True) for value in BOX]],
        torch.tensor(BOX, dtype=torch.float32, requires_grad=True),
    ],
)
def test_boxes_as_tensors_of_any_kind(boxes: Any) -> None:
    (prompt,) = collect_prompts(SIZE, boxes_xyxy=boxes)
    assert prompt.box_xyxy == tuple(map(float, BOX))


def test_one_pil_image_as_the_mask() -> None:
    (prompt,) = collect_prompts(SIZE, masks=Image.fromarray(square()))
    assert prompt.visible and (decode_mask(prompt.visible) == square()).all()


def test_coco_regions_of_many_objects_are_left_out() -> None:
    boxes = [{"id": n, "bbox": np.array([4, 5, 6, 7]), "iscrowd": n % 2} for n in range(4)]
    assert [prompt.source_id for prompt in prompts_from_detections(boxes, SIZE)] == [0, 2]


@pytest.mark.parametrize("case", MISTAKES)
def test_one_clear_line_per_mistake(case: str) -> None:
    arguments, line = MISTAKES[case]
    with pytest.raises(InputError, match=line) as caught:
        collect_prompts(SIZE, **arguments)
    assert "\n" not in str(caught.value)
