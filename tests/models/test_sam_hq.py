"""What only SAM-HQ has: early features, and a second mask that is added to SAM's."""

from __future__ import annotations

import pytest
import torch

from amodal.models.bases.families import base_config
from amodal.models.bases.protocol import LoadedBase
from amodal.models.increments import Origin
from amodal.models.plug import PlugConfig, PlugModel
from tests.models.families import ROWS, small_sam_hq_config
from tests.models.test_plug import BOXES, trained

ROW = ROWS["sam_hq"]


def small_plug(image_size: int = 64) -> PlugModel:
    loaded = LoadedBase(ROW.model(), Origin(fingerprint=""))
    return PlugModel.from_base(loaded, PlugConfig(image_size=image_size, lora_rank=2, refine_channels=8))


def test_early_features_are_those_of_the_first_global_layer() -> None:
    base, model = ROW.model().double(), small_plug().double()
    pixels = torch.randn(2, 3, 64, 64).double()
    with torch.no_grad():
        early = base.get_image_embeddings(pixels)[1][0].permute(0, 3, 1, 2)
        for features in model.encode(pixels):
            torch.testing.assert_close(features.high_resolution, (early,), atol=1e-5, rtol=1e-5)
        visible, amodal = trained(model).encode(pixels)
    assert not torch.allclose(visible.high_resolution[0], amodal.high_resolution[0])


def test_the_mask_of_the_hq_token_is_added_to_that_of_sam() -> None:
    model = small_plug()
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        both = model(pixels, BOXES).coarse_amodal_logits
        last = model.amodal_decoder.hq_mask_mlp.proj_out
        last.weight.zero_()
        last.bias.zero_()
        sam_alone = model(pixels, BOXES).coarse_amodal_logits
        first = model.amodal_decoder.output_hypernetworks_mlps[0].proj_out
        first.weight.zero_()
        first.bias.zero_()
        assert model(pixels, BOXES).coarse_amodal_logits.abs().max() == 0
    assert (both - sam_alone).abs().max() > 0.01


def test_an_encoder_without_global_attention_has_no_early_features() -> None:
    config = small_sam_hq_config()
    config.vision_config.global_attn_indexes = []
    base = ROW.family.new_model(config)
    model = PlugModel.from_base(LoadedBase(base, Origin(fingerprint="")), PlugConfig(image_size=64, refine_channels=8))
    with torch.no_grad():
        assert model.encode(torch.randn(1, 3, 64, 64))[0].high_resolution == ()
        assert model(torch.randn(1, 3, 64, 64), BOXES).pred_masks.shape == (1, 2, 64, 64)


@pytest.mark.parametrize(
    ("name", "encoder", "decoder"),
    [
        ("hq-vit-b", 89_670_912, 5_129_444),
        ("hq-vit-l", 308_278_272, 5_391_588),
        ("hq-vit-h", 637_026_048, 5_653_732),
    ],
)
def test_presets_have_the_published_sizes(name: str, encoder: int, decoder: int) -> None:
    with torch.device("meta"):
        model = ROW.family.model_class(base_config(name))
    assert sum(p.numel() for p in model.vision_encoder.parameters()) == encoder
    assert sum(p.numel() for p in model.mask_decoder.parameters()) == decoder
