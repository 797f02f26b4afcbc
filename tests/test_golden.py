"""What the bundled models and the generators return today, compared with stored results.

`python -m tests.test_golden` stores the present results in `tests/golden.json`. Do that only for a change that is
meant to change them, and say so in the changelog. `amodal models fetch aura-small` must have been run before.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from amodal import AmodalAssistant, AmodalSegmenter
from amodal.inference.scene_object import SceneObject
from amodal.ops.boxes import mask_to_box
from amodal.ops.masks import mask_iou
from amodal.ops.rle import decode_mask, encode_mask
from amodal.synthetic.generate import synthesize
from amodal.synthetic.questions import synthesize_questions
from amodal.synthetic.scenes import render_scene
from tests.models.aura import needs_language_model

GOLDEN = Path(__file__).with_name("golden.json")
LEAST_IOU = 0.98
"""On another CPU or torch build, sums run in another order, which moves single pixels of a mask's outline."""
QUESTIONS = (
    "What is hidden most?",
    "What is the largest thing here?",
    "And what is in front of it?",
    "Where is the mug?",
)


def platform() -> dict[str, str]:
    """What the last bit of a result depends on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return {"torch": torch.__version__, "cpu": model, "kernels": torch.backends.cpu.get_cpu_capability()}


def segmenter_masks(mode: str) -> list[dict[str, Any]]:
    """Masks of `plug-small` for every object of three scenes, boxes given."""
    segmenter = AmodalSegmenter.from_pretrained("plug-small", device="cpu", dtype="float32", mode=mode)
    found = []
    for seed in (40_001, 40_002, 40_003):
        scene = render_scene(seed)
        boxes = np.array([mask_to_box(drawn.visible_mask) for drawn in scene.objects])
        found += [_record(answer) for answer in segmenter(scene.image, boxes, clean=False).objects]
    return found


def assistant_answers() -> list[dict[str, Any]]:
    """Words and masks of `aura-small` in one conversation about each of two scenes."""
    assistant = AmodalAssistant.from_pretrained("aura-small", device="cpu", dtype="float32", clean=False)
    found = []
    for seed in (40_004, 40_005):
        chat = assistant.chat(render_scene(seed).image)
        for question in QUESTIONS:
            reply = chat.ask(question)
            found.append({"text": reply.text, "objects": [_record(answer) for answer in reply.scene.objects]})
    return found


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of generated scenes, pasted outlines and question files."""
    annotations = synthesize("scenes", 4, 41_000, folder / "scenes", progress=False)
    digests = {"annotations": _digest(annotations)}
    for path in sorted((folder / "scenes" / "images").iterdir()):
        pixels = cv2.imread(str(path))
        assert pixels is not None
        digests[path.name] = hashlib.sha256(pixels.tobytes()).hexdigest()
    for name, options in {
        "train": {"words": "train"},
        "held_out": {"words": "held_out"},
        "lists": {"lists": "all"},
    }.items():
        out = folder / f"{name}.json"
        digests[name] = _digest(synthesize_questions(annotations, out, seed=3, progress=False, **options))
    return digests


def results(folder: Path) -> dict[str, Any]:
    """Everything that is stored."""
    return {
        "platform": platform(),
        "crop": segmenter_masks("crop"),
        "image": segmenter_masks("image"),
        "answers": assistant_answers(),
        "files": file_digests(folder),
    }


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The number of threads decides in which order sums are taken."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    stored: dict[str, Any] = json.loads(GOLDEN.read_text())
    return stored


@pytest.mark.parametrize("mode", ["crop", "image"])
def test_segmenter_masks_are_as_stored(golden: dict[str, Any], mode: str) -> None:
    _compare(golden, golden[mode], segmenter_masks(mode))


@pytest.mark.slow
@needs_language_model
def test_assistant_answers_are_as_stored(golden: dict[str, Any]) -> None:
    stored, found = golden["answers"], assistant_answers()
    assert [answer["text"] for answer in found] == [answer["text"] for answer in stored]
    for old, new in zip(stored, found, strict=True):
        _compare(golden, old["objects"], new["objects"])


def test_generated_files_are_as_stored(golden: dict[str, Any], tmp_path: Path) -> None:
    assert file_digests(tmp_path) == golden["files"]


def test_a_changed_mask_is_noticed(golden: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(golden["crop"]))
    mask = decode_mask(changed[0]["amodal"])
    changed[0]["amodal"] = _text(encode_mask(np.roll(mask, 3, axis=0)))
    with pytest.raises(AssertionError):
        _compare(golden, golden["crop"], changed)


def _compare(golden: dict[str, Any], stored: list[dict[str, Any]], found: list[dict[str, Any]]) -> None:
    assert len(found) == len(stored)
    exact = golden["platform"] == platform()
    for old, new in zip(stored, found, strict=True):
        if exact:
            assert new == old
        for part in ("visible", "amodal"):
            assert mask_iou(decode_mask(old[part]), decode_mask(new[part])) >= LEAST_IOU


def _record(answer: SceneObject) -> dict[str, Any]:
    return {
        "visible": _text(encode_mask(answer.visible_mask)),
        "amodal": _text(encode_mask(answer.amodal_mask)),
        "score": round(answer.score, 6),
    }


def _text(rle: Any) -> dict[str, Any]:
    counts = rle["counts"]
    return {"size": list(rle["size"]), "counts": counts.decode() if isinstance(counts, bytes) else counts}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _store() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text(json.dumps(results(Path(folder)), indent=1) + "\n")


if __name__ == "__main__":
    _store()
