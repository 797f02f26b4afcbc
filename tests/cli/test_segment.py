"""`amodal segment` for folders of images, and its options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from amodal.cli.main import main
from amodal.inference.scene import Scene
from amodal.inference.segmenter import AmodalSegmenter


def test_a_folder_of_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames, out = tmp_path / "frames", tmp_path / "out"
    frames.mkdir()
    for name in ("a.png", "b.png"):
        Image.effect_noise((48, 32), 60).convert("RGB").save(frames / name)
    command = ["segment", str(frames), "--out", str(out)]
    assert main([*command, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"folder": str(out), "frames": 2}
    assert captured.err == ""
    assert sorted(p.name for p in out.iterdir()) == ["a", "b", "overlay.mp4"]
    assert Scene.load(out / "a").size == (32, 48)
    assert main(command) == 0
    assert capsys.readouterr().out.startswith(f"Written: 2 frames and overlay.mp4 in {out}")


def test_the_precision_is_passed_to_the_segmenter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "a.png"
    Image.effect_noise((48, 32), 60).convert("RGB").save(image)
    dtypes: list[torch.dtype] = []
    segment_batch = AmodalSegmenter.segment_batch

    def record(self: AmodalSegmenter, *args: Any, **kwargs: Any) -> list[Scene]:
        dtypes.append(self.dtype)
        return segment_batch(self, *args, **kwargs)

    monkeypatch.setattr(AmodalSegmenter, "segment_batch", record)
    command = ["segment", str(image), "--box", "5,5,30,30", "--out", str(tmp_path / "out"), "--dtype"]
    for name in ("float32", "bfloat16"):
        assert main([*command, name]) == 0
    assert dtypes == [torch.float32, torch.bfloat16]
    capsys.readouterr()
    assert main([*command, "int9"]) == 2
    assert capsys.readouterr().err == "amodal: dtype: expected one of auto, float32, bfloat16, int8, got 'int9'\n"
