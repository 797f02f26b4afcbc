"""The export contains exactly the finished pairs, in forms that other readers accept."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from amodal.data.reason_seg import parse_answer, read_reason_seg
from amodal.datagen.backends.template import TemplateBackend
from amodal.datagen.check import check
from amodal.datagen.export.dataset import export
from amodal.datagen.export.writers import mask_to_polygons
from amodal.datagen.generate import generate
from amodal.datagen.select import DatasetSource, ImageSelection, select
from amodal.datagen.stats import statistics, work_statistics
from amodal.datagen.store.work_folder import WorkFolder, open_work
from amodal.errors import InputError
from amodal.ops.rle import decode_mask
from tests.drawing import mask

ACCEPTED = 30


@pytest.fixture(scope="module")
def finished(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    """Twelve scenes with 120 pairs: 29 accepted, 1 rewritten, 1 rejected, all others checked."""
    selection = ImageSelection(max_images=12, min_objects=4)
    work = select([DatasetSource("canonical", scenes)], selection, tmp_path_factory.mktemp("export") / "work")
    generate(work, TemplateBackend(), progress=False)
    check(work, progress=False)
    pairs = list(work.pairs.find())
    for pair in pairs[: ACCEPTED - 1]:
        work.pairs.set_state(pair.id, "accepted", "ada")
    work.pairs.set_state(pairs[ACCEPTED - 1].id, "rewritten", "ada", question="Is this the question that ada wrote?")
    work.pairs.set_state(pairs[ACCEPTED].id, "rejected", "ada")
    return work


def test_statistics(finished: WorkFolder) -> None:
    numbers = work_statistics(finished)
    assert (numbers["images"], numbers["pairs"], numbers["pairs_per_image"]) == (12, 120, 10.0)
    assert numbers["states"]["accepted"] == 29 and numbers["states"]["rejected"] == 1
    assert numbers["states"]["checked"] == 89
    assert sum(side["images"] for side in numbers["splits"].values()) == 12
    lengths = [len(parse_answer(pair.answer)) for pair in finished.pairs.find()]
    assert numbers["mentions"] == sum(lengths)
    assert numbers["objects_per_answer"]["mean"] == pytest.approx(np.mean(lengths), abs=1e-3)
    named = {(pair.image_id, number) for pair in finished.pairs.find() for number, _ in parse_answer(pair.answer)}
    rates = [
        record["occlude_rate"]
        for image in finished.images()
        for record in finished.object_records(image.id)
        if (image.id, record["id"]) in named
    ]
    assert numbers["occlusion"]["histogram"] == np.histogram(rates, 10, (0, 1))[0].tolist()
    assert numbers["occlusion"]["objects"] == len(named)
    assert numbers["occlusion"]["whole"] == sum(rate < 0.01 for rate in rates)
    some = statistics(finished, ["accepted"])
    assert (some["images"], some["pairs"]) == (3, 29)


def test_canonical_is_read_back(finished: WorkFolder, tmp_path: Path) -> None:
    numbers = export(finished, "canonical", tmp_path / "out")
    assert (numbers["images"], numbers["pairs"]) == (3, ACCEPTED)
    dataset = read_reason_seg(tmp_path / "out" / "questions.json", tmp_path / "out" / "annotations.json")
    assert len(dataset.conversations) == ACCEPTED
    for conversation in dataset.conversations:
        assert isinstance(conversation.id, int)
        pair = finished.pairs.get(conversation.id)
        turn = conversation.turns[0]
        assert (turn.question, turn.answer, conversation.image.id) == (pair.question, pair.answer, pair.image_id)
        before = {one.id: one for one in finished.sample(finished.image(pair.image_id)).objects}
        for obj in turn.objects:
            assert obj.amodal_rle == before[obj.id].amodal_rle, "masks are identical"
            assert obj.visible_rle == before[obj.id].visible_rle
    assert dataset.conversations[0].image.load().shape == (256, 256, 3)
    sides = [json.loads((tmp_path / "out" / f"questions-{side}.json").read_text()) for side in ("train", "test")]
    assert sum(map(len, sides)) == ACCEPTED
    assert not {one["image_id"] for one in sides[0]} & {one["image_id"] for one in sides[1]}


def test_muse(finished: WorkFolder, tmp_path: Path) -> None:
    export(finished, "muse", tmp_path / "out")
    records = [one for side in ("train", "test") for one in json.loads((tmp_path / "out" / f"{side}.json").read_text())]
    assert sum(len(one["questions"]) for one in records) == ACCEPTED
    for record in records:
        assert (tmp_path / "out" / "images" / record["file_name"]).is_file()
        for question, answer, text in zip(record["questions"], record["answers"], record["text_answers"], strict=True):
            assert text.count("{seg}") == len(answer) > 0
            assert "<p>" not in text and "seg:" not in text
            pair = next(p for p in finished.pairs.find(image_id=record["image_id"]) if p.question == question)
            assert [one["id"] for one in answer] == [number for number, _ in parse_answer(pair.answer)]
            assert all({"segmentation", "visible_mask", "bbox", "category_name"} <= one.keys() for one in answer)


def test_reasonseg(finished: WorkFolder, tmp_path: Path) -> None:
    export(finished, "reasonseg", tmp_path / "out")
    for kind in ("amodal", "visible"):
        files = sorted((tmp_path / "out" / kind).rglob("*.json"))
        assert len(files) == ACCEPTED
        for file in files:
            assert file.with_suffix(".jpg").is_file()
            record = json.loads(file.read_text())
            pair = finished.pairs.get(int(file.stem.split("_")[-1]))
            assert record["text"] == [pair.question] and record["is_sentence"] is True
            objects = {one.id: one for one in finished.sample(finished.image(pair.image_id)).objects}
            wanted = np.zeros((256, 256), bool)
            for number, _ in parse_answer(pair.answer):
                obj = objects[number]
                rle = obj.amodal_rle if kind == "amodal" else obj.visible_rle
                assert rle is not None
                wanted |= decode_mask(rle)
            assert (painted(record["shapes"], (256, 256)) == wanted).all()


def painted(shapes: list[dict[str, object]], size: tuple[int, int]) -> np.ndarray:
    """The mask that readers of ReasonSeg paint from polygons."""
    canvas = np.zeros(size, np.uint8)
    for shape in shapes:
        assert shape["label"] == "target"
        points = np.array([shape["points"]], np.int32)
        cv2.polylines(canvas, points, True, 1, 1)
        cv2.fillPoly(canvas, points, 1)
    return canvas.astype(bool)


def test_a_region_with_a_hole_is_split() -> None:
    ring = mask("#####", "#...#", "#.#.#", "#...#", "#####", ".....", "##...")
    polygons = mask_to_polygons(ring)
    assert (painted([{"label": "target", "points": one} for one in polygons], ring.shape) == ring).all()
    assert mask_to_polygons(np.zeros((4, 4), bool)) == []


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_polygons_paint_the_mask_exactly(region: np.ndarray) -> None:
    shapes = [{"label": "target", "points": one} for one in mask_to_polygons(region)]
    assert (painted(shapes, region.shape) == region).all()


def test_parquet(finished: WorkFolder, tmp_path: Path) -> None:
    import datasets

    export(finished, "parquet", tmp_path / "out")
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    rows = [row for side in loaded.values() for row in side]
    assert sum(len(row["pairs"]) for row in rows) == ACCEPTED
    for row in rows:
        assert row["image"].size == (256, 256)
        image = finished.image(row["image_id"])
        assert loaded[image.split].filter(lambda one, wanted=image.id: one["image_id"] == wanted).num_rows == 1
        objects = {one.id: one for one in finished.sample(image).objects}
        for obj in row["objects"]:
            assert obj["amodal_mask"] == objects[obj["id"]].amodal_rle
            assert obj["visible_mask"] == objects[obj["id"]].visible_rle
            assert obj["visible_box_xyxy"] == list(objects[obj["id"]].visible_box_xyxy)
            assert tuple(obj["occluders"]) == objects[obj["id"]].occluders
        for pair in row["pairs"]:
            kept = finished.pairs.get(pair["id"])
            assert (pair["question"], pair["answer"], pair["state"]) == (kept.question, kept.answer, kept.state)


def test_card(finished: WorkFolder, tmp_path: Path) -> None:
    export(finished, "canonical", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| all | 3 | 30 | 10.0 |" in card
    assert "Written by: template." in card
    assert "Exported states: 29 accepted, 1 rewritten." in card
    assert "| 0% to 10% |" in card and "objects are not occluded" in card


def test_invalid_exports_write_nothing(finished: WorkFolder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for form, states, message in (
        ("csv", ["accepted"], "to: expected one of canonical, parquet, muse, reasonseg, got 'csv'"),
        ("muse", ["good"], "states: expected some of generated, .*, got 'good'"),
        (
            "muse",
            ["reviewed"],
            "expected pairs that are reviewed, got 89 checked, 29 accepted, 1 rewritten, 1 rejected",
        ),
    ):
        with pytest.raises(InputError, match=message):
            export(finished, form, out, states)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match="which is not empty"):
        export(finished, "muse", tmp_path / "full")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"], "nothing is written"


def test_a_missing_package_is_reported(finished: WorkFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"expected the package `datasets`; pip install amodal\[reasonseg\]"):
        export(finished, "parquet", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_pair_without_its_objects_stops_the_export(tmp_path: Path, scenes: Path) -> None:
    with select([DatasetSource("canonical", scenes)], ImageSelection(max_images=1), tmp_path / "work") as work:
        generate(work, TemplateBackend(), progress=False)
        check(work, progress=False)
        work.pairs.set_state(1, "rewritten", "ada", answer="It is <p>the thing</p> {seg:999} here.")
        with pytest.raises(InputError, match="pair 1: expected an answer about objects of its image"):
            export(work, "canonical", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with open_work(tmp_path / "work") as again:
        assert again.pairs.get(1).state == "rewritten"
