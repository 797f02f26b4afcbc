"""Every command of the pages about reproducing the papers runs, in order, on tiny data in the layout of the datasets.

The commands are read from the pages and run as they are printed, in a folder that holds `data/` as the pages describe
it. Only `train` gets more: `--set` for tiny bases and few steps, before the settings that the page prints. The first
command of each form of `accelerate launch` runs through the launcher, on the CPU in one process. It starts Python anew,
so what later commands of this form launch runs in the process of the test.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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
    write_detections(data / "kins", "kins2020", "update_test_2020.json", "testing/image_2", "aisformer_test.json")
    val = "COCO_amodal_val2014_with_classes.json"
    write_detections(data / "cocoa", "cocoa_cls", val, "val2014", "vrsp_test.json")
    return tmp_path


def write_dataset(folder: Path, format_: str, annotations: str, images: str, seed: int) -> None:
    scenes = folder.parent / f"scenes-{folder.name}-{seed}"
    source = synthesize("scenes", 3, seed, scenes, progress=False)
    (folder / images).mkdir(parents=True)
    for image in (scenes / "images").iterdir():
        shutil.copy(image, folder / images)
    target = ["--to", format_, "--out", str(folder / annotations)]
    assert main(["data", "convert", "--format", "canonical", "--annotations", str(source), *target]) == 0


def write_detections(folder: Path, format_: str, annotations: str, images: str, name: str) -> None:
    """Write the true visible masks as the predictions of a detector, and the list of all objects."""
    dataset = read_dataset(format_, folder / annotations, folder / images)
    objects = [(image, obj) for image in dataset.images for obj in image.objects]
    records = [
        {"image_id": image.id, "annotation_id": obj.id, "visible_segmentation": obj.visible_rle, "score": 0.9}
        for image, obj in objects
    ]
    (folder / name).write_text(json.dumps(records))
    lines = [f"{image.id}_{obj.id}\n" for image, obj in objects]
    (folder / "c2f_test_list.txt").write_text("".join(lines))


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
    report = json.loads((workplace / "report.json").read_text())
    assert report["protocol"] == "c2f" and report["metrics"]["num_objects"] > 0


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
