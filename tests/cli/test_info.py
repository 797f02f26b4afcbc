"""`amodal info` of bases; those of models and recipes are in other tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from amodal.cli.main import main
from amodal.models.increments import count_parameters
from amodal.models.plug import PlugConfig, PlugModel
from amodal.models.plug.modeling import parameter_counts
from tests.models.families import ROWS


@pytest.mark.parametrize("name", ROWS)
def test_a_base_is_counted_with_the_adapters_that_plug_would_add(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = ROWS[name]
    model = row.model()
    model.save_pretrained(tmp_path)
    capsys.readouterr()
    assert main(["info", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["family"], told["input_size"], told["total"]) == (row.family.title, 64, count_parameters(model))
    assert told["vision_encoder"] == count_parameters(model.vision_encoder)
    assert told["mask_decoder"] == count_parameters(model.mask_decoder)
    config = PlugConfig(sam=row.family.sizes(model.config), image_size=64)
    assert told["adapters"]["parameters"] == parameter_counts(config)["lora"] > 0
    with torch.device("meta"):
        encoder = PlugModel(config).vision_encoder
    assert told["adapters"]["modules"]
    for module in told["adapters"]["modules"]:
        assert count_parameters(encoder.get_submodule(f"{module}.lora")) > 0
    assert told["adapters"]["layers"] == ("1x1 convolutions" if name in ("edgetam", "conv_prompt") else "Q and V")
    assert main(["info", str(tmp_path)]) == 0
    assert f"PLUG (rank 16, 2 branches) adds {told['adapters']['parameters']:,} parameters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "family", "total"),
    [
        ("sam-small", "convolutional promptable segmenter", 3_912_450),
        ("facebook/sam2.1-hiera-tiny", "SAM 2", 31_440_721),
        ("vit-b", "SAM", 93_735_728),
    ],
)
def test_bundled_and_published_bases(name: str, family: str, total: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", name, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["family"], told["total"]) == (family, total)


def test_other_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "broken.pth").write_bytes(b"nothing")
    assert main(["info", str(tmp_path / "notes.txt")]) == 2
    assert "expected a folder with config.json, got a file" in capsys.readouterr().err
    assert main(["info", str(tmp_path / "broken.pth")]) == 2
    assert "expected a torch checkpoint" in capsys.readouterr().err
