"""Checkpoint files as people have them: loaded, or refused in one line that says what is missing or foreign."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Sam2Model, SamHQModel

from amodal.errors import InputError
from amodal.models.bases.checkpoints import load_checkpoint, read_checkpoint
from amodal.models.bases.families import base_config, load_base
from amodal.models.bases.sam2 import Sam2Family
from tests.models.conftest import small_sam_config
from tests.models.families import small_sam2_config, small_sam_hq_config

State = dict[str, Tensor]

# transformers' names -> original names, applied in order.
HEADS = {".layers.0.weight": ".layers.1.weight", ".layers.0.bias": ".layers.1.bias"} | {
    "proj_in.": "layers.0.",
    "proj_out.": "layers.2.",
}
DECODER = {
    "layer_norm_final_attn": "norm_final_attn",
    "upscale_conv1": "output_upscaling.0",
    "upscale_layer_norm": "output_upscaling.1",
    "upscale_conv2": "output_upscaling.3",
    "layer_norm": "norm",
}
HQ_DECODER = {
    "hq_token": "hf_token",
    "hq_mask_mlp": "hf_mlp",
    "compress_vit_conv1": "compress_vit_feat.0",
    "compress_vit_norm": "compress_vit_feat.1",
    "compress_vit_conv2": "compress_vit_feat.3",
    "encoder_conv1": "embedding_encoder.0",
    "encoder_norm": "embedding_encoder.1",
    "encoder_conv2": "embedding_encoder.3",
    "mask_decoder.mask_conv1": "mask_decoder.embedding_maskfeature.0",
    "mask_norm": "embedding_maskfeature.1",
    "mask_decoder.mask_conv2": "mask_decoder.embedding_maskfeature.3",
}
PROMPTS = {
    "mask_embed.conv1": "mask_downscaling.0",
    "mask_embed.layer_norm1": "mask_downscaling.1",
    "mask_embed.conv2": "mask_downscaling.3",
    "mask_embed.layer_norm2": "mask_downscaling.4",
    "mask_embed.conv3": "mask_downscaling.6",
}
SAM2_TRUNK = {
    "patch_embed.projection": "patch_embed.proj",
    "layer_norm": "norm",
    "mlp.proj_in": "mlp.layers.0",
    "mlp.proj_out": "mlp.layers.1",
}


def replaced(name: str, *tables: dict[str, str]) -> str:
    for table in tables:
        for old, new in table.items():
            name = name.replace(old, new)
    return name


def is_head(name: str) -> bool:
    return any(
        part in name for part in ("output_hypernetworks_mlps", "iou_prediction_head", "hq_mask_mlp", "score_head")
    )


def meta_state(meta_sam: Any) -> State:
    return {name: tensor for name, tensor in meta_sam.state_dict().items() if not name.startswith("pixel_")}


def original_sam_hq(model: SamHQModel, meta_sam: Any) -> State:
    """The small SAM's original tensors, and those of a SAM-HQ under the names of its original code."""
    own = {name: tensor for name, tensor in model.state_dict().items() if replaced(name, HQ_DECODER) != name}
    return meta_state(meta_sam) | {
        replaced(name, HEADS if is_head(name) else {}, HQ_DECODER): tensor for name, tensor in own.items()
    }


def original_sam2(model: Sam2Model) -> State:
    """A SAM 2 under Meta's names, with tensors that only videos need."""
    state: State = {"memory_encoder.fuser.weight": torch.zeros(1), "maskmem_tpos_enc": torch.zeros(1)}
    for name, tensor in model.state_dict().items():
        if name.startswith("vision_encoder.backbone."):
            state[replaced(name, {"vision_encoder.backbone.": "image_encoder.trunk."}, SAM2_TRUNK)] = tensor
        elif name.startswith("vision_encoder.neck."):
            part = name.removeprefix("vision_encoder.neck.convs.")
            state[f"image_encoder.neck.convs.{part[0]}.conv{part[1:]}"] = tensor
        elif name.startswith("mask_decoder."):
            mlp = HEADS if is_head(name) else {"mlp.proj_in": "mlp.layers.0", "mlp.proj_out": "mlp.layers.1"}
            state["sam_" + replaced(name, mlp, DECODER, {"o_proj": "out_proj"})] = tensor
        elif name == "prompt_encoder.point_embed.weight":
            state |= {f"sam_prompt_encoder.point_embeddings.{i}.weight": row[None] for i, row in enumerate(tensor)}
        elif name == "no_memory_embedding":
            state["no_mem_embed"] = tensor
        elif name == "shared_image_embedding.positional_embedding":
            state["sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"] = tensor
        elif name != "prompt_encoder.shared_embedding.positional_embedding":
            state["sam_" + replaced(name, PROMPTS)] = tensor
    return state


