"""CVAT: the function passes the checks of CVAT's own driver, and its masks come back as they were."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from amodal.data.datasets import read_dataset
from amodal.errors import InputError
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject
from amodal.integrations.cvat import AmodalDetection, AmodalInteraction, create
from amodal.ops.boxes import mask_to_box
from amodal.ops.masks import mask_iou
from amodal.ops.rle import decode_mask, segmentation_to_rle
from amodal.synthetic.scenes import render_scene
from tests.drawing import mask

LABEL_IDS = {"visible": 31, "amodal": 57}  # as a task numbers them
CUP = mask("........", ".##.....", ".##.....", "........")
BOOK_SEEN = mask("........", "#..#....", "#..#....", "####....")
BOOK = mask("........", "####....", "####....", "####....")
NOTHING = np.zeros((4, 8), bool)


def small_scene(*_: object) -> Scene:
    objects = [
        SceneObject.from_masks(CUP, CUP, score=0.75),
        SceneObject.from_masks(BOOK_SEEN, BOOK, score=0.5),
        SceneObject.from_masks(NOTHING, NOTHING, score=0),
    ]
    return Scene(objects, (4, 8))


def annotated(
    function: Any, images: Sequence[np.ndarray], monkeypatch: pytest.MonkeyPatch, **options: Any
) -> list[Any]:
    """The shapes that CVAT's driver uploads for a task of these images."""
    driver = pytest.importorskip("cvat_sdk.auto_annotation.driver")
    labels = [
        SimpleNamespace(id=number, name=name, type="any", sublabels=[], attributes=[])
        for name, number in LABEL_IDS.items()
    ]
    samples = [
        SimpleNamespace(
            frame_name=f"{index}.png",
            frame_index=index,
            media=SimpleNamespace(load_image=lambda image=image: Image.fromarray(image)),
        )
        for index, image in enumerate(images)
    ]
    monkeypatch.setattr(driver, "TaskDataset", lambda *_, **__: SimpleNamespace(labels=labels, samples=samples))
    uploads = []

    def upload(action: str, task: int, *, patched_labeled_data_request: Any) -> None:
        uploads.append((action, task, patched_labeled_data_request))

    api = SimpleNamespace(partial_update_annotations=upload)
    client = SimpleNamespace(logger=logging.getLogger("cvat"), tasks=SimpleNamespace(api=api))
    driver.annotate_task(client, 7, function, **options)
    assert [upload[:2] for upload in uploads] == [("create", 7)]
    return list(uploads[0][2].shapes)


def decoded(shape: Any, size: tuple[int, int]) -> np.ndarray:
    if shape.type.value == "polygon":
        return decode_mask(segmentation_to_rle([list(shape.points)], *size))
    from cvat_sdk.masks import decode_mask as decode_of_cvat

    return np.asarray(decode_of_cvat(shape.points, image_width=size[1], image_height=size[0]))


def test_masks_of_each_object_have_their_labels_and_a_group_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    blank = np.zeros((4, 8, 3), np.uint8)
    shapes = annotated(AmodalDetection(small_scene), [blank, blank], monkeypatch)
    assert [shape.frame for shape in shapes] == [0, 0, 0, 0, 1, 1, 1, 1]
    expected = [("amodal", CUP), ("visible", CUP), ("amodal", BOOK), ("visible", BOOK_SEEN)] * 2
    for shape, (label, drawn) in zip(shapes, expected, strict=True):
        assert shape.label_id == LABEL_IDS[label] and shape.source == "auto"
        assert np.array_equal(decoded(shape, (4, 8)), drawn)
    groups = [shape.group for shape in shapes]
    assert groups[::2] == groups[1::2] and len(set(groups)) == 4  # also apart between images
    assert [shape.z_order for shape in shapes] == [0, 1] * 4  # the visible mask is above the amodal one
    assert [shape.occluded for shape in shapes] == [False, False, True, True] * 2


