"""PLUG's contracts on every family of bases: it starts as the base, trains what it declares, is saved exactly."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BertConfig

from amodal.errors import InputError
from amodal.models.bases.families import FAMILIES, base_config, family_of, load_base
from amodal.models.bases.protocol import LoadedBase, is_adapter
from amodal.models.increments import Origin, increment_state
from amodal.models.plug import PlugConfig, PlugModel
from amodal.models.plug.modeling import parameter_counts
from amodal.models.plug.sharing import at_input_size, load_beside
from amodal.nn.attention import use_int8
from amodal.nn.packing import can_use_int8
from tests.models.families import ROWS, TinyBase
from tests.models.test_plug import BOXES, trained

POINTS = torch.tensor([[[[10.0, 12.0], [30.0, 40.0], [5.0, 60.0]], [[25.0, 10.0], [50.0, 20.0], [0.0, 0.0]]]])
PROMPTS = {
    "input_boxes": BOXES,
    "input_points": POINTS,
    "input_labels": torch.tensor([[[1, 0, -1], [1, 1, -10]]]),
    "input_masks": torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(5)) * 5,
}
KINDS = ["boxes", "points", "masks", "boxes points", "boxes masks", "points masks", "boxes points masks"]


@pytest.fixture(params=ROWS, ids=str)
def row(request: pytest.FixtureRequest) -> TinyBase:
    return ROWS[request.param]


@pytest.fixture
def folder(row: TinyBase, tmp_path: Path) -> Path:
    row.model().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def plug_config(**settings: object) -> PlugConfig:
    return PlugConfig(**{"image_size": 64, "lora_rank": 2, "refine_channels": 8, "num_points": 16} | settings)


def images(count: int, size: int = 64) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(6))


def in_double(row: TinyBase, size: int) -> tuple[PlugModel, torch.nn.Module]:
    """PLUG, and transformers' model with the same weights at the same input size, in float64."""
    base = row.model().double()
    loaded = LoadedBase(base, Origin(fingerprint=row.family.fingerprint(base)))
    model = PlugModel.from_base(loaded, plug_config(image_size=size)).double()
    return model.eval(), row.at_size(base, size)


@pytest.mark.parametrize("kinds", KINDS)
def test_new_model_predicts_what_the_base_does(row: TinyBase, kinds: str) -> None:
    names = [f"input_{kind}" for kind in kinds.split()] + (["input_labels"] if "points" in kinds else [])
    prompts = {name: PROMPTS[name] for name in names}
    for size in (64, *row.sizes):
        model, theirs = in_double(row, size)
        pixels = images(1, size).double()
        if "input_masks" in prompts and row.family.model_type != "conv_prompt":
            side = 4 * model.prompt_encoder.image_embedding_size[0]  # the only size that transformers' SAM takes
            prompts["input_masks"] = F.interpolate(PROMPTS["input_masks"], size=(side, side), mode="bilinear")
        with torch.no_grad():
            ours = model(pixels, **prompts)
            for p in range(2):  # transformers takes one mask per image
                own = {name: tensor[:, p : p + 1] for name, tensor in prompts.items()}
                own |= {name: tensor.double() for name, tensor in own.items() if name == "input_masks"}
                logits, quality = row.predict(theirs, pixels, **own)
                expected = F.interpolate(logits, size=(size, size), mode="bilinear")
                for got in (ours.pred_masks, ours.coarse_amodal_logits, ours.visible_logits):
                    torch.testing.assert_close(got[:, p : p + 1], expected, atol=1e-5, rtol=1e-5)
                torch.testing.assert_close(ours.iou_scores[:, p : p + 1], quality, atol=1e-5, rtol=1e-5)


def test_features_of_a_new_model_are_those_of_the_base(row: TinyBase) -> None:
    for size in (64, *row.sizes):
        model, theirs = in_double(row, size)
        pixels = images(2, size).double()
        with torch.no_grad():
            expected = row.embedding(theirs, pixels)
            packed = model.encode(pixels)
        with_gradients = model.encode(pixels)
        for features in (*packed, *with_gradients):
            torch.testing.assert_close(features.embedding, expected, atol=1e-5, rtol=1e-5)


