"""Two workers give the same results as one process, even if a worker is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from amodal import AmodalSegmenter
from amodal.data.datasets import read_dataset
from amodal.errors import InputError
from amodal.inference import batch as module
from amodal.inference.batch import BatchPlan, SegmentBlock, read_parts, segment_dataset
from amodal.inference.prompt_files import read_coco_file
from amodal.ops.rle import decode_mask, encode_mask
from amodal.synthetic.generate import synthesize

Row = dict[str, Any]


def results(folder: Path) -> list[Row]:
    return sorted(read_parts(folder), key=lambda row: (row["image_id"], row["annotation_id"] or 0))


@pytest.fixture(scope="module")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize("scenes", 16, 5, tmp_path_factory.mktemp("scenes"), progress=False)


def in_this_process(ray_rows: list[Row], plan: BatchPlan) -> list[tuple[int, list[Row], list[list[str]]]]:
    """Segment the blocks one after the other, without Ray."""
    worker = SegmentBlock(plan.model, None, plan.mode, plan.dtype, plan.clean, threads=1, device="cpu")
    size, finished = plan.images_per_block, []
    for start in range(0, len(ray_rows), size):
        part = np.array([json.dumps(row) for row in ray_rows[start : start + size]], dtype=object)
        output = worker({"row": part})
        objects, failures = (json.loads(output[name][0]) for name in ("objects", "failures"))
        finished.append((int(output["num_images"][0]), objects, failures))
    return finished


class NoRay:
    """Replaces Ray in the tests that do not need it."""

    class exceptions:  # noqa: N801
        class RayTaskError(Exception):
            pass

    @staticmethod
    def is_initialized() -> bool:
        return True


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    found = module._extra
    monkeypatch.setattr(module, "_extra", lambda name: NoRay if name == "ray" else found(name))
    monkeypatch.setattr(module, "_blocks", in_this_process)


def test_rows_equal_the_results_of_the_segmenter(annotations: Path, tmp_path: Path, without_ray: None) -> None:
    dataset = read_dataset("canonical", annotations)
    segment_dataset(dataset, tmp_path / "out", BatchPlan(images_per_block=5), progress=False)
    rows = results(tmp_path / "out")
    assert len(list((tmp_path / "out").glob("part-*.parquet"))) == 4
    segmenter = AmodalSegmenter.from_pretrained()
    image = dataset.images[0]
    objects = segmenter(image.path, [o.visible_box_xyxy for o in image.objects]).objects
    own = {row["annotation_id"]: row for row in rows if row["image_id"] == image.id}
    for obj, annotated in zip(objects, image.objects, strict=True):
        row = own[annotated.id]
        np.testing.assert_array_equal(decode_mask(row["segmentation"]), obj.amodal_mask)
        np.testing.assert_array_equal(decode_mask(row["visible_segmentation"]), obj.visible_mask)
        assert row["score"] == pytest.approx(obj.score) and row["category_id"] == annotated.category_id


def test_an_interrupted_run_is_resumed(
    annotations: Path, tmp_path: Path, without_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, plan = read_dataset("canonical", annotations), BatchPlan(images_per_block=2)
    dataset = replace(dataset, images=dataset.images[:6])
    whole = results(segment_dataset(dataset, tmp_path / "whole", plan, progress=False))

    def stopping(rows: list[Row], plan: BatchPlan) -> Any:
        for number, block in enumerate(in_this_process(rows, plan)):
            if number == 2:
                raise KeyboardInterrupt
            yield block

    with monkeypatch.context() as patch:
        patch.setattr(module, "_blocks", stopping)
        with pytest.raises(KeyboardInterrupt):
            segment_dataset(dataset, tmp_path / "out", plan, progress=False)
    (tmp_path / "out" / ".writing_part-000002.parquet").write_bytes(b"half")
    half = results(tmp_path / "out")
    assert 0 < len(half) < len(whole)
    assert results(segment_dataset(dataset, tmp_path / "out", plan, progress=False)) == whole
    with pytest.raises(InputError, match=r"settings of its results, got others \(mode crop -> image\)"):
        segment_dataset(dataset, tmp_path / "out", BatchPlan(mode="image"), progress=False)
    others = ((BatchPlan(dtype="bfloat16"), "dtype auto -> bfloat16"), (BatchPlan(clean=False), "clean True -> False"))
    for plan, wanted in others:
        with pytest.raises(InputError, match=rf"got others \({wanted}\)"):
            segment_dataset(dataset, tmp_path / "out", plan, progress=False)
    other = replace(dataset, images=dataset.images[:-1])
    with pytest.raises(InputError, match="got others .dataset "):
        segment_dataset(other, tmp_path / "out", BatchPlan(images_per_block=2), progress=False)


def test_a_parquet_file_of_paths_and_boxes(tmp_path: Path, without_ray: None) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    rows = [
        {"image_id": "a", "path": "a.png", "boxes_xyxy": [[1.0, 2.0, 30.0, 35.0], [10.0, 10.0, 40.0, 30.0]]},
        {"image_id": "empty", "path": "none.png", "boxes_xyxy": []},
    ]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "images.parquet")
    found = results(segment_dataset(tmp_path / "images.parquet", tmp_path / "out", progress=False))
    assert [row["image_id"] for row in found] == ["a", "a"]
    assert found[0]["annotation_id"] is None and found[0]["segmentation"]["size"] == [40, 50]


def write_rows(folder: Path, rows: list[Row]) -> Path:
    """A Parquet file of rows, with two images of 50 x 40 pixels beside it."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    for seed, name in enumerate("ab"):
        pixels = np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    parquet.write_table(arrow.Table.from_pylist(rows), folder / "images.parquet")
    return folder / "images.parquet"


