"""C2F-Seg's released lists and pickles are read by position, and scored as the published code scores them."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amodal.data.datasets import guess_format, read_dataset
from amodal.data.formats.c2f import PROMPT_BOX
from amodal.errors import InputError
from amodal.evaluation.boxes import BoxSource, default_box_source
from amodal.evaluation.evaluator import EvaluationSettings, evaluate_predictions
from amodal.evaluation.predictions import image_sizes
from amodal.io.plain_pickle import read_plain_pickle
from amodal.ops.rle import encode_mask
from tests.data.c2f_archive import detection, load_as_published, score_as_published, write_cocoa, write_kins

Writer = Callable[[Path], Path]
ARCHIVES = pytest.mark.parametrize("write", [write_kins, write_cocoa])


@ARCHIVES
def test_objects_are_those_of_the_published_loaders(write: Writer, tmp_path: Path) -> None:
    path = write(tmp_path / "archive")
    assert guess_format(path) == "c2f"
    dataset = read_dataset("c2f", path)
    objects = {obj.id: obj for image in dataset.images for obj in image.objects}
    truths = load_as_published(path)
    assert sorted(objects) == list(range(1, len(truths) + 1))
    for number, truth in enumerate(truths, 1):
        obj, (x, y, w, h) = objects[number], truth.box_xywh
        assert np.array_equal(obj.amodal_mask(), truth.amodal.astype(bool))
        assert np.array_equal(obj.visible_mask(), truth.visible.astype(bool))
        assert obj.attributes[PROMPT_BOX] == [x, y, x + w, y + h]
    assert all(image.load().shape == (40, 60, 3) for image in dataset.images)


def test_images_are_told_apart_by_their_files(tmp_path: Path) -> None:
    dataset = read_dataset("c2f", write_kins(tmp_path / "archive"))
    assert [(image.id, image.file_name) for image in dataset.images] == [(3, "000003.png"), (4, "000004.png")]
    assert [[obj.id for obj in image.objects] for image in dataset.images] == [[1, 2, 4, 6, 7], [3, 5]]
    assert dataset.categories == {0: "unstated", 4: "car"}


@ARCHIVES
@pytest.mark.parametrize("seed", range(3))
def test_the_score_is_that_of_the_published_code(write: Writer, seed: int, tmp_path: Path) -> None:
    path = write(tmp_path / "archive")
    dataset, truths, rng = read_dataset("c2f", path), load_as_published(path), np.random.default_rng(seed)
    masks = [np.roll(t.amodal, rng.integers(-3, 4, 2), (0, 1)) | (rng.random(t.amodal.shape) < 0.02) for t in truths]
    image_of = {obj.id: image.id for image in dataset.images for obj in image.objects}
    records = [
        {"image_id": image_of[i], "annotation_id": i, "segmentation": encode_mask(mask)}
        for i, mask in enumerate(masks, 1)
    ]
    (tmp_path / "p.json").write_text(json.dumps(records))
    settings = EvaluationSettings("c2f", baselines=(), resampling=None, progress=False)
    metrics = evaluate_predictions(tmp_path / "p.json", dataset, settings).metrics
    expected = score_as_published(masks, truths)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@ARCHIVES
def test_the_prompts_are_the_boxes_of_the_list(write: Writer, tmp_path: Path) -> None:
    dataset = read_dataset("c2f", write(tmp_path / "archive"))
    assert default_box_source(dataset) == "predicted"
    source = BoxSource.parse("predicted", image_sizes(dataset))
    for image in dataset.images:
        for box, obj in zip(source.boxes_for(image, image.objects), image.objects, strict=True):
            assert box == tuple(obj.attributes[PROMPT_BOX])


def test_the_intersection_list_has_its_own_pickle(tmp_path: Path) -> None:
    folder = write_kins(tmp_path / "archive").parent
    (folder / "kins_intersection.pkl").write_bytes(pickle.dumps({3: [detection(2, 2, True)]}))
    (folder / "kins_intersection_list.txt").write_text("3_0\n")
    (image,) = read_dataset("c2f", folder / "kins_intersection_list.txt").images
    assert image.file_name == "000003.png" and image.objects[0].attributes[PROMPT_BOX] == [3, 2, 15, 18]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("aisformer,3,7", "line 1: expected an entry of the pickle, got 'aisformer_3' at 7"),
        ("aisformer,5,0", "line 1: expected an entry of the pickle, got 'aisformer_5' at 0"),
        ("aisformer,9,0", "line 1: expected an entry of the pickle"),
        ("3_1_4\n3_7_4", "line 2: expected an annotation of update_test_2020.json, got number 7 of image 3"),
        ("0,x.jpg", "COCO_amodal_val2014_with_classes.json"),
        ("3_1_4\n\n", "expected NAME,IMAGE_ID,INDEX.*got '' on line 2"),
        ("3;1", "got '3;1' on line 1"),
        (f"{'9' * 5000}_1_4", "expected NAME,IMAGE_ID,INDEX"),
        (f"aisformer,3,{'9' * 5000}", "expected NAME,IMAGE_ID,INDEX"),
        ("", "expected one object per line, got an empty list"),
    ],
)
def test_invalid_lines_raise(lines: str, message: str, tmp_path: Path) -> None:
    path = write_kins(tmp_path / "archive")
    path.write_text(lines)
    with pytest.raises(InputError, match=message):
        read_dataset("c2f", path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pred_visible_mask": {"size": [0, 4]}}, "expected a size of 1 to"),
        ({"pred_visible_mask": None}, "expected a size as height and width"),
        ({"pred_visible_mask_bbox": [1, 2, 3]}, "bbox: expected x, y, w, h"),
        ({"pred_visible_mask_bbox": [1, 2, 3, "x"]}, "expected numbers as bbox"),
        ({"pred_visible_mask_bbox": None}, "bbox: expected x, y, w, h"),
        ({"pred_visible_mask_bbox": [(1,), (2,), (3,), (4,)]}, "expected numbers as bbox"),
        ({"pred_visible_mask_bbox": np.ones((4, 2))}, "expected numbers as bbox"),
    ],
)
def test_invalid_entries_raise(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_kins(tmp_path / "archive")
    entry = detection(2, 2, True) | change
    path.with_name("fusion_test.pkl").write_bytes(pickle.dumps({"aisformer_3": [entry]}))
    path.write_text("aisformer,3,0")
    with pytest.raises(InputError, match=message):
        read_dataset("c2f", path)


class _Hostile:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


def test_hostile_pickles_run_nothing(tmp_path: Path) -> None:
    import os

    mark = tmp_path / "mark"
    for hostile in (
        _Hostile(os.mkdir, str(mark)),
        _Hostile(eval, f"__import__('os').mkdir({str(mark)!r})"),
        _Hostile(getattr, mark, "mkdir"),
        _Hostile(np.load, str(mark)),
        {"aisformer_3": [detection(2, 2, True) | {"loss_mask": _Hostile(os.mkdir, str(mark))}]},
        np.array([_Hostile(os.mkdir, str(mark))], dtype=object),
        _Hostile(np.ndarray, (10**12,)),
    ):
        path = write_kins(tmp_path / f"archive{id(hostile)}")
        path.with_name("fusion_test.pkl").write_bytes(pickle.dumps(hostile))
        with pytest.raises(InputError, match=r"fusion_test.pkl: expected a pickle of plain containers"):
            read_dataset("c2f", path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "state",
    [
        (3, "|", None, None, None, -1, 1, 0),  # elements of a negative size
        (3, "|", None, None, None, 2**31 - 1, 1, 0),  # of a larger size than their bytes
        (3, "|", None, None, None, 8, 1, 63),  # with the flags of Python objects
        (3, "|", None, ("f",), {"f": (np.dtype("i8"), 4)}, 8, 1, 0),  # with a field behind their end
        (3, "|", (np.dtype("i8"), (1000,)), None, None, 8, 1, 0),  # with more numbers than their bytes
    ],
)
def test_hostile_types_read_no_other_memory(state: tuple[Any, ...], tmp_path: Path) -> None:
    scalar, reconstruct = np.float32(1).__reduce__()[0], np.zeros(1).__reduce__()[0]

    class Kind:
        def __reduce__(self) -> Any:
            return np.dtype, ("S8", False, True), state

    class Array:
        def __reduce__(self) -> Any:
            return reconstruct, (np.ndarray, (0,), b"b"), (1, (2,), Kind(), False, b"A" * 16)

    read = "import sys, pathlib, amodal.io.plain_pickle as p; print(p.read_plain_pickle(pathlib.Path(sys.argv[1])))"
    for content, stored in ((_Hostile(scalar, Kind(), b"A" * 8), b"A" * 8), (Array(), np.array([b"A" * 8] * 2))):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
        done = subprocess.run([sys.executable, "-c", read, tmp_path / "a.pkl"], capture_output=True, text=True)
        if done.returncode == 1:  # a crash has another code
            assert "InputError" in done.stderr.splitlines()[-1]
        else:
            assert (done.returncode, done.stdout.strip(), done.stderr) == (0, str(stored), "")


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"not a pickle", pickle.dumps([1])[:-2]])
def test_broken_pickles_raise(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(InputError, match="expected a pickle of plain containers"):
        read_plain_pickle(tmp_path / "a.pkl")


def test_other_content_of_a_pickle_and_missing_files_raise(tmp_path: Path) -> None:
    path = write_kins(tmp_path / "archive")
    path.with_name("fusion_test.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(InputError, match="expected a dictionary, got list"):
        read_dataset("c2f", path)
    path.with_name("fusion_test.pkl").unlink()
    with pytest.raises(InputError, match="expected a file that can be read"):
        read_dataset("c2f", path)
    with pytest.raises(InputError, match="annotations: expected c2f_seg_train_list.txt"):
        read_dataset("c2f", path.rename(path.with_name("list.txt")))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_come_back(protocol: int, tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    content = {"a": [1, 2.5, b"x\xff", None, True], 3: (np.float32(0.5), np.int64(7)), "s": {1, 2}, "t": "é"}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"plain": content, "array": array}, protocol))
    found = read_plain_pickle(tmp_path / "a.pkl")
    assert found["plain"] == content
    assert found["array"].dtype == array.dtype and np.array_equal(found["array"], array)
