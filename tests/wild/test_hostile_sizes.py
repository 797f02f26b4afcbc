"""Small files that stand for a lot of memory, time or depth are refused in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amodal.data import relations
from amodal.data.datasets import read_dataset
from amodal.data.reason_seg import read_reason_seg
from amodal.data.relations import derive_occluders
from amodal.data.validation.validate import validate
from amodal.errors import InputError
from amodal.evaluation.report import EvaluationReport
from amodal.inference.exports.label_studio import from_task
from amodal.inference.prompt_files import read_masks
from amodal.inference.scene import Scene
from amodal.io.json_stream import read_json
from amodal.models.detector import DetectorModel
from amodal.models.increments import read_config
from amodal.models.plug import PlugConfig
from amodal.ops.rle import MAX_OUTLINE, rle_area, segmentation_to_rle
from amodal.questions.knowledge import read_facts
from amodal.questions.wording import read_synonyms
from amodal.training.recipe import load_recipe
from tests.data.test_relations import FRONT, MIDDLE, image
from tests.data.written import canonical, kins2019, write
from tests.fuzz.mutations import CORPUS

WIDE = 20_000


def zigzag(points: int) -> list[int]:
    """A polygon that crosses an image of `WIDE` pixels with every edge."""
    return [value for i in range(points) for value in ((i % 2) * WIDE, i % WIDE)]


def polygon_file(folder: Path, polygons: list[list[int]]) -> Path:
    content = kins2019()
    content["images"][0] |= {"height": WIDE, "width": WIDE}
    content["annotations"] = [content["annotations"][0] | {"segmentation": polygons, "inmodal_seg": polygons}]
    return write(folder, content)


HOSTILE = {
    "one long outline": lambda: [zigzag(40_000)],
    "many long outlines": lambda: [zigzag(4) for _ in range(300)],
    "far outside": lambda: [[-32 * WIDE, -32 * WIDE, 32 * WIDE, 32 * WIDE] * 200],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_long_outlines_are_refused(tmp_path: Path, name: str) -> None:
    path = polygon_file(tmp_path, HOSTILE[name]())
    with pytest.raises(InputError, match=f"annotation 1: segmentation: expected outlines of at most {MAX_OUTLINE} px"):
        list(read_dataset("kins2019", path).images[0].objects)
    assert "bad_polygon" in {fault.kind for fault in validate("kins2019", path).faults}


@pytest.mark.slow
def test_an_outline_at_the_limit_takes_little_memory(tmp_path: Path) -> None:
    """Measured in a process of its own, because the peak of a process never falls."""
    code = (
        "import resource\n"
        "from amodal.ops.rle import MAX_OUTLINE, rle_area, segmentation_to_rle\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"points = [v for i in range(MAX_OUTLINE // {WIDE} - 2) for v in ((i % 2) * {WIDE}, i)]\n"
        f"print(rle_area(segmentation_to_rle([points], {WIDE}, {WIDE})))\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert int(out[0]) > 0 and int(out[1]) < 600, out  # MiB


def test_a_detailed_outline_of_a_large_object_is_read() -> None:
    polygon = [v for i in range(2000) for v in (i * 5, 100 + (i % 2) * 50)] + [10_000, 9000, 0, 9000]
    assert rle_area(segmentation_to_rle([polygon], 9000, 12_000)) > 80_000_000


@pytest.mark.parametrize("depth", [2_000, 200_000])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deeply_nested_json_is_refused(tmp_path: Path, depth: int, opening: str) -> None:
    nested = opening * depth + "1" + {"[": "]", '{"a":': "}"}[opening] * depth
    for text in (nested, json.dumps(canonical()).replace('"red"', nested)):
        path = write(tmp_path, text)
        for read in (
            lambda path=path: read_dataset("canonical", path),
            lambda path=path: read_masks(path, tmp_path / "a.png", (20, 30)),
            lambda path=path: read_json(path, "file"),
        ):
            with pytest.raises(InputError, match=r"nested too deeply|expected each of|expected a COCO file") as error:
                read()
            assert "\n" not in str(error.value) and len(str(error.value)) < 400
    folder = tmp_path / "records"
    folder.mkdir()
    (folder / "a.json").write_text(nested)
    with pytest.raises(InputError, match="nested too deeply"):
        read_dataset("cocoa", folder)


NESTED = ["[" * 100_000, '{"a":' * 100_000, "[" * 3000 + "]" * 3000]
SMALL_FILES: dict[str, Callable[[Path], object]] = {
    "scene.json": lambda file: Scene.load(file.parent),
    "questions.json": lambda file: read_reason_seg(file, write(file.parent / "data", canonical())),
    "words.json": read_synonyms,
    "facts.yaml": read_facts,
    "recipe.yaml": load_recipe,
    "config.json": lambda file: read_config(file.parent, PlugConfig),
    "report.json": EvaluationReport.load,
    "detector.json": lambda file: DetectorModel.from_pretrained(file.parent, None),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("nested", NESTED, ids=lambda text: f"{text[:5]} {len(text)}")
@pytest.mark.parametrize("name", SMALL_FILES)
def test_every_small_file_that_is_nested_deeply_is_refused(tmp_path: Path, name: str, nested: str) -> None:
    (tmp_path / name).write_text(nested)
    with pytest.raises(InputError) as error:
        SMALL_FILES[name](tmp_path / name)
    assert "\n" not in str(error.value) and len(str(error.value)) < 700


def test_a_mark_of_the_byte_order_is_no_fault(tmp_path: Path) -> None:
    """Windows writes it into text files."""
    questions = tmp_path / "q.json"
    questions.write_bytes(b"\xef\xbb\xbf" + (CORPUS / "questions" / "two.json").read_bytes())
    assert read_reason_seg(questions, write(tmp_path / "data", canonical())).num_turns == 3


def task(**value: Any) -> dict[str, Any]:
    region = {"id": "a", "type": "brushlabels", "original_width": 30, "original_height": 20}
    region["value"] = {"format": "rle", "rle": [0] * 8, "brushlabels": ["amodal"]} | value
    visible = region | {"id": "v", "value": region["value"] | {"brushlabels": ["visible"]}}
    relation = {"type": "relation", "from_id": "v", "to_id": "a"}
    return {"id": 3, "data": {"image": "a.png"}, "annotations": [{"result": [visible, region, relation]}]}


@pytest.mark.parametrize("rle", [10**12, "A" * 50, None, [], [256], [-1], [1.5], [255] * 300, {"0": 1}], ids=repr)
def test_hostile_brush_masks_are_refused(rle: Any) -> None:
    with pytest.raises(InputError, match="task 3"):
        from_task(task(rle=rle))


@pytest.mark.parametrize("size", [(10**9, 10**9), (0, 30), (-1, 30), ("tall", 30), (None, 30), (2**70, 1)])
def test_hostile_sizes_of_tasks_are_refused(size: Any) -> None:
    hostile = task()
    for region in hostile["annotations"][0]["result"][:2]:
        region |= {"original_height": size[0], "original_width": size[1]}
    with pytest.raises(InputError, match="task 3"):
        from_task(hostile)


def test_an_image_of_too_many_overlapping_objects_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relations, "MAX_PAIRS", 100)
    many = [replace(MIDDLE, id=number) for number in range(11)]
    with pytest.raises(InputError, match="image 1: expected at most 100 pairs of objects whose boxes meet, got more"):
        derive_occluders(image(*many))
    assert len(derive_occluders(image(*many[:10])).objects) == 10
    complete = [replace(FRONT, id=number) for number in range(300)]  # nothing of them is occluded
    assert not any(obj.occluders for obj in derive_occluders(image(*complete)).objects)
