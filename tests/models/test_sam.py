"""The SAM base: our converter and transformers give the outputs of Meta's original code and checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.sam.modeling_sam import SamVisionEncoder

from amodal.errors import InputError
from amodal.models.bases.checkpoints import load_checkpoint
from amodal.models.bases.families import base_config, load_base
from amodal.models.bases.protocol import fingerprint_of
from amodal.models.bases.sam import fit_encoder_weights, new_sam
from amodal.models.plug import PlugConfig, PlugModel
from amodal.nn.attention import use_folded_attention
from tests.models.conftest import save_meta, small_sam_config


@pytest.mark.parametrize("multimask", [False, True])
def test_meta_checkpoint_has_metas_outputs(meta_sam: Any, tmp_path: Path, multimask: bool) -> None:
    ours = load_checkpoint(save_meta(meta_sam, tmp_path / "sam_vit_x.pth")).eval()
    use_folded_attention(ours.vision_encoder)
    pixels = torch.randn(1, 3, 64, 64)
    box = torch.tensor([[8.0, 8.0, 40.0, 48.0]])
    with torch.no_grad():
        embedding = meta_sam.image_encoder(pixels)
        sparse, dense = meta_sam.prompt_encoder(points=None, boxes=box, masks=None)
        logits, quality = meta_sam.mask_decoder(
            image_embeddings=embedding, image_pe=meta_sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse, dense_prompt_embeddings=dense,
            multimask_output=multimask,
        )  # fmt: skip
        got_embedding = ours.get_image_embeddings(pixels)
        got = ours(pixel_values=pixels, input_boxes=box[None], multimask_output=multimask)
    torch.testing.assert_close(got_embedding, embedding, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got.pred_masks[0], logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got.iou_scores[0], quality, atol=1e-5, rtol=1e-5)


def test_plug_on_a_meta_checkpoint_predicts_metas_mask(meta_sam: Any, tmp_path: Path) -> None:
    path = save_meta(meta_sam, tmp_path / "sam_vit_x.pth")
    model = PlugModel.from_base(path, PlugConfig(image_size=64, lora_rank=2, refine_channels=8))
    pixels, box = torch.randn(1, 3, 64, 64), torch.tensor([[8.0, 8.0, 40.0, 48.0]])
    with torch.no_grad():
        sparse, dense = meta_sam.prompt_encoder(points=None, boxes=box, masks=None)
        logits, _ = meta_sam.mask_decoder(
            image_embeddings=meta_sam.image_encoder(pixels),
            image_pe=meta_sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse, dense_prompt_embeddings=dense, multimask_output=False,
        )  # fmt: skip
        expected = torch.nn.functional.interpolate(logits, size=(64, 64), mode="bilinear")
        got = model(pixels, box[None]).pred_masks
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert load_base(path).origin.fingerprint == model.config.base["fingerprint"]


def test_broken_meta_checkpoints_are_refused(meta_sam: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got no file"):
        load_checkpoint(tmp_path / "missing.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(InputError, match="expected a torch checkpoint"):
        load_checkpoint(tmp_path / "text.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="got other content"):
        load_checkpoint(tmp_path / "other.pth")
    state = meta_sam.state_dict()
    state.pop("mask_decoder.iou_token.weight")
    torch.save(state, tmp_path / "partial.pth")
    with pytest.raises(InputError, match=r"got 1 missing .*: mask_decoder.iou_token.weight$"):
        load_checkpoint(tmp_path / "partial.pth")


def test_weights_fit_another_input_size() -> None:
    """Tables are interpolated at loading, exactly as transformers does at each call."""
    large = new_sam(small_sam_config(128)).vision_encoder
    torch.manual_seed(0)
    for name, parameter in large.named_parameters():
        if "pos" in name:
            torch.nn.init.normal_(parameter)
    ours = use_folded_attention(SamVisionEncoder(small_sam_config(64).vision_config)).eval()
    ours.load_state_dict(fit_encoder_weights(large.state_dict(), ours.state_dict()))
    theirs = SamVisionEncoder(small_sam_config(64).vision_config).eval()
    state = large.state_dict()
    for index, layer in enumerate(theirs.layers):  # transformers resizes tables while running
        for axis in ("rel_pos_h", "rel_pos_w"):
            setattr(layer.attn, axis, torch.nn.Parameter(state[f"layers.{index}.attn.{axis}"]))
    state["pos_embed"] = torch.nn.functional.interpolate(
        state["pos_embed"].permute(0, 3, 1, 2), size=(8, 8), mode="bicubic"
    ).permute(0, 2, 3, 1)
    theirs.load_state_dict(state)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            ours(pixels).last_hidden_state, theirs(pixels).last_hidden_state, atol=1e-5, rtol=1e-5
        )


def test_presets_have_the_published_sizes() -> None:
    with torch.device("meta"):
        sizes = {
            name: sum(p.numel() for p in SamVisionEncoder(base_config(name).vision_config).parameters())
            for name in ("vit-b", "vit-l", "facebook/sam-vit-huge")
        }
    assert sizes == {"vit-b": 89_670_912, "vit-l": 308_278_272, "facebook/sam-vit-huge": 637_026_048}


def test_folder_without_a_sam_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a file or folder, got none at this path"):
        base_config(tmp_path / "nothing")
    model = new_sam(small_sam_config())
    del model.mask_decoder.iou_token
    model.save_pretrained(tmp_path / "partial")
    with pytest.raises(InputError, match="expected the tensors of a SAM"):
        load_base(tmp_path / "partial")


def test_fingerprint_depends_on_every_value() -> None:
    model = new_sam(small_sam_config()).vision_encoder
    before = fingerprint_of(model.state_dict())
    with torch.no_grad():
        model.neck.conv1.weight[0, 0] += 1e-3
    assert fingerprint_of(model.state_dict()) != before


def test_a_pruned_sam_keeps_its_widths(tmp_path: Path) -> None:
    """SlimSAM's heads and MLPs are narrower than a ViT's of its depth; all widths come from its configuration."""
    config = small_sam_config()
    config.vision_config.hidden_size, config.vision_config.mlp_dim = 168, 100
    config.vision_config.num_attention_heads = 12  # of width 14, which is no multiple of 8
    sam = new_sam(config, seed=2).double().eval()
    sam.save_pretrained(tmp_path / "slim")
    model = PlugModel.from_base(tmp_path / "slim", PlugConfig(image_size=64, lora_rank=2, refine_channels=8)).double()
    assert model.vision_encoder.layers[0].attn.lora.down.shape == (2, 2, 2, 168)
    pixels, boxes = torch.randn(2, 3, 64, 64).double(), torch.tensor([[[8.0, 8.0, 40.0, 48.0]]]).expand(2, -1, -1)
    with torch.no_grad():
        theirs = sam(pixel_values=pixels, input_boxes=boxes.double(), multimask_output=False)
        expected = torch.nn.functional.interpolate(theirs.pred_masks[:, :, 0], size=(64, 64), mode="bilinear")
        torch.testing.assert_close(model(pixels, boxes).pred_masks, expected, atol=1e-5, rtol=1e-5)
    model.float().save_pretrained(tmp_path / "plug")
    again = PlugModel.from_pretrained(tmp_path / "plug")
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
