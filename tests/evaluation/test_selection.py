"""Selection of the objects that are scored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from amodal.errors import InputError
from amodal.evaluation.evaluator import EvaluationSettings, evaluate_predictions
from amodal.evaluation.selection import ObjectSelection, objects_digest, read_object_list
from tests.evaluation.toy_predictions import perfect, shifted, toy, write


def keys(selection: ObjectSelection, dataset: object) -> list[tuple[int, int]]:
    return [(image.id, t.id) for image, objects in selection.iterate(dataset) for t in objects]


def test_all_listed_or_first_objects_are_selected(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path)
    assert keys(ObjectSelection(), dataset) == [(1, 1), (1, 2), (2, 3), (2, 4)]
    assert keys(ObjectSelection(max_objects=3), dataset) == [(1, 1), (1, 2), (2, 3)]
    assert keys(ObjectSelection(frozenset({(2, 4), (1, 1)})), dataset) == [(1, 1), (2, 4)]
    assert ObjectSelection(frozenset({(2, 4)}), 1).description == "the first 1 of an explicit list of 1"
    assert ObjectSelection().description == "all annotated objects"


def test_crowds_and_objects_without_an_amodal_mask_are_left_out(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path)
    crowd, modal, *_ = (replace(t, **c) for t, c in zip(dataset.images[0].objects, CHANGES, strict=True))
    changed = replace(dataset, images=(replace(dataset.images[0], objects=(crowd, modal)), dataset.images[1]))
    assert keys(ObjectSelection(), changed) == [(2, 3), (2, 4)]
    only = replace(dataset, images=changed.images[:1])
    with pytest.raises(InputError, match="annotations: expected objects with amodal masks, got none"):
        keys(ObjectSelection(), only)


CHANGES = ({"iscrowd": True}, {"amodal_rle": None})


def test_object_lists_are_read(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("12_7\n\n 3_44 \n")
    assert read_object_list(path) == {(12, 7), (3, 44)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("12_7\n12-8\n", "expected imageid_annoid on each line, got '12-8' on line 2"),
        ("12_7_1\n", "got '12_7_1' on line 1"),
        ("1_2\n1_2\n", "expected each object once, got 1_2 again on line 2"),
        ("\n", "expected imageid_annoid lines, got none"),
    ],
)
def test_invalid_lists_raise(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_object_list(path)


def test_lists_that_are_not_text_files_raise(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.txt", tmp_path, tmp_path / "binary"):
        with pytest.raises(InputError, match="objects: expected a text file"):
            read_object_list(path)


def test_listed_objects_that_are_not_annotated_raise(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path)
    with pytest.raises(InputError, match="got 2 others, the first 1_77"):
        keys(ObjectSelection(frozenset({(1, 1), (1, 77), (5, 1)})), dataset)
    with pytest.raises(InputError, match="max_objects: expected 1 or more, got 0"):
        ObjectSelection(max_objects=0)


def test_the_digest_depends_on_the_set_and_not_on_its_order() -> None:
    assert objects_digest([(1, 2), (3, 4)]) == objects_digest([(3, 4), (1, 2)])
    assert len({objects_digest(k) for k in ([(1, 2)], [(2, 1)], [(1, 2), (3, 4)], [])}) == 4


def test_objects_that_are_not_listed_are_left_out(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path)
    records = perfect(dataset)
    for record in records[2:]:
        record["segmentation"] = shifted(record["segmentation"], 30)
    path = write(tmp_path / "p.json", records)
    (tmp_path / "list.txt").write_text("1_1\n1_2\n")
    listed = evaluate_predictions(
        path, dataset, EvaluationSettings(protocol="c2f", objects=tmp_path / "list.txt", progress=False)
    )
    everything = evaluate_predictions(path, dataset, EvaluationSettings(protocol="c2f", progress=False))
    assert listed.metrics["mIoU_full"] == pytest.approx(1)
    assert listed.metrics["num_objects"] == 2
    assert everything.metrics["mIoU_full"] < 0.6
    assert listed.options["objects"] == "an explicit list of 2"
    assert everything.options["objects"] == "all annotated objects"
    assert listed.options["objects_sha256"] != everything.options["objects_sha256"]