BOXES = [[1.0, 2.0, 30.0, 35.0], [10.0, 10.0, 40.0, 30.0], [5.0, 5.0, 20.0, 20.0]]


def test_rows_of_one_image_are_merged(tmp_path: Path, without_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table with one row per object loses no object, also if a run is interrupted and resumed."""
    first, second, third = BOXES
    rows = [
        {"image_id": "a", "path": "a.png", "boxes_xyxy": [first]},
        {"image_id": "b", "path": "b.png", "boxes_xyxy": [second]},
        {"image_id": "a", "path": "./a.png", "boxes_xyxy": []},
        {"image_id": "a", "path": str(tmp_path / "a.png"), "boxes_xyxy": [second, third]},
        {"image_id": "b", "path": "../" + tmp_path.name + "/b.png", "boxes_xyxy": [first]},
    ]
    whole = [
        {"image_id": "a", "path": "a.png", "boxes_xyxy": [first, second, third]},
        {"image_id": "b", "path": "b.png", "boxes_xyxy": [second, first]},
    ]
    plan = BatchPlan(images_per_block=1)
    expected = results(segment_dataset(write_rows(tmp_path, whole), tmp_path / "whole", plan, progress=False))
    file = write_rows(tmp_path, rows)

    def stopping(rows: list[Row], plan: BatchPlan) -> Any:
        yield in_this_process(rows, plan)[0]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_blocks", stopping)
        with pytest.raises(KeyboardInterrupt):
            segment_dataset(file, tmp_path / "out", plan, progress=False)
    assert [row["image_id"] for row in results(tmp_path / "out")] == ["a"] * 3
    assert results(segment_dataset(file, tmp_path / "out", plan, progress=False)) == expected
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="expected a new folder or the images of its results, got others for .*a.png"):
        segment_dataset(file, tmp_path / "out", plan, progress=False)


@pytest.mark.parametrize("boxes", [BOXES[:1], []])
def test_two_files_for_one_image_are_refused(tmp_path: Path, without_ray: None, boxes: list[list[float]]) -> None:
    rows = [
        {"image_id": 7, "path": "a.png", "boxes_xyxy": BOXES},
        {"image_id": 7, "path": "b.png", "boxes_xyxy": boxes},
    ]
    message = r"^dataset .*images.parquet: row 1: expected one path per image_id, got '.*b.png' and '.*a.png' for 7$"
    with pytest.raises(InputError, match=message):
        segment_dataset(write_rows(tmp_path, rows), tmp_path / "out")
    assert not (tmp_path / "out").exists()


WRONG_ENTRIES: dict[str, tuple[str, list[Any]]] = {
    "boxes_xyxy": (
        "boxes_xyxy to be a list of boxes of four numbers",
        [
            [2.0, 2.0, 8.0, 8.0], [2.0, 2.0, 8.0], None, [None], [[2.0, 2.0, 8.0]], [[2.0, 2.0, 8.0, None]],
            [["2", "2", "8", "8"]], [[True, True, True, True]], [{"x0": 2, "y0": 2, "x1": 8, "y1": 8}], "2,2,8,8", 2.0,
        ],
    ),
    "path": ("path to be the name of an image file", [None, "", "a\0.png", 5, ["a.png"], b"a.png"]),
    "image_id": (
        "image_id to be an integer", [None, 1.5, float("inf"), True, [1], {"id": 1}, b"a", datetime(2026, 1, 2)]
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("column", "value"), [(column, value) for column, (_, values) in WRONG_ENTRIES.items() for value in values]
)
def test_a_wrong_entry_of_a_parquet_file_names_its_row(
    tmp_path: Path, without_ray: None, column: str, value: Any
) -> None:
    row = {"image_id": 1, "path": "a.png", "boxes_xyxy": BOXES}
    expected = re.escape(f"expected {WRONG_ENTRIES[column][0]}, got {value!r:.60}")
    with pytest.raises(InputError, match=f"^dataset .*images.parquet: row 0: {expected}$"):
        segment_dataset(write_rows(tmp_path, [row | {column: value}]), tmp_path / "out")
    with pytest.raises(InputError, match=f"^dataset .*images.parquet: row 1: expected {column} to be .*, got None$"):
        segment_dataset(write_rows(tmp_path, [row, row | {column: None}]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ids_are_integers_or_texts(tmp_path: Path, without_ray: None) -> None:
    """Also integers that pandas has stored as floats."""
    for ids in ([3, 4], [3.0, 4.0], ["x", "4"]):
        rows = [{"image_id": i, "path": f"{name}.png", "boxes_xyxy": BOXES} for i, name in zip(ids, "ab", strict=True)]
        rows = list(module._rows_of_parquet(write_rows(tmp_path, rows)))
        assert [repr(row["image_id"]) for row in rows] == [repr(i if isinstance(i, str) else int(i)) for i in ids]


@pytest.mark.parametrize("column", ["image_id", "path", "boxes_xyxy"])
def test_a_parquet_file_without_a_column_is_refused(tmp_path: Path, without_ray: None, column: str) -> None:
    row = {"image_id": 1, "path": "a.png", "boxes_xyxy": BOXES}
    del row[column]
    with pytest.raises(InputError, match="expected a Parquet file with image_id, path and boxes_xyxy, got"):
        segment_dataset(write_rows(tmp_path, [row]), tmp_path / "out")


def test_invalid_inputs_are_refused(tmp_path: Path, annotations: Path, without_ray: None) -> None:
    for name in ("workers", "cpus", "images_per_block"):
        with pytest.raises(InputError, match=f"{name}: expected 1 or more, got 0"):
            BatchPlan(**{name: 0})
    with pytest.raises(InputError, match="gpus: expected 0 or more, got -1"):
        BatchPlan(gpus=-1)
    with pytest.raises(InputError, match="mode: expected one of crop, image, got 'tiles'"):
        BatchPlan(mode="tiles")
    with pytest.raises(InputError, match="dtype: expected one of auto, float32, bfloat16, int8, got 'float8'"):
        BatchPlan(dtype="float8")
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(InputError, match="expected a Parquet file with image_id, path and boxes_xyxy"):
        segment_dataset(tmp_path / "bad.parquet", tmp_path / "out")
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    empty = arrow.table({"image_id": ["a"], "path": ["a.png"], "boxes_xyxy": [[]]})
    parquet.write_table(empty, tmp_path / "empty.parquet")
    with pytest.raises(InputError, match="dataset: expected images with objects, got none"):
        segment_dataset(tmp_path / "empty.parquet", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="out: expected a folder, got the file"):
        segment_dataset(read_dataset("canonical", annotations), tmp_path / "bad.parquet")


def test_a_run_that_failed_before_its_first_results_does_not_block_the_folder(
    tmp_path: Path, without_ray: None
) -> None:
    dataset = read_dataset("canonical", synthesize("scenes", 1, 5, tmp_path / "scenes", progress=False))
    with pytest.raises(
        InputError, match="model aura-small: expected a segmenter .*, got a model that answers questions"
    ):
        segment_dataset(dataset, tmp_path / "out", BatchPlan("aura-small"), progress=False)
    assert results(segment_dataset(dataset, tmp_path / "out", BatchPlan("plug-small"), progress=False))


def coco_file(folder: Path) -> Path:
    """A file with a mask and a box in a.png, a box without area in it, and two images that cannot be read."""
    for name in ("a.png", "broken.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes((folder / "broken.png").read_bytes()[:500])
    Image.new("RGB", (20, 20)).save(folder / "small.png")
    names = ("a.png", "broken.png", "small.png", "empty.png")
    visible = np.zeros((40, 50), bool)
    visible[5:30, 5:25] = True
    box = {"category_id": 3, "bbox": [10, 10, 20, 20]}
    content = {
        "images": [{"id": i, "file_name": name, "height": 40, "width": 50} for i, name in enumerate(names)],
        "categories": [{"id": 3, "name": "dog"}],
        "annotations": [
            {"id": 70, "image_id": 0, "category_id": 3, "segmentation": encode_mask(visible), "bbox": [0, 0, 2, 2]},
            {"id": 71, "image_id": 0} | box,
            {"id": 72, "image_id": 0} | box | {"bbox": [10, 10, 0, 5]},
            {"id": 73, "image_id": 1} | box,
            {"id": 74, "image_id": 2} | box,
        ],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_a_coco_file_of_masks_and_boxes(tmp_path: Path, without_ray: None) -> None:
    coco = read_coco_file(coco_file(tmp_path))
    failures: list[tuple[str, str]] = []
    out = segment_dataset(coco, tmp_path / "out", on_failure=lambda *one: failures.append(one), progress=False)
    rows = results(out)
    assert [(row["image_id"], row["annotation_id"], row["category_id"]) for row in rows] == [(0, 70, 3), (0, 71, 3)]
    annotation = json.loads(coco.path.read_text())["annotations"][0]
    assert rows[0]["visible_segmentation"] == annotation["segmentation"]  # the given mask, exactly
    assert [Path(name).name for name, _ in failures] == ["a.png", "broken.png", "small.png"]
    assert failures[0][1].startswith("annotation 72: box: expected an area")
    assert "expected a whole image" in failures[1][1]
    assert failures[2][1] == "image: expected [40, 50] as annotated, got [20, 20]"
    with pytest.raises(InputError, match="a.png: annotation 72: box: expected an area"):
        segment_dataset(coco, tmp_path / "strict", progress=False)


def test_a_coco_file_whose_names_are_urls(tmp_path: Path, without_ray: None) -> None:
    file = coco_file(tmp_path)
    content = json.loads(file.read_text())
    content["images"][0]["file_name"] = "http://images.example/old/a.png"
    file.write_text(json.dumps(content))
    (tmp_path / "photos" / "new").mkdir(parents=True)
    (tmp_path / "a.png").rename(tmp_path / "photos" / "new" / "a.png")

    def num_rows(**how: Any) -> int:
        out = segment_dataset(
            read_coco_file(file),
            tmp_path / f"out-{how}",
            images=tmp_path / "photos",
            on_failure=lambda *one: None,
            progress=False,
            **how,
        )
        return len(results(out)) if list(out.glob("part-*.parquet")) else 0

    assert num_rows(match="name") == 2
    assert num_rows() == 0
    with pytest.raises(InputError, match="match: expected path or name, got 'stem'"):
        num_rows(match="stem")


def test_parts_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"predictions: expected a folder with part-\*.parquet, got none in"):
        list(read_parts(tmp_path))
    (tmp_path / "part-000000.parquet").write_text("no")
    with pytest.raises(InputError, match="predictions .*part-000000.parquet: expected a Parquet file, got"):
        list(read_parts(tmp_path))


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"expected ray to be installed \(pip install 'amodal\[ray\]'\), got none"):
        segment_dataset(tmp_path / "images.parquet", tmp_path / "out")


def workers_of(driver: int) -> list[int]:
    """Ids of the child processes of `driver` with a segmenter (Ray names them after the class)."""
    parents, named = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if "SegmentBlock" in (folder / "cmdline").read_text():
                named.append(int(folder.name))
        except (OSError, ValueError):
            continue

    def below(process: int) -> bool:
        while process in parents and process != driver:
            process = parents[process]
        return process == driver

    return [process for process in named if below(process)]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the worker in /proc")
def test_two_workers_of_which_one_is_killed(annotations: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom amodal.data.datasets import read_dataset\n"
        "from amodal.inference.batch import BatchPlan, segment_dataset\n"
        "dataset = read_dataset('canonical', Path(sys.argv[1]))\n"
        "segment_dataset(dataset, Path(sys.argv[2]), BatchPlan(images_per_block=1), progress=False)\n"
    )
    out, killed = tmp_path / "out", 0
    with subprocess.Popen([sys.executable, "-c", code, str(annotations), str(out)]) as driver:
        while driver.poll() is None:
            if not killed and len(list(out.glob("part-*.parquet"))) >= 2 and (workers := workers_of(driver.pid)):
                assert len(workers) == 2
                killed = workers[0]
                os.kill(killed, signal.SIGKILL)
            time.sleep(0.02)
    assert driver.returncode == 0 and killed
    dataset = read_dataset("canonical", annotations)
    rows = results(out)
    assert [row["annotation_id"] for row in rows] == [o.id for image in dataset.images for o in image.objects]
    assert len(list(out.glob("part-*.parquet"))) == len(dataset.images)  # one block per image, none twice
