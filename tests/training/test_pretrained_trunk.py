"""Models on a pretrained trunk, as training builds them, and the learning rates of the trunk."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from amodal.errors import InputError
from amodal.models.bases.conv_prompt import ConvPromptFamily, ConvPromptModel
from amodal.models.bases.efficientnet_lite import LITE0_STAGES, pretrained_weights
from amodal.models.plug import PlugConfig, PlugModel
from amodal.nn.convolutions import AdaptedConvolution
from amodal.training.build import build
from amodal.training.loop import train
from amodal.training.optimizers import SMALLEST_SIZE, new_optimizer
from amodal.training.pretrained_trunk import new_segmenter, restore_trunk, visible_segmenter
from amodal.training.recipe import SamModelRecipe, TrainingRecipe
from tests.models.conftest import small_sam_config
from tests.models.families import small_conv_prompt_config
from tests.models.test_efficientnet_lite import published_state
from tests.training.tiny import SAM, tiny_recipe


def recipe(**settings: Any) -> SamModelRecipe:
    """A small input; the trunk is the whole EfficientNet-Lite0."""
    return SamModelRecipe(**({"image_size": 64, "output_channels": 16} | settings))


def test_the_trunk_starts_from_the_file_and_its_first_blocks_stay(tmp_path: Path) -> None:
    torch.save(published_state(new_segmenter(recipe(), 0).vision_encoder.backbone.config), tmp_path / "lite.pth")
    model = new_segmenter(recipe(trunk_weights=str(tmp_path / "lite.pth"), frozen_blocks=3), 0)
    plain = new_segmenter(recipe(), 0)
    trunk, other = model.vision_encoder.backbone, plain.vision_encoder.backbone
    assert not torch.equal(trunk.blocks[5].project.weight, other.blocks[5].project.weight)
    assert torch.equal(trunk.mix["8"].project.weight, other.mix["8"].project.weight)
    frozen = {name for name, p in trunk.named_parameters() if not p.requires_grad}
    assert {name.split(".")[0] + "." + name.split(".")[1] for name in frozen} == {
        "stem.weight", "stem.bias", "blocks.0", "blocks.1", "blocks.2"
    }  # fmt: skip
    assert len(LITE0_STAGES) == 7


@pytest.mark.parametrize("name", ["no-such-file.pth", "amodal", "no_such_package", "../x"])
def test_missing_weights_of_the_trunk_are_named(name: str) -> None:
    with pytest.raises(InputError, match="trunk_weights: expected a file, or an installed package"):
        new_segmenter(recipe(trunk_weights=name), 0)


def rate_factors(model: nn.Module, **training: Any) -> dict[int, float]:
    """Factors on the learning rate by the id of the parameter."""
    optimizer = new_optimizer(model, TrainingRecipe(steps=1, **training))
    return {id(p): group["rate_factor"] for group in optimizer.param_groups for p in group["params"]}


def test_the_rates_of_the_trunk_follow_the_sizes_of_its_weights() -> None:
    model = new_segmenter(recipe(frozen_blocks=3), 0)
    trunk = model.vision_encoder.backbone
    small, large, bias = trunk.blocks[5].project.weight, trunk.blocks[6].depthwise.weight, trunk.blocks[7].expand.bias
    for weight, size in ((small, 0.02), (large, 2.0), (bias, 0.0)):
        nn.init.constant_(weight, size)
    factors = rate_factors(model, trunk_rate=2.0)
    assert factors[id(small)] == pytest.approx(0.04)
    assert factors[id(large)] == 1
    assert factors[id(bias)] == pytest.approx(2 * SMALLEST_SIZE)
    assert factors[id(trunk.lateral["8"].weight)] == factors[id(model.mask_decoder.lateral[0].weight)] == 1
    assert len(factors) == sum(p.requires_grad for p in model.parameters())
    assert set(rate_factors(model, trunk_rate=None).values()) == {1.0}


def test_the_rate_of_an_adapter_follows_the_gain_of_its_convolution() -> None:
    plug = PlugModel(small_plug())
    convolution = next(m for m in plug.vision_encoder.backbone.modules() if isinstance(m, AdaptedConvolution))
    nn.init.constant_(convolution.weight, 0.01)
    factors = rate_factors(plug, trunk_rate=2.0)
    expected = 2 * 0.01 * math.sqrt(convolution.in_channels)
    assert expected < 1
    assert [factors[id(p)] for p in convolution.lora.parameters()] == [pytest.approx(expected)] * 2


def test_training_steps_move_the_trunk_at_its_own_rate(tmp_path: Path) -> None:
    """The loop sets the rates of each step anew, and must keep the factors of the groups."""
    new = new_segmenter(SamModelRecipe(**SAM), 0)
    model = ConvPromptModel.from_pretrained(train(tiny_recipe(tmp_path, trunk_rate=1e-6), progress=False))
    for name, before in new.state_dict().items():
        change = float((model.state_dict()[name] - before).abs().max())
        if name.startswith("vision_encoder.backbone.blocks."):
            assert change < 1e-7, name
    before, after = (m.mask_decoder.lateral[0].weight for m in (new, model))
    assert float((after - before).detach().abs().max()) > 1e-4


def small_plug(**settings: Any) -> PlugConfig:
    """PLUG on a small convolutional segmenter that is trained along."""
    sizes = ConvPromptFamily().sizes(small_conv_prompt_config())
    base = {"sam": sizes, "image_size": 64, "lora_rank": 2, "refine_channels": 8, "train_base": True}
    return PlugConfig(**(base | {"prompted_encoder": True, "mask_prompts": True} | settings))


class TestVisibleSegmenter:
    def test_it_predicts_what_the_visible_branch_does(self) -> None:
        torch.manual_seed(0)
        plug = PlugModel(small_plug(prompted_encoder=False)).eval()
        with torch.no_grad():
            for name, parameter in plug.named_parameters():
                if name.endswith(".lora.up"):
                    parameter.normal_(0, 0.05)
        image, boxes = torch.randn(2, 3, 64, 64), torch.tensor([[[8.0, 8, 40, 50], [20, 4, 60, 60]]] * 2)
        with torch.no_grad():
            expected = plug(image, boxes)
            got = visible_segmenter(plug).eval()(image, boxes).pred_masks[:, :, 0]
        assert not torch.allclose(expected.visible_decoder_logits, expected.amodal_decoder_logits, atol=1e-2)
        torch.testing.assert_close(got, expected.visible_decoder_logits, atol=1e-4, rtol=1e-4)

    def test_a_recipe_starts_from_it(self, tmp_path: Path) -> None:
        base = tmp_path / "base"
        build(tiny_recipe(tmp_path)).model.save_pretrained(base)
        sizes = {"base": str(base), "image_size": SAM["image_size"], "train_base": True, "prompted_encoder": True}
        plug = build(tiny_recipe(tmp_path, "plug", sizes)).model
        with torch.no_grad():
            for parameter in plug.parameters():
                parameter.add_(0.01)
        plug.save_pretrained(tmp_path / "plug")
        started = build(tiny_recipe(tmp_path).model_copy(update={"init": str(tmp_path / "plug")})).model.state_dict()
        expected = visible_segmenter(plug).state_dict()
        assert started.keys() == expected.keys() and all(torch.equal(started[k], expected[k]) for k in expected)

    def test_without_a_visible_branch_or_with_another_base_there_is_none(self) -> None:
        sam = PlugConfig(sam=small_sam_config(32), image_size=32, lora_rank=2, refine_channels=8)
        alone = small_plug(visible_branch=False, refine=False, parallel_lora=False)
        for config, got in ((sam, "SAM"), (alone, "none")):
            with pytest.raises(InputError, match=f"init: expected a visible branch .*got .*{got}"):
                visible_segmenter(PlugModel(config))


class TestRestoreTrunk:
    def test_trunk_adapters_and_prompt_adapter_start_anew(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        model = PlugModel(small_plug())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        trunk = model.vision_encoder.backbone
        file = tmp_path / "lite.pth"
        torch.save(published_state(trunk.config), file)
        restore_trunk(model, str(file))
        state = trunk.state_dict()
        for name, tensor in pretrained_weights(file, trunk.config).items():
            assert torch.equal(state[name], tensor), name
        updates = [m.lora.up for m in trunk.modules() if isinstance(m, AdaptedConvolution)]
        assert updates
        assert not any(up.any() for up in updates)
        assert not model.vision_encoder.prompt_adapter.weight.any()
        pretrained = ("vision_encoder.backbone.blocks.", "vision_encoder.backbone.stem.")
        kept = [name for name in before if not name.startswith(pretrained) and ".lora." not in name]
        changed = {name for name in kept if not torch.equal(model.state_dict()[name], before[name])}
        assert changed == {"vision_encoder.prompt_adapter.weight"}

    def test_a_frozen_base_keeps_its_trunk(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="trunk_weights: expected null with train_base=false, got a name"):
            build(tiny_recipe(tmp_path, "plug", {"trunk_weights": "x", "train_base": False}))

    def test_a_transformer_has_no_such_trunk(self) -> None:
        config = PlugConfig(sam=small_sam_config(32), image_size=32, lora_rank=2, refine_channels=8, train_base=True)
        with pytest.raises(InputError, match="trunk_weights: expected a convolutional promptable segmenter, got "):
            restore_trunk(PlugModel(config), "x")

    def test_a_recipe_restores_the_trunk_of_a_base_but_not_that_of_init(self, tmp_path: Path) -> None:
        ConvPromptFamily().new_model(small_conv_prompt_config(), 1).save_pretrained(tmp_path / "conv")
        config = small_conv_prompt_config().trunk_config
        torch.save(published_state(config), tmp_path / "lite.pth")
        expected = pretrained_weights(tmp_path / "lite.pth", config)["blocks.3.project.weight"]
        model = {"base": str(tmp_path / "conv"), "image_size": 64, "train_base": True}
        recipe = tiny_recipe(tmp_path, "plug", model | {"trunk_weights": str(tmp_path / "lite.pth")})
        new = build(recipe).model
        assert torch.equal(new.state_dict()["vision_encoder.backbone.blocks.3.project.weight"], expected)
        saved = build(tiny_recipe(tmp_path, "plug", model)).model
        saved.save_pretrained(tmp_path / "saved")
        continued = build(recipe.model_copy(update={"init": str(tmp_path / "saved")})).model
        assert all(torch.equal(a, b) for a, b in zip(continued.parameters(), saved.parameters(), strict=True))