def test_polygons_have_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    blank = np.zeros((4, 8, 3), np.uint8)
    shapes = annotated(AmodalDetection(small_scene), [blank], monkeypatch, conv_mask_to_poly=True)
    assert {shape.type.value for shape in shapes} == {"polygon"}
    for group, (seen, whole) in enumerate([(CUP, CUP), (BOOK_SEEN, BOOK)], start=1):
        for label, drawn in (("visible", seen), ("amodal", whole)):
            parts = [s for s in shapes if s.group == group and s.label_id == LABEL_IDS[label]]
            assert np.array_equal(np.any([decoded(part, (4, 8)) for part in parts], axis=0), drawn)


def test_what_cvat_exports_again_is_read_with_both_masks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blank = np.zeros((4, 8, 3), np.uint8)
    shapes = annotated(AmodalDetection(small_scene), [blank, blank], monkeypatch)
    root = ElementTree.Element("annotations")
    names = {number: name for name, number in LABEL_IDS.items()}
    for frame in (0, 1):  # as CVAT writes shapes of the type mask
        image = ElementTree.SubElement(root, "image", id=str(frame), name=f"{frame}.png", width="8", height="4")
        for shape in (shape for shape in shapes if shape.frame == frame):
            *runs, left, top, right, bottom = (int(value) for value in shape.points)
            place = {"left": left, "top": top, "width": right - left + 1, "height": bottom - top + 1}
            known = {"label": names[shape.label_id], "source": "auto", "rle": ", ".join(map(str, runs))}
            numbers = place | {"occluded": int(shape.occluded), "z_order": shape.z_order, "group_id": shape.group}
            ElementTree.SubElement(image, "mask", known | {key: str(value) for key, value in numbers.items()})
    ElementTree.ElementTree(root).write(tmp_path / "annotations.xml")
    (tmp_path / "images").mkdir()
    for frame in (0, 1):
        Image.fromarray(blank).save(tmp_path / "images" / f"{frame}.png")
    samples = read_dataset("cvat", tmp_path / "annotations.xml").images
    assert [len(sample.objects) for sample in samples] == [2, 2]
    for sample in samples:
        for obj, (seen, whole) in zip(sample.objects, [(CUP, CUP), (BOOK_SEEN, BOOK)], strict=True):
            assert obj.amodal_rle is not None
            assert np.array_equal(decode_mask(obj.visible_rle), seen)
            assert np.array_equal(decode_mask(obj.amodal_rle), whole)


