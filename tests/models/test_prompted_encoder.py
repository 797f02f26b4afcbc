"""PLUG with a prompt adapter: it starts as a model without one, and each object has its own embedding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from amodal.errors import InputError
from amodal.models.bases.protocol import LoadedBase, is_adapter
from amodal.models.increments import Origin, increment_state
from amodal.models.plug import PlugConfig, PlugModel
from amodal.models.plug.modeling import parameter_counts
from amodal.models.plug.sharing import load_beside
from tests.models.families import ROWS
from tests.models.test_families import KINDS, PROMPTS, images, plug_config
from tests.models.test_plug import BOXES, trained

ADAPTER = "vision_encoder.prompt_adapter.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ROWS["conv_prompt"].model().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def prompted(folder: Path, **settings: object) -> PlugModel:
    return PlugModel.from_base(folder, plug_config(prompted_encoder=True, mask_prompts=True, **settings))


def two_images(name: str) -> Tensor:
    """Prompts of two objects in each of two images."""
    return torch.cat([PROMPTS[name], PROMPTS[name].flip(1)])


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("kinds", KINDS)
def test_a_new_prompt_adapter_changes_nothing(folder: Path, kinds: str, parallel: bool) -> None:
    names = [f"input_{kind}" for kind in kinds.split()] + (["input_labels"] if "points" in kinds else [])
    prompts = {name: two_images(name) for name in names}
    model = trained(PlugModel.from_base(folder, plug_config(mask_prompts=True, parallel_lora=parallel))).double()
    other = prompted(folder, parallel_lora=parallel).double()
    missing = other.load_state_dict(model.state_dict(), strict=False).missing_keys
    assert missing == [ADAPTER]
    with torch.no_grad():
        expected, got = (m(images(2).double(), **prompts) for m in (model, other))
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], atol=1e-9, rtol=1e-9)


def test_objects_have_their_own_embedding_and_do_not_depend_on_each_other(folder: Path) -> None:
    model = trained(prompted(folder)).double()
    pixels, masks = images(3).double(), PROMPTS["input_masks"].expand(3, -1, -1, -1)
    boxes = BOXES.expand(3, -1, -1) + torch.arange(3).view(3, 1, 1)
    with torch.no_grad():
        together = model(pixels, boxes, input_masks=masks)
        for image in range(3):
            for prompt in range(2):
                one = slice(image, image + 1), slice(prompt, prompt + 1)
                alone = model(pixels[one[0]], boxes[one], input_masks=masks[one])
                torch.testing.assert_close(alone.pred_masks, together.pred_masks[one], atol=1e-8, rtol=1e-8)
        prompts = model.embed_prompts(boxes, None, None, masks, None, torch.float64)
        features = model.config.family.encode_objects(model.vision_encoder, model.encode(pixels), prompts)
    for branch in features:
        assert branch.embedding.shape == (6, 16, 8, 8)
        assert (branch.embedding[0] - branch.embedding[1]).abs().mean() > 0.01
        assert branch.high_resolution[0].shape[0] == 3  # of the images
    assert not torch.allclose(features[0].embedding, features[1].embedding)


def test_one_encoding_serves_several_predictions(folder: Path) -> None:
    model = trained(prompted(folder))
    with torch.no_grad():
        encoded = model.encode(images(1))
        for prompt in range(2):
            own = BOXES[:, prompt : prompt + 1]
            torch.testing.assert_close(
                model.predict(images(1), *encoded, own).pred_masks, model(images(1), own).pred_masks
            )


def test_on_a_frozen_base_the_adapter_is_trained_and_stored(folder: Path, tmp_path: Path) -> None:
    model = prompted(folder)
    assert ADAPTER in increment_state(model) and is_adapter(ADAPTER) and not model.is_base_tensor(ADAPTER)
    assert parameter_counts(model.config)["incremental"] == sum(t.numel() for t in increment_state(model).values())
    loss = model(images(1), BOXES).coarse_amodal_logits.square().mean()
    loss.backward()
    gradient = dict(model.named_parameters())[ADAPTER].grad
    assert gradient is not None and gradient.any()
    trained(model).save_pretrained(tmp_path / "plug")
    again = PlugModel.from_pretrained(tmp_path / "plug")
    with torch.no_grad():
        assert torch.equal(again(images(1), BOXES).pred_masks, model(images(1), BOXES).pred_masks)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("second", [True, False])
def test_models_with_and_without_an_adapter_share_a_base(
    folder: Path, tmp_path: Path, first: bool, second: bool
) -> None:
    for name, has_adapter in (("first", first), ("second", second)):
        config = plug_config(prompted_encoder=has_adapter)
        trained(PlugModel.from_base(folder, config)).save_pretrained(tmp_path / name)
    beside = load_beside(tmp_path / "second", PlugModel.from_pretrained(tmp_path / "first"))
    with torch.no_grad():
        expected = PlugModel.from_pretrained(tmp_path / "second")(images(1), BOXES).pred_masks
        torch.testing.assert_close(beside(images(1), BOXES).pred_masks, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("has_adapter", [True, False])
def test_the_coarse_stages_get_the_memory_order_that_is_fast_on_a_cpu(folder: Path, has_adapter: bool) -> None:
    model = PlugModel.from_base(folder, plug_config(prompted_encoder=has_adapter))
    trunk = model.vision_encoder.backbone
    expand, seen = trunk.get_submodule(trunk.coarse_start).expand, []
    expand.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(images(2), BOXES.expand(2, -1, -1))
    (x,) = seen
    assert x.shape[0] == (8 if has_adapter else 4)  # of two branches
    assert x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


@pytest.mark.parametrize("name", [name for name in ROWS if name != "conv_prompt"])
def test_a_base_without_maps_of_prompts_is_refused(name: str) -> None:
    row = ROWS[name]
    with pytest.raises(InputError, match=f"prompted_encoder: expected False for a {row.family.title}, got True"):
        PlugModel.from_base(LoadedBase(row.model(), Origin()), plug_config(prompted_encoder=True))
    assert PlugConfig(prompted_encoder=True).prompted_encoder  # a recipe's configuration has no base yet