LOADED: dict[str, Callable[[State], Any]] = {
    "plain.pth": lambda state: state,
    "plain.pt": lambda state: state,
    "model.pth": lambda state: {"model": state, "optimizer": {"state": {0: torch.zeros(1)}}, "epoch": 3},
    "ema.pth": lambda state: {"model": state, "ema": state},
    "lightning.ckpt": lambda state: {"state_dict": {"model." + k: v for k, v in state.items()}, "epoch": 3},
    "nested.pth": lambda state: {"checkpoint": {"network": state}},
    "ddp.pth": lambda state: {"module." + k: v for k, v in state.items()},
    "ddp_part.pth": lambda state: {k.replace("image_encoder.", "image_encoder.module."): v for k, v in state.items()},
    "compiled.pth": lambda state: {"_orig_mod." + k: v for k, v in state.items()},
    "wrapper.pth": lambda state: {"module.sam." + k: v for k, v in state.items()},
    "pixels.pth": lambda state: {**state, "pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)},
    "plain.safetensors": lambda state: state,
}


@pytest.mark.parametrize("name", LOADED)
def test_variants_of_one_checkpoint_load_equally(name: str, meta_sam: Any, tmp_path: Path) -> None:
    state = meta_state(meta_sam)
    torch.save(state, tmp_path / "sam_vit_x.pth")
    expected = load_checkpoint(tmp_path / "sam_vit_x.pth").state_dict()
    content = LOADED[name](state)
    if name.endswith(".safetensors"):
        save_file(content, tmp_path / name)
    else:
        torch.save(content, tmp_path / name)
    found = load_base(tmp_path / name).model.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_loaded_as_float32(dtype: torch.dtype, meta_sam: Any, tmp_path: Path) -> None:
    torch.save({k: v.to(dtype) for k, v in meta_state(meta_sam).items()}, tmp_path / "half.pth")
    weights = load_checkpoint(tmp_path / "half.pth").mask_decoder.iou_token.weight
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, meta_sam.mask_decoder.iou_token.weight.to(dtype).float(), atol=0, rtol=0)


def part(name: str) -> Callable[[State], State]:
    return lambda state: {k: v for k, v in state.items() if k.startswith(name)}


def without(name: str) -> Callable[[State], State]:
    return lambda state: {k: v for k, v in state.items() if name not in k}


def bare(name: str) -> Callable[[State], State]:
    return lambda state: {k.removeprefix(name): v for k, v in state.items() if k.startswith(name)}