@pytest.mark.parametrize(("threshold", "groups"), [(None, {1, 2}), (0.6, {1}), (0.75, {1}), (0.9, set())])
def test_objects_below_the_threshold_are_left_out(
    threshold: float | None, groups: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    blank = np.zeros((4, 8, 3), np.uint8)
    shapes = annotated(AmodalDetection(small_scene), [blank], monkeypatch, conf_threshold=threshold)
    assert {shape.group for shape in shapes} == groups


@pytest.mark.slow
def test_cvats_command_line_loads_the_function_and_it_finds_the_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    common = pytest.importorskip("cvat_cli._internal.common")
    loader = common.FunctionLoader("amodal.integrations.cvat", None, {"model": "plug-small", "device": "cpu"})
    drawn = render_scene(27, size=(160, 160))
    shapes = annotated(loader.load(), [drawn.image], monkeypatch)
    amodal = [decoded(shape, (160, 160)) for shape in shapes if shape.label_id == LABEL_IDS["amodal"]]
    assert len(amodal) == len(shapes) / 2
    largest = max(drawn.objects, key=lambda obj: int(obj.visible_mask.sum()))
    assert max(mask_iou(found, largest.amodal_mask) for found in amodal) > 0.7


@dataclass(frozen=True)
class Prompts:
    """What a person has clicked, with the fields of CVAT's `InteractionPrompts`."""

    pos_points: tuple[tuple[float, float], ...] = ()
    neg_points: tuple[tuple[float, float], ...] = ()
    bounding_box: tuple[tuple[float, float], tuple[float, float]] | None = None


@pytest.fixture(scope="module")
def interactor() -> AmodalInteraction:
    sdk = pytest.importorskip("cvat_sdk.auto_annotation")
    if not hasattr(sdk, "InteractionFunctionSpec"):
        pytest.skip("this SDK has no interaction functions")
    function = create(model="plug-small", kind="interactor", device="cpu")
    assert isinstance(function, AmodalInteraction) and isinstance(function.spec, sdk.InteractionFunctionSpec)
    return function


def test_a_person_segments_one_object_in_the_editor(interactor: AmodalInteraction) -> None:
    drawn = render_scene(28, size=(160, 160))
    largest = max(drawn.objects, key=lambda obj: int(obj.visible_mask.sum()))
    x0, y0, x1, y1 = (float(v) for v in mask_to_box(largest.visible_mask))
    rows, columns = np.nonzero(largest.visible_mask)
    point = (float(columns[len(columns) // 2]), float(rows[len(rows) // 2]))
    image = interactor.preprocess_image(None, Image.fromarray(drawn.image))
    for prompts in (
        Prompts(bounding_box=((x0, y0), (x1, y1))),
        Prompts(pos_points=(point,), bounding_box=((x0, y0), (x1, y1))),
        Prompts(pos_points=(point,)),
    ):
        (shape,) = interactor.detect(None, image, prompts)
        assert shape.type == "mask"
        found = decoded(SimpleNamespace(type=SimpleNamespace(value="mask"), points=shape.points), (160, 160))
        assert mask_iou(found, largest.amodal_mask) > 0.5, prompts


def test_without_a_prompt_on_the_object_there_is_nothing_to_segment(interactor: AmodalInteraction) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    assert interactor.detect(None, image, Prompts()) == []
    with pytest.raises(InputError, match="point_labels: expected at least one point with label 1, got only 0"):
        interactor.detect(None, image, Prompts(neg_points=((3, 3),)))
    with pytest.raises(InputError, match="expected a box inside the 64 x 64 image"):
        interactor.detect(None, image, Prompts(bounding_box=((70, 70), (80, 80))))


def test_an_interactor_returns_the_part_that_was_asked_for(interactor: AmodalInteraction) -> None:
    book = replace(small_scene(), objects=small_scene().objects[1:2])
    for part, drawn in (("visible", BOOK_SEEN), ("amodal", BOOK)):
        function = AmodalInteraction(lambda *_, **__: book, part)  # type: ignore[arg-type]
        (shape,) = function.detect(None, np.zeros((4, 8, 3), np.uint8), Prompts(pos_points=((1, 3),)))
        found = decoded(SimpleNamespace(type=SimpleNamespace(value="mask"), points=shape.points), (4, 8))
        assert np.array_equal(found, drawn)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "tracker"}, "kind: expected detector or interactor, got 'tracker'"),
        ({"part": "occluded"}, "part: expected amodal or visible, got 'occluded'"),
        ({"part": "visible"}, "part: expected with the kind interactor only"),
        ({"kind": "interactor", "detector": "me/model"}, "detector: expected with the kind detector only"),
        ({"kind": "interactor", "text": "cup"}, "detector: expected with the kind detector only"),
        ({"text": "cup"}, "text: expected together with a detector, got no detector"),
        ({"model": "no-model"}, "model: expected a bundled name"),
    ],
)
def test_impossible_parameters(options: dict[str, str], message: str) -> None:
    pytest.importorskip("cvat_sdk.auto_annotation")
    with pytest.raises(InputError, match=message):
        create(**options)


def test_a_missing_sdk_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cvat_sdk", None)
    monkeypatch.setitem(sys.modules, "cvat_sdk.auto_annotation", None)
    with pytest.raises(InputError, match=r"cvat: expected CVAT's SDK, got no .* \(pip install 'amodal\[cvat\]'\)"):
        create()


def test_an_sdk_without_interaction_functions_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cvat_sdk.auto_annotation", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "cvat_sdk", SimpleNamespace(auto_annotation=SimpleNamespace()))
    with pytest.raises(InputError, match="expected a CVAT SDK with interaction functions, got an older one"):
        create(kind="interactor")
