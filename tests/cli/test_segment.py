"""`amodal segment` on several pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from amodal.cli.main import main
from amodal.inference.scene import Scene


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