REFUSED: dict[str, tuple[Callable[[State], Any], str]] = {
    "encoder": (
        part("image_encoder."),
        r"its image encoder alone \(\d+ tensors\), without the prompt encoder and mask",
    ),
    "bare encoder": (bare("image_encoder."), r"its image encoder alone \(\d+ tensors\), without the prompt encoder"),
    "bare decoder": (bare("mask_decoder."), r"its mask decoder alone \(\d+ tensors\), without the image encoder and"),
    "decoder": (part("mask_decoder."), r"its mask decoder alone \(\d+ tensors\), without the image encoder and prompt"),
    "no prompts": (
        without("prompt_encoder."),
        "its image encoder and mask decoder alone .* without the prompt encoder",
    ),
    "no tables": (without("rel_pos"), r"got 6 missing .*: vision_encoder\.layers\.0\.attn\.rel_pos_h, .*, \.\.\.$"),
    "no positions": (without("pos_embed"), r"got 1 missing .*: vision_encoder\.pos_embed$"),
    "half a decoder": (without("output_upscaling"), r"got 6 missing .*: mask_decoder\.upscale_conv1\.weight"),
    "adapter": (lambda s: s | {"image_encoder.blocks.0.Adapter.fc.weight": torch.zeros(2)}, "got 1 foreign: .*Adapter"),
    "outside": (lambda s: {"net." + k: v for k, v in s.items()} | {"loss.w": torch.zeros(1)}, "got 1 foreign: loss.w$"),
    "shape": (
        lambda s: s | {"mask_decoder.iou_token.weight": torch.zeros(1, 7)},
        r"1 of another shape: mask_decoder\.iou_token\.weight \(1, 7\) instead of \(1, 16\)$",
    ),
    "two models": (
        lambda s: {f"{prefix}.{k}": v for prefix in ("student", "teacher") for k, v in s.items()},
        r"expected one model, got 2 with the prefixes 'student\.' \(\d+ tensors\), 'teacher\.'",
    ),
    "two keys": (lambda s: {"student": s, "teacher": s}, "expected one model, got 2 under the keys student, teacher$"),
    "other": (lambda s: {"epoch": 3, "weights": torch.zeros(1)}, "got other content: epoch, weights$"),
    "list": (lambda s: [1, 2], "got other content: list$"),
    "one HQ tensor": (
        lambda s: s | {"hf_token.weight": torch.zeros(1, 16)},
        "of a SAM-HQ, got 25 missing .* 1 foreign",
    ),
    "SAM 3": (lambda s: {"detector.a": torch.zeros(1), "tracker." + next(iter(s)): torch.zeros(1)}, "original SAM 3"),
    "MobileSAM": (lambda s: s | {"image_encoder.patch_embed.seq.0.c.weight": torch.zeros(1)}, "got a MobileSAM"),
    "EdgeTAM": (lambda s: s | {"image_encoder.trunk.body.stem.weight": torch.zeros(1)}, "original EdgeTAM"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_one_complete_model_is_refused_in_one_line(name: str, meta_sam: Any, tmp_path: Path) -> None:
    make, message = REFUSED[name]
    torch.save(make(meta_state(meta_sam)), tmp_path / "x.pth")
    with pytest.raises(InputError, match=message) as caught:
        load_base(tmp_path / "x.pth")
    assert str(caught.value).startswith(f"base {tmp_path / 'x.pth'}: ") and "\n" not in str(caught.value)


def test_files_with_code_and_unreadable_files_are_refused(meta_sam: Any, tmp_path: Path) -> None:
    torch.save(meta_sam, tmp_path / "whole.pt")
    with pytest.raises(InputError, match=r"a pickled segment_anything\.\S+, which is code and is not run; save"):
        load_checkpoint(tmp_path / "whole.pt")
    for name, kind in (("text.pth", "torch"), ("text.safetensors", "safetensors")):
        (tmp_path / name).write_text("hello")
        with pytest.raises(InputError, match=f"expected a {kind} checkpoint"):
            load_checkpoint(tmp_path / name)
    (tmp_path / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(InputError, match="got a pointer of Git LFS"):
        load_checkpoint(tmp_path / "pointer.pth")
    with pytest.raises(InputError, match="got no file at this path"):
        load_checkpoint(tmp_path / "missing.pth")


def test_original_sam_hq(meta_sam: Any, tmp_path: Path) -> None:
    model = SamHQModel(small_sam_hq_config())
    state = original_sam_hq(model, meta_sam)
    torch.save(state, tmp_path / "sam_hq_vit_x.pth")
    found = load_base(tmp_path / "sam_hq_vit_x.pth").model
    assert isinstance(found, SamHQModel) and found.config.mask_decoder_config.vit_dim == 24
    torch.save(meta_state(meta_sam), tmp_path / "sam.pth")
    expected = model.state_dict() | load_checkpoint(tmp_path / "sam.pth").state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())
    with pytest.raises(InputError, match="expected a SAM, got .*model_type 'sam_hq'"):
        load_base(tmp_path / "sam_hq_vit_x.pth", only="sam")


def test_original_sam2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_sam2_config()
    torch.manual_seed(0)
    model = Sam2Model(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    state = original_sam2(model)
    torch.save({"model": state}, tmp_path / "sam2.1_hiera_x.pt")
    with pytest.raises(
        InputError, match=r"SAM 2 of a published width .*\[96, \[1, 2, 7, 2\]\].*, got \[8, \[1, 2, 2, 1\]\]"
    ):
        load_checkpoint(tmp_path / "sam2.1_hiera_x.pt")
    monkeypatch.setitem(Sam2Family.presets, "small", {"vision_config": config.vision_config.to_dict()})
    found = load_base(tmp_path / "sam2.1_hiera_x.pt").model
    assert isinstance(found, Sam2Model)
    expected = model.state_dict()
    expected["prompt_encoder.shared_embedding.positional_embedding"] = expected[
        "shared_image_embedding.positional_embedding"
    ]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())
    torch.save({"model": part("image_encoder.")(state)}, tmp_path / "encoder.pt")
    with pytest.raises(InputError, match="expected a complete SAM 2, got its image encoder alone"):
        load_checkpoint(tmp_path / "encoder.pt")


@pytest.mark.parametrize("preset", Sam2Family.presets)
def test_published_sam2_is_recognised_by_its_shapes(preset: str) -> None:
    from amodal.models.bases.checkpoints import _sam2_config

    with torch.device("meta"):
        state = Sam2Model(base_config(preset)).state_dict()
    config = _sam2_config(Path("sam2.pt"), state)
    assert Sam2Family().sizes(config) == Sam2Family().sizes(base_config(preset))


def test_tensors_of_a_saved_folder_stand_for_the_folder(sam_folder: Path, tmp_path: Path) -> None:
    assert load_base(sam_folder / "model.safetensors").origin.fingerprint == load_base(sam_folder).origin.fingerprint
    (sam_folder / "model.safetensors").rename(tmp_path / "alone.safetensors")
    assert read_checkpoint(tmp_path / "alone.safetensors").family == "sam"
    found = load_base(tmp_path / "alone.safetensors").model
    assert found.config.vision_config.global_attn_indexes == small_sam_config().vision_config.global_attn_indexes
    assert base_config(tmp_path / "alone.safetensors").vision_config.hidden_size == 24