def test_one_doubled_pass_equals_each_branch_alone(row: TinyBase, folder: Path) -> None:
    model = trained(PlugModel.from_base(folder, plug_config()))
    plain = PlugConfig.from_dict(model.config.to_dict() | {"parallel_lora": False})
    with torch.no_grad():
        both = model.encode(images(3))
        for branch in range(2):
            alone = PlugModel(plain).eval()
            alone.load_state_dict(
                {k: v[branch : branch + 1] if is_adapter(k) else v for k, v in model.state_dict().items()}
            )
            torch.testing.assert_close(alone.encode(images(3))[0], both[branch], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(both[0].embedding, both[1].embedding)


def test_adapters_in_packed_weights_equal_adapters_beside_them(row: TinyBase, folder: Path) -> None:
    model = trained(PlugModel.from_base(folder, plug_config())).double()
    with torch.no_grad():
        merged = model.encode(images(2).double())
    torch.testing.assert_close(model.encode(images(2).double()), merged, atol=1e-5, rtol=1e-5)


def test_only_declared_parameters_move_and_all_of_them(row: TinyBase, folder: Path) -> None:
    model = PlugModel.from_base(folder, plug_config(mask_prompts=True))
    trained(model).train()  # B = 0 would leave A without gradient
    before = {k: v.clone() for k, v in model.state_dict().items()}
    declared = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.Adam(declared.values(), lr=0.01)
    output = model(images(1), BOXES, input_masks=PROMPTS["input_masks"], mask_given=torch.tensor([[True, False]]))
    (output.pred_masks.square().mean() + output.visible_logits.square().mean()).backward()
    assert not [name for name, p in declared.items() if p.grad is None]  # distributed training would refuse these
    optimizer.step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed <= increment_state(model).keys() & declared.keys()
    adapters = {name for name in declared if is_adapter(name)}
    assert adapters and adapters <= changed
    if hasattr(model.prompt_encoder, "point_embed"):
        assert {"prompt_encoder.point_embed.2.weight", "prompt_encoder.point_embed.3.weight"} <= changed
        assert not {"prompt_encoder.point_embed.0.weight", "prompt_encoder.point_embed.1.weight"} & declared.keys()


def test_gradient_checkpointing_changes_no_gradient(row: TinyBase, folder: Path) -> None:
    model = trained(PlugModel.from_base(folder, plug_config())).train()
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.zero_grad()
        model(images(1), BOXES).pred_masks.square().mean().backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert all(layer.gradient_checkpointing for layer in row.family.layers(model.vision_encoder))
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("merged", [False, True])
def test_save_and_load_is_bitwise(row: TinyBase, folder: Path, tmp_path: Path, merged: bool) -> None:
    model = trained(PlugModel.from_base(folder, plug_config()))
    model.save_pretrained(tmp_path / "plug", merged=merged)
    again = PlugModel.from_pretrained(tmp_path / "plug")
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    with torch.no_grad():
        assert torch.equal(again(images(1), BOXES).pred_masks, model(images(1), BOXES).pred_masks)
    assert again.config.family is row.family
    assert not any("qkv" in name or "patch_embed" in name for name in increment_state(model))
    assert parameter_counts(model.config)["incremental"] == sum(t.numel() for t in increment_state(model).values())


def test_batched_equals_single(row: TinyBase, folder: Path) -> None:
    model = trained(PlugModel.from_base(folder, plug_config()))
    pixels, boxes = images(3), BOXES.expand(3, -1, -1) + torch.arange(3).view(3, 1, 1)
    with torch.no_grad():
        together = model(pixels, boxes)
        for image in range(3):
            for prompt in range(2):
                one = slice(image, image + 1), slice(prompt, prompt + 1)
                alone = model(pixels[one[0]], boxes[one])
                torch.testing.assert_close(alone.pred_masks, together.pred_masks[one], atol=1e-4, rtol=1e-4)


def test_another_base_is_refused(row: TinyBase, folder: Path, tmp_path: Path) -> None:
    PlugModel.from_base(folder, plug_config()).save_pretrained(tmp_path / "plug")
    row.model(seed=9).save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="expected weights with fingerprint"):
        PlugModel.from_pretrained(tmp_path / "plug", base=tmp_path / "other")


