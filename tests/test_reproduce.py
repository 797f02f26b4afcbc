"""Every command of the pages about reproducing the papers runs, in order, on tiny data in the layout of the datasets.

The commands are read from the pages and run as they are printed, in a folder that holds `data/` as the pages describe
it. Only `train` gets more: `--set` for tiny bases and few steps, before the settings that the page prints. The first
command of each form of `accelerate launch` runs through the launcher, on the CPU in one process. It starts Python anew,
so what later commands of this form launch runs in the process of the test.
"""

from __future__ import annotations

import json
import os
import pickle
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from amodal.cli.main import main
from amodal.data.datasets import read_dataset
from amodal.synthetic.generate import synthesize
from tests.datagen.endpoint import serving
from tests.models.aura import write_mllm
from tests.test_docs import shell_lines
from tests.training.tiny import tiny_base

ROOT = Path(__file__).parent.parent
SIZES = {
    "training.epochs": "null",
    "training.steps": 1,
    "training.batch_size": 2,
    "training.accumulation": 1,
    "training.warmup_steps": 0,
    "training.workers": 0,
    "training.precision": "no",
    "training.validation_objects": 2,
    "training.picture_objects": 0,
    "data.train.0.validation_share": 0.5,  # a few images have no 2 %
    "data.validation.0.validation_share": 0.5,
}
PLUG_SIZES = SIZES | {"model.image_size": 32, "model.num_points": 16, "model.refine_channels": 8}
AURA_SIZES = SIZES | {"model.image_size": 32, "model.spatial_channels": 4, "model.max_new_tokens": 8}


def commands(page: str) -> list[list[str]]:
    """The commands of a page in order, with the variables of the environment filled in."""
    lines = [line for line in shell_lines(ROOT / "docs" / page) if line and not line.startswith("#")]
    return [[os.path.expandvars(word) for word in shlex.split(line, comments=True)] for line in lines]


def is_training(words: list[str]) -> bool:
    """Whether a command trains, instead of doing something else about a `train` split."""
    return words[words.index("amodal") + 1] == "train" and "--plan" not in words


def smaller(words: list[str], sizes: dict[str, object]) -> list[str]:
    """A command with our settings before its own, which therefore stay as printed."""
    place = words.index("amodal") + 3  # behind the recipe
    ours = [part for key, value in sizes.items() for part in ("--set", f"{key}={value}")]
    return [*words[:place], *ours, *words[place:]]


def run(words: list[str], sizes: dict[str, object], launchers: set[str]) -> None:
    """Run one command in the current folder, and add its launcher to those that were tried."""
    if is_training(words):
        words = smaller(words, sizes)
    launcher, program = words[: words.index("amodal")], words[words.index("amodal") + 1 :]
    assert not launcher or (launcher[:2] == ["accelerate", "launch"] and launcher[-1] == "-m"), shlex.join(words)
    if not launcher or shlex.join(launcher) in launchers:
        assert main(program) == 0, shlex.join(words)
        return
    launchers.add(shlex.join(launcher))
    before = launcher[2:-1]
    if "--num_processes" in before:
        place = before.index("--num_processes")
        del before[place : place + 2]
    more = ["--cpu", "--num_processes", "1", "-m", "amodal", *program]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}
    command = [sys.executable, "-m", "accelerate.commands.launch", *before, *more]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the recipes and with tiny KINS and COCOA-cls data, and the current folder of the test."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    data = tmp_path / "data"
    kins = ("update_train_2020.json", "training/image_2"), ("update_test_2020.json", "testing/image_2")
    cocoa = [(f"COCO_amodal_{side}2014_with_classes.json", f"{side}2014") for side in ("train", "val")]
    for name, format_, sides in (("kins", "kins2020", kins), ("cocoa", "cocoa_cls", cocoa)):
        for seed, (file, images) in enumerate(sides, 1):
            write_dataset(data / name, format_, file, images, seed)
    write_released_list(data / "kins")
    write_cocoa_list(data / "cocoa")
    return tmp_path


def write_dataset(folder: Path, format_: str, annotations: str, images: str, seed: int) -> None:
    scenes = folder.parent / f"scenes-{folder.name}-{seed}"
    source = synthesize("scenes", 3, seed, scenes, progress=False)
    (folder / images).mkdir(parents=True)
    for image in (scenes / "images").iterdir():
        shutil.copy(image, folder / images)
    target = ["--to", format_, "--out", str(folder / annotations)]
    assert main(["data", "convert", "--format", "canonical", "--annotations", str(source), *target]) == 0


