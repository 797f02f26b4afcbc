"""What only bases on a convolutional trunk have: pairs on 1x1 convolutions, and a frozen batch norm."""

from __future__ import annotations

import pytest
import torch

from amodal.errors import InputError
from amodal.models.bases.edgetam import EdgeTamEncoder
from amodal.models.bases.protocol import Adapters, LoadedBase, is_adapter
from amodal.models.increments import Origin
from amodal.models.plug import PlugConfig, PlugModel
from tests.models.families import ROWS, small_edgetam_config
from tests.models.test_plug import BOXES, trained

ROW = ROWS["edgetam"]


def small_plug(**settings: bool) -> PlugModel:
    loaded = LoadedBase(ROW.model(), Origin(fingerprint=""))
    return PlugModel.from_base(
        loaded, PlugConfig(**{"image_size": 64, "lora_rank": 2, "refine_channels": 8} | settings)
    )


def test_adapters_are_on_the_pointwise_convolutions_of_the_last_two_stages() -> None:
    names = {name for name, _ in small_plug().vision_encoder.named_parameters() if is_adapter(name)}
    convolutions = [f"stages.{stage}.{layer}" for stage in (2, 3) for layer in ("1.mlp.0", "1.mlp.3")]
    # That of stride 2 in the second of them takes the map of stride 16, so it belongs to the last two stages as well.
    convolutions += ["stages.2.0", "stages.3.0"]
    assert names == {f"backbone.{name}.lora.{half}" for name in convolutions for half in ("down", "up")}


def test_branches_separate_where_the_third_coarsest_map_ends() -> None:
    model = trained(small_plug())
    trunk = model.vision_encoder.backbone
    batches: list[int] = []
    for module in (trunk.stem, *trunk.stages):
        module.register_forward_hook(lambda _module, _inputs, output: batches.append(len(output)))
    visible, amodal = model.encode(torch.randn(3, 3, 64, 64))
    assert batches == [3, 3, 3, 6, 6]
    for ours, theirs in zip(visible.high_resolution, amodal.high_resolution, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0)  # the fine maps come before the first adapter


def test_fine_maps_that_the_pyramid_mixes_are_repeated_before_it() -> None:
    config = small_edgetam_config()
    config.vision_config.fpn_top_down_levels = [0, 1, 2, 3]
    base = ROW.family.new_model(config).eval()
    model = PlugModel.from_base(LoadedBase(base, Origin(fingerprint="")), PlugConfig(image_size=64, refine_channels=8))
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        fine, middle, embedding = base.get_image_embeddings(pixels)
        for features in model.encode(pixels):
            torch.testing.assert_close(features.embedding, embedding, atol=1e-4, rtol=1e-4)
            assert model.amodal_decoder.conv_s0(features.high_resolution[0]).shape == fine.shape
            torch.testing.assert_close(
                model.amodal_decoder.conv_s1(features.high_resolution[1]), middle, atol=1e-4, rtol=1e-4
            )


def test_training_keeps_the_statistics_of_the_base() -> None:
    model = small_plug(train_base=True).train()
    before = {name: tensor.clone() for name, tensor in model.vision_encoder.named_buffers()}
    model(torch.randn(2, 3, 64, 64), BOXES.expand(2, -1, -1)).pred_masks.mean().backward()
    assert before
    for name, tensor in model.vision_encoder.named_buffers():
        assert torch.equal(tensor, before[name]), name
    assert EdgeTamEncoder(small_edgetam_config(), Adapters(2)).backbone.stages[0].mixer[1].training is False


def test_a_trunk_without_separate_stages_is_refused() -> None:
    config = small_edgetam_config()
    config.vision_config.backbone_config.wrapped = True
    with pytest.raises(InputError, match="expected a trunk with a module that takes its third coarsest map"):
        EdgeTamEncoder(config, Adapters(2))
    assert EdgeTamEncoder(config, Adapters(0)).num_branches == 1
