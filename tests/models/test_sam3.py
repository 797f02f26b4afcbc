"""What only SAM 3's tracker has: rotary positions in windows, a fused projection and a level for text prompts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Sam3TrackerModel
from transformers.models.sam3.modeling_sam3 import Sam3ViTLayer

from amodal.errors import InputError
from amodal.models.bases.families import base_config, family_of, load_base
from amodal.models.bases.protocol import LoadedBase, is_adapter
from amodal.models.increments import Origin
from amodal.models.plug import PlugConfig, PlugModel
from amodal.models.plug.modeling import parameter_counts
from amodal.nn.rotary import RotaryLayer, fused_projections
from tests.models.families import ROWS, small_sam3_config

ROW = ROWS["sam3_tracker"]


@pytest.mark.parametrize("window_size", [0, 3, 5])
@pytest.mark.parametrize("cells", [8, 9])
def test_a_layer_equals_that_of_transformers(window_size: int, cells: int) -> None:
    config = small_sam3_config(8 * cells).vision_config.backbone_config
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    theirs = Sam3ViTLayer(config, window_size)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = RotaryLayer(theirs)
    ours.load_state_dict(fused_projections(theirs.state_dict()))
    theirs.eval(), ours.eval()
    x = torch.randn(2, cells, cells, 32)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-4, rtol=1e-4)
    with torch.no_grad():  # from packed weights
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-4, rtol=1e-4)


def test_adapters_are_on_q_and_v_of_every_layer() -> None:
    model = PlugModel.from_base(
        LoadedBase(ROW.model(), Origin(fingerprint="")), PlugConfig(image_size=64, lora_rank=2, refine_channels=8)
    )
    names = {name for name, _ in model.vision_encoder.named_parameters() if is_adapter(name)}
    assert names == {f"backbone.layers.{i}.attention.lora.{half}" for i in range(3) for half in ("down", "up")}
    assert parameter_counts(model.config)["lora"] == 3 * 2 * 2 * 2 * (32 * 2)


def test_the_level_for_text_prompts_changes_nothing() -> None:
    config = small_sam3_config()
    config.vision_config.scale_factors = [4.0, 2.0, 1.0, 0.5]  # transformers' default
    three = ROW.model()
    four = Sam3TrackerModel(config)
    four.load_state_dict(four.state_dict() | three.state_dict())
    pixels = torch.randn(1, 3, 64, 64)
    found = []
    for base in (three, four):
        loaded = LoadedBase(base, Origin(fingerprint=""))
        model = PlugModel.from_base(loaded, PlugConfig(image_size=64, lora_rank=2, refine_channels=8))
        with torch.no_grad():
            found.append(model.encode(pixels)[0])
    torch.testing.assert_close(found[0], found[1], atol=0, rtol=0)
    assert ROW.family.fingerprint(three) == ROW.family.fingerprint(four)


def test_published_sizes_and_inputs() -> None:
    config = ROW.family.config_class()
    sizes = ROW.family.sizes(config)
    assert ROW.family.native_size(sizes) == 1008 and ROW.family.stride(sizes) == 14
    assert ROW.family.image_mean == ROW.family.image_std == (0.5, 0.5, 0.5)
    with pytest.raises(InputError, match="expected a positive multiple of 14"):
        PlugConfig(sam=config)
    counts = parameter_counts(PlugConfig(sam=config, image_size=504))
    assert counts["lora"] == 32 * 2 * 2 * 2 * 16 * 1024


def test_a_saved_folder_is_read_by_its_model_type(tmp_path: Path) -> None:
    ROW.model().save_pretrained(tmp_path / "base")
    assert family_of(base_config(tmp_path / "base")) is ROW.family
    loaded = load_base(tmp_path / "base")
    assert isinstance(loaded.model, Sam3TrackerModel)
    assert loaded.origin.fingerprint == ROW.family.fingerprint(ROW.model())