def test_increments_share_a_base_and_change_the_input_size(row: TinyBase, folder: Path, tmp_path: Path) -> None:
    for name, rank in (("a", 2), ("b", 4)):
        trained(PlugModel.from_base(folder, plug_config(lora_rank=rank))).save_pretrained(tmp_path / name)
    first, alone = (PlugModel.from_pretrained(tmp_path / name) for name in ("a", "b"))
    second = load_beside(tmp_path / "b", first)
    with torch.no_grad():
        expected = alone(images(1), BOXES).pred_masks
        torch.testing.assert_close(second(images(1), BOXES).pred_masks, expected, atol=1e-5, rtol=1e-5)
        larger = at_input_size(first, 96)
        assert larger(images(1, 96), BOXES).pred_masks.shape[-1] == 96
    ours, theirs = dict(first.named_parameters()), dict(second.named_parameters())
    for name in ours:
        same = ours[name].data_ptr() == theirs[name].data_ptr()
        assert same == first.is_base_tensor(name), name


def test_bfloat16_and_8_bits_stay_close(row: TinyBase, folder: Path) -> None:
    model = trained(PlugModel.from_base(folder, plug_config()))
    with torch.no_grad():
        exact = model(images(1), BOXES).coarse_amodal_logits
        narrow = copy.deepcopy(model).to(torch.bfloat16)
        fixed = narrow.prompt_encoder.shared_embedding.parameters()
        assert all(features.dtype == torch.float32 for features in fixed)
        close = [narrow(images(1), BOXES).coarse_amodal_logits.float()]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            close.append(model(images(1), BOXES).coarse_amodal_logits.float())
        if can_use_int8():
            use_int8(narrow.vision_encoder)
            close.append(narrow(images(1), BOXES).coarse_amodal_logits.float())
    for logits in close:
        assert (logits - exact).abs().mean() < 0.1 * exact.abs().mean()


def test_rows_cover_all_families() -> None:
    assert ROWS.keys() == FAMILIES.keys()


@pytest.mark.parametrize("name", [name for family in FAMILIES.values() for name in (*family.presets, *family.hub_ids)])
def test_a_published_base_is_configured_without_a_download(name: str) -> None:
    config = base_config(name)
    plug = PlugConfig(sam=config)
    assert plug.family is family_of(config) and plug.family.native_size(plug.family.sizes(config)) == 1024
    again = plug.family.at_size(plug.family.sizes(config), 1024)
    assert plug.family.sizes(again) == plug.family.sizes(config)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("sam2.1-tiny", 38.9), ("sam2.1-small", 46.0), ("sam2.1-base-plus", 80.8), ("sam2.1-large", 224.4)],
)
def test_presets_of_sam_2_have_the_published_sizes(name: str, millions: float) -> None:
    """Meta's table counts the memory for videos too, which all sizes have in common."""
    with torch.device("meta"):
        model = FAMILIES["sam2"].model_class(base_config(name))
    assert sum(p.numel() for p in model.parameters()) / 1e6 + 7.47 == pytest.approx(millions, abs=0.05)


def test_what_no_family_can_use_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="base: expected a model_type of sam, .*, got 'bert'"):
        family_of(BertConfig())
    with pytest.raises(InputError, match="expected a positive multiple of 32"):
        PlugConfig(sam=base_config("sam2.1-tiny"), image_size=80)
    ROWS["sam2"].model().save_pretrained(tmp_path / "base")
    with pytest.raises(InputError, match="expected a SAM, got one of model_type 'sam2'"):
        load_base(tmp_path / "base", only="sam")