def write_released_list(folder: Path) -> None:
    """Write C2F-Seg's list, pickle and 2019 annotations for KINS, and predictions of another method for its objects.

    Every second object is a detection with its own truth, the others are annotations.
    """
    content = json.loads((folder / "update_test_2020.json").read_text())
    names = [{"id": image["id"], "file_name": image["file_name"]} for image in content["images"]]
    (folder / "instances_val_upate.json").write_text(json.dumps({"images": names}))
    dataset = read_dataset("kins2020", folder / "update_test_2020.json", folder / "testing" / "image_2")
    fusion: dict[str, list[dict[str, Any]]] = {}
    lines = []
    for image in dataset.images:
        found = fusion.setdefault(f"aisformer_{image.id}", [])
        for index, obj in enumerate(image.objects):
            if index % 2:
                lines.append(f"{image.id}_{index}_{obj.category_id}\n")
                continue
            lines.append(f"aisformer,{image.id},{len(found)}\n")
            x0, y0, x1, y1 = obj.visible_box_xyxy
            entry = {"pred_visible_mask": obj.visible_rle, "pred_visible_mask_bbox": [x0, y0, x1 - x0, y1 - y0]}
            found.append(entry | {"gt_visible_mask": obj.visible_rle, "gt_full_mask": obj.amodal_rle})
    (folder / "fusion_test.pkl").write_bytes(pickle.dumps(fusion))
    (folder / "c2f_seg_test_list.txt").write_text("".join(lines))
    released = read_dataset("c2f", folder / "c2f_seg_test_list.txt")
    assert sum(len(image.objects) for image in released.images) == len(lines)
    records = [
        {"image_id": image.id, "segmentation": obj.amodal_rle, "score": 0.9}
        for image in released.images
        for obj in image.objects
    ]
    (folder / "aisformer.json").write_text(json.dumps(records))


def write_cocoa_list(folder: Path) -> None:
    """Write C2F-Seg's list for COCOA-cls, of annotations alone."""
    content = json.loads((folder / "COCO_amodal_val2014_with_classes.json").read_text())
    files = {image["id"]: image["file_name"] for image in content["images"]}
    paths = [f"/data/coco/val2014/{files[annotation['image_id']]}" for annotation in content["annotations"]]
    (folder / "c2f_seg_test_list.txt").write_text("".join(f"{i},{path}\n" for i, path in enumerate(paths)))


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that writes pairs, in the variables that the page names."""
    with serving() as server:
        monkeypatch.setenv("BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        yield server.url


@pytest.mark.slow
def test_plug_page(workplace: Path) -> None:
    walk = commands("reproduce.md")
    assert sum(map(is_training, walk)) > 10 and any("evaluate" in words for words in walk)
    sizes, launchers = PLUG_SIZES | {"model.base": tiny_base(workplace)}, set[str]()
    for words in walk:
        run(words, sizes, launchers)
    ours, other = (
        json.loads((workplace / name).read_text()) for name in ("runs/plug-kins-vit-h/report.json", "aisformer.json")
    )
    assert ours["protocol"] == other["protocol"] == "c2f" and ours["metrics"]["num_objects"] > 0
    assert ours["options"]["objects_sha256"] == other["options"]["objects_sha256"]
    assert ours["options"]["box_source"] == "predicted" and other["metrics"]["mIoU_full"] == pytest.approx(1)
    assert "| Ours (ViT-H) |" in (workplace / "tables" / "table.md").read_text()
    assert (workplace / "tables" / "figure4.png").stat().st_size > 0


@pytest.mark.slow
def test_aura_page(workplace: Path, endpoint: str) -> None:
    walk = commands("reproduce_aura.md")
    sizes = AURA_SIZES | {"model.base": tiny_base(workplace), "model.mllm": write_mllm(workplace / "mllm")}
    launchers = set[str]()
    for words in walk:
        run(words, sizes, launchers)
    report = json.loads((workplace / "runs/aura-llava-7b-vit-h/test/report.json").read_text())
    questions = json.loads((workplace / "data/amodal-reason-seg/questions-test.json").read_text())
    assert report["metrics"]["num_answers"] == len(questions) > 0
    assert report["options"]["union_visible"] is False and report["options"]["dtype"] == "bfloat16"
