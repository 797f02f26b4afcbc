"""ONNX files give the same outputs as PyTorch, and the segmenter runs them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from amodal import AmodalSegmenter
from amodal.cli.main import main
from amodal.errors import InputError
from amodal.inference import onnx as module
from amodal.inference.onnx import DECODER, ENCODER, MANIFEST, OnnxPlug, export_onnx, is_export
from amodal.models.bases.protocol import ImageFeatures, LoadedBase
from amodal.models.increments import Origin
from amodal.models.plug import PlugConfig, PlugModel
from amodal.ops.cleaning import CleanSettings
from tests.models.conftest import random_plug
from tests.models.families import ROWS


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"visible_branch": False, "refine": False, "parallel_lora": False}])
def test_export_and_segment(settings: dict[str, object], tmp_path: Path) -> None:
    model = random_plug(**settings, mask_prompts=True)  # windows of 3 on a grid of 8, so that windows are padded
    done = export_onnx(model, tmp_path / "onnx")
    assert OnnxPlug(done.folder).config.mask_prompts is False  # so that the segmenter prompts by boxes
    assert sorted(p.name for p in done.folder.iterdir()) == ["config.json", DECODER, ENCODER, MANIFEST]
    assert done.encoder_difference < 1e-4 and done.decoder_difference < 1e-3
    image = np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    boxes = [[5, 5, 40, 60], [50, 10, 85, 69], [0, 0, 90, 70]]
    once = CleanSettings(min_confirmed=0)  # an export takes no masks, so it predicts once
    for mode in ("crop", "image"):
        ours = AmodalSegmenter(model, mode=mode)(image, boxes, threshold=0.5, clean=once).objects
        theirs = AmodalSegmenter.from_pretrained(done.folder, mode=mode)(
            image, boxes, threshold=0.5, clean=once
        ).objects
        for one, other in zip(ours, theirs, strict=True):
            assert (one.amodal_mask != other.amodal_mask).mean() < 1e-3  # rounding at the threshold
            assert (one.visible_mask != other.visible_mask).mean() < 1e-3
            assert one.score == pytest.approx(other.score, abs=1e-4)
    with pytest.raises(InputError, match="image_size: expected 64, the size this ONNX model was exported for, got 128"):
        AmodalSegmenter.from_pretrained(done.folder, mode="image", image_size=128)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "prompted"), [*((name, False) for name in ROWS), ("conv_prompt", True)])
def test_a_model_on_a_base_of_every_family_is_exported(name: str, prompted: bool, tmp_path: Path) -> None:
    config = PlugConfig(image_size=64, lora_rank=2, refine_channels=8, num_points=16, prompted_encoder=prompted)
    model = PlugModel.from_base(LoadedBase(ROWS[name].model(), Origin()), config)
    torch.manual_seed(3)
    for parameter in model.parameters():  # adapters and the refine module start at zero
        if parameter.dim() > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    done = export_onnx(model, tmp_path)  # compares with PyTorch
    assert is_export(done.folder)


@pytest.mark.slow
def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random_plug().save_pretrained(tmp_path / "plug", merged=True)
    assert main(["export", "onnx", str(tmp_path / "plug"), "--out", str(tmp_path / "onnx"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["folder"] == str(tmp_path / "onnx") and printed["decoder_difference"] < 1e-3
    assert is_export(tmp_path / "onnx")


def test_an_export_with_different_outputs_is_refused_and_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(torch.nn.Module):
        def __init__(self, folder: Path, **_: object) -> None:
            super().__init__()

        def encode(self, pixels: torch.Tensor) -> tuple[ImageFeatures, ImageFeatures]:
            visible, amodal = model.encode(pixels)
            return visible, ImageFeatures(amodal.embedding + 1)

        def predict(self, *inputs: torch.Tensor) -> object:
            return model.predict(*inputs)

    model = random_plug()
    monkeypatch.setattr(module, "_write", lambda model, folder: None)
    monkeypatch.setattr(module, "OnnxPlug", Wrong)
    with pytest.raises(
        InputError, match=r"onnx: expected outputs within 0.0003 of PyTorch's, got a difference of 0.\d+"
    ):
        export_onnx(model, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


@pytest.mark.parametrize(
    ("prompts", "got"),
    [
        ({"input_boxes": torch.zeros(1, 1, 4), "input_masks": torch.zeros(1, 1, 8, 8)}, "boxes and masks"),
        ({"input_points": torch.zeros(1, 1, 1, 2)}, "points"),
        ({}, "none"),
    ],
)
def test_an_export_refuses_other_prompts_than_boxes(prompts: dict[str, torch.Tensor], got: str) -> None:
    exported, image = OnnxPlug.__new__(OnnxPlug), torch.zeros(1, 3, 64, 64)
    features = ImageFeatures(image)
    with pytest.raises(InputError, match=f"prompts: expected boxes alone for an ONNX model, got {got}$"):
        exported.predict(image, features, features, **prompts)


def test_damaged_and_missing_files_are_refused(tmp_path: Path) -> None:
    PlugConfig().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="expected a whole export with manifest.json"):
        OnnxPlug(tmp_path)
    with pytest.raises(InputError, match="expected a readable encoder.onnx"):
        OnnxPlug(tmp_path, checked=False)
    (tmp_path / ENCODER).write_bytes(b"not a model")
    with pytest.raises(InputError, match="expected a readable encoder.onnx"):
        OnnxPlug(tmp_path, checked=False)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="out: expected a folder, got the file"):
        export_onnx(random_plug(), tmp_path / "file")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(module, "import_module", missing)
    with pytest.raises(InputError, match=r"expected onnx to be installed \(pip install 'amodal\[onnx\]'\), got none"):
        export_onnx(random_plug(), tmp_path / "onnx")
