"""The bundled models: complete, small, fast, and as accurate as documented."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from amodal import AmodalAssistant, AmodalSegmenter
from amodal.cli.main import main
from amodal.cli.options import load_assistant
from amodal.data.reason_seg import read_reason_seg
from amodal.errors import InputError, NotFetchedError
from amodal.evaluation.reason import evaluate_reason
from amodal.inference.scene import Scene
from amodal.metrics.mask_protocols import StrictIoU
from amodal.models.aura.packaged import CACHE_VARIABLE
from amodal.models.increments import INCREMENT, WEIGHTS, bundled_models
from amodal.ops.boxes import mask_to_box
from amodal.synthetic.generate import synthesize
from amodal.synthetic.questions import synthesize_questions
from amodal.synthetic.scenes import render_scene
from tests.models.aura import needs_language_model

FLOOR_FULL, FLOOR_VISIBLE = 0.70, 0.70
FLOOR_F1, FLOOR_GIOU = 0.44, 0.33


@pytest.fixture(scope="module")
def segmenter() -> AmodalSegmenter:
    return AmodalSegmenter.from_pretrained("plug-small")


def test_all_models_are_there_and_small() -> None:
    assert bundled_models().keys() == {"aura-small", "plug-small", "sam-small"}
    size = {
        name: sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        for name, folder in bundled_models().items()
    }
    assert size["sam-small"] + size["plug-small"] < 30_000_000
    assert (WEIGHTS / "aura-small" / INCREMENT).stat().st_size < 25_000_000


def test_their_settings_name_no_place_of_a_machine() -> None:
    for file in WEIGHTS.rglob("*config.json"):
        assert not re.search(r'"(/|[A-Z]:\\\\|~)[\w./-]+"', file.read_text()), file


def test_held_out_scenes_reach_the_lower_bounds(segmenter: AmodalSegmenter) -> None:
    """Lower bounds well below the scores in docs/models/plug-small.md; an accidental change falls below them."""
    scores = StrictIoU()
    for seed in range(30_000, 30_012):
        scene = render_scene(seed)
        boxes = np.array([mask_to_box(obj.visible_mask) for obj in scene.objects])
        for prediction, truth in zip(segmenter(scene.image, boxes).objects, scene.objects, strict=True):
            scores.update(prediction.amodal_mask, truth.amodal_mask, truth.visible_mask, prediction.visible_mask)
    got = scores.compute()
    assert got["mIoU_full"] > FLOOR_FULL, got
    assert got["mIoU_visible"] > FLOOR_VISIBLE, got


@pytest.mark.parametrize("name", ["plug-small", "sam-small"])
def test_every_block_of_the_trunk_tells_crops_apart(segmenter: AmodalSegmenter, name: str) -> None:
    """A training with too high a rate had driven the activations of the coarse blocks to the limits of ReLU6.

    Then a block returns nearly the same for every crop, and its weights get no gradient any more.
    """
    model: Any = segmenter.model if name == "plug-small" else segmenter.finder.model
    outputs: dict[str, list[Tensor]] = {}
    hooks = [
        block.register_forward_hook(lambda _block, _inputs, out, at=at: outputs.setdefault(at, []).append(out))
        for at, block in model.vision_encoder.backbone.blocks.named_children()
    ]
    for seed in (30_000, 30_001):
        scene = render_scene(seed)
        boxes = [mask_to_box(obj.visible_mask) for obj in scene.objects]
        if name == "plug-small":
            segmenter(scene.image, boxes, clean=False)
        else:
            segmenter.finder.boxes_at(scene.image, [(box[:2] + box[2:]) / 2 for box in boxes])
    for hook in hooks:
        hook.remove()
    assert len(outputs) == 16
    for block, found in outputs.items():
        crops = torch.cat(found).float()
        assert float(crops.std(0).mean() / crops.abs().mean()) > 0.2, f"block {block}"


def test_segmentation_takes_less_than_0_3_seconds_per_object(segmenter: AmodalSegmenter) -> None:
    scene = render_scene(1)
    boxes = np.array([mask_to_box(obj.visible_mask) for obj in scene.objects])
    seconds = []
    for _ in range(4):  # the best of several runs, because another process may occupy the cores
        start = time.process_time()  # the time of this process alone: others may hold the cores
        segmenter(scene.image, boxes)
        seconds.append((time.process_time() - start) / len(boxes))
    assert min(seconds) < 0.3


def test_command_line_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    scene = render_scene(7)
    Image.fromarray(scene.image).save(tmp_path / "scene.png")
    box = ",".join(f"{v:g}" for v in mask_to_box(scene.objects[0].visible_mask))
    out = tmp_path / "out"
    assert main(["segment", str(tmp_path / "scene.png"), "--box", box, "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    loaded = Scene.load(out)
    assert printed == json.loads((out / "scene.json").read_text())
    assert loaded.size == (256, 256)
    assert sorted(p.name for p in out.iterdir()) == [
        "object_00_amodal.png", "object_00_occluded.png", "object_00_visible.png", "overlay.png", "scene.json",
    ]  # fmt: skip


@pytest.mark.slow
@needs_language_model
def test_held_out_questions_reach_the_lower_bounds(tmp_path: Path) -> None:
    """New scenes and question forms that no training question used; bounds well below docs/models/aura-small.md."""
    annotations = synthesize("scenes", 15, 31_000, tmp_path / "scenes", progress=False)
    questions = tmp_path / "questions.json"
    synthesize_questions(annotations, questions, seed=5, words="free_held_out", present=0.5, progress=False)
    assistant = AmodalAssistant.from_pretrained("aura-small", dtype="float32")
    dataset = read_reason_seg(questions, annotations)
    got = evaluate_reason(assistant, dataset, max_conversations=40, progress=False).metrics
    assert got["set_F1"] > FLOOR_F1, got
    assert got["gIoU_amodal"] > FLOOR_GIOU, got


@pytest.mark.slow
@needs_language_model
def test_ask_works_offline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    Image.fromarray(render_scene(30_005).image).save(tmp_path / "scene.png")
    out = tmp_path / "out"
    question = [str(tmp_path / "scene.png"), "What is hidden most?"]
    assert main(["ask", *question, "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["question"] == "What is hidden most?" and printed["answer"]
    assert printed["objects"] and printed["objects"][0]["phrase"]
    assert (out / "overlay.png").is_file() and (out / "object_00_amodal.png").is_file()


def test_the_default_assistant_says_how_to_fetch_its_language_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    Image.fromarray(render_scene(30_005).image).save(tmp_path / "scene.png")
    command = "run: amodal models fetch aura-small\n"
    assert main(["ask", str(tmp_path / "scene.png"), "What is hidden most?", "--out", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert shown.endswith(command) and shown.count("\n") == 1 and not (tmp_path / "out").exists()
    assert load_assistant(None, "cpu") is None  # a server still segments
    shown = capsys.readouterr().err
    assert shown.startswith("No questions can be asked") and shown.endswith(command) and shown.count("\n") == 1
    with pytest.raises(NotFetchedError):
        load_assistant("aura-small", "cpu")
    assert load_assistant("none", "cpu") is None
    with pytest.raises(InputError, match="aura-smal"):
        load_assistant("aura-smal", "cpu")


def test_info_counts_the_stored_parameters(capsys: pytest.CaptureFixture[str], segmenter: AmodalSegmenter) -> None:
    assert main(["info", "plug-small", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    stored = load_file(WEIGHTS / "plug-small" / INCREMENT)
    assert printed["incremental"] == sum(tensor.numel() for tensor in stored.values())
    everything = segmenter.model.state_dict()
    assert printed["total"] == sum(tensor.numel() for tensor in everything.values())


def test_help_does_not_import_torch() -> None:
    code = "import sys, amodal.cli.main; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'cv2')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
