"""PLUG's contracts: it starts as SAM, trains what it declares, is saved and loaded exactly, and batches."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import SamModel

from amodal.errors import InputError
from amodal.models.increments import INCREMENT, increment_state
from amodal.models.plug import PlugConfig, PlugModel
from amodal.models.plug.modeling import parameter_counts
from tests.models.conftest import small_sam_config

BOXES = torch.tensor([[[8.0, 8.0, 40.0, 48.0], [20.0, 4.0, 60.0, 30.0]]])


def trained(model: PlugModel) -> PlugModel:
    """Change every trainable tensor, as training would."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


@pytest.mark.parametrize("parallel", [True, False])
def test_new_model_predicts_what_sam_does(
    sam: SamModel, sam_folder: Path, small_plug: PlugConfig, parallel: bool
) -> None:
    small_plug.parallel_lora = parallel
    model = PlugModel.from_base(sam_folder, small_plug)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours = model(pixels, BOXES)
        theirs = sam(pixel_values=pixels, input_boxes=BOXES, multimask_output=False)
    expected = torch.nn.functional.interpolate(theirs.pred_masks[:, :, 0], size=(64, 64), mode="bilinear")
    for logits in (ours.pred_masks, ours.coarse_amodal_logits, ours.visible_logits):
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.iou_scores, theirs.iou_scores[:, :, 0], atol=1e-5, rtol=1e-5)


def test_one_doubled_pass_equals_each_branch_alone(sam_folder: Path, small_plug: PlugConfig) -> None:
    model = trained(PlugModel.from_base(sam_folder, small_plug))
    pixels = torch.randn(3, 3, 64, 64)
    plain = PlugConfig.from_dict(model.config.to_dict() | {"parallel_lora": False})
    with torch.no_grad():
        both = model.encode(pixels)
        for branch in range(2):
            alone = PlugModel(plain).eval()
            state = {k: v[branch : branch + 1] if ".attn.lora." in k else v for k, v in model.state_dict().items()}
            alone.load_state_dict(state)
            torch.testing.assert_close(alone.encode(pixels)[0], both[branch], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(both[0].embedding, both[1].embedding)


def test_only_declared_parameters_move(sam_folder: Path, small_plug: PlugConfig) -> None:
    model = trained(PlugModel.from_base(sam_folder, small_plug))  # B = 0 would leave A without gradient
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    output = model(torch.randn(1, 3, 64, 64), BOXES)
    loss = output.pred_masks.square().mean() + output.visible_logits.square().mean()
    loss.backward()
    optimizer.step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed <= increment_state(model).keys()
    for part in ("attn.lora.down", "attn.lora.up", "visible_decoder", "amodal_decoder"):
        assert any(part in name for name in changed), part
    assert "prompt_encoder.point_embed.2.weight" in changed
    assert any(name.startswith("refine_module") for name in changed)


@pytest.mark.parametrize("merged", [False, True])
def test_save_and_load_is_bitwise(sam_folder: Path, small_plug: PlugConfig, tmp_path: Path, merged: bool) -> None:
    model = trained(PlugModel.from_base(sam_folder, small_plug))
    model.save_pretrained(tmp_path / "plug", merged=merged)
    again = PlugModel.from_pretrained(tmp_path / "plug")
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    stored = (tmp_path / "plug" / INCREMENT).is_file()
    assert stored is not merged


def test_increment_is_small_and_names_its_base(sam_folder: Path, small_plug: PlugConfig, tmp_path: Path) -> None:
    model = PlugModel.from_base(sam_folder, small_plug)
    model.save_pretrained(tmp_path / "plug")
    settings = json.loads((tmp_path / "plug" / "config.json").read_text())
    assert settings["base"]["name_or_path"] == str(sam_folder)
    assert len(settings["base"]["fingerprint"]) == 32
    names = increment_state(model)
    assert not any("qkv" in name or "patch_embed" in name for name in names)
    counts = parameter_counts(model.config)
    assert counts["incremental"] == sum(t.numel() for t in names.values())


def test_loading_on_another_base_is_refused(sam_folder: Path, small_plug: PlugConfig, tmp_path: Path) -> None:
    from amodal.models.bases.sam import new_sam

    PlugModel.from_base(sam_folder, small_plug).save_pretrained(tmp_path / "plug")
    new_sam(small_sam_config(), seed=9).save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="expected weights with fingerprint"):
        PlugModel.from_pretrained(tmp_path / "plug", base=tmp_path / "other")
    PlugModel.from_pretrained(tmp_path / "plug", base=sam_folder)


def test_damaged_increments_are_refused(sam_folder: Path, small_plug: PlugConfig, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "plug"
    PlugModel.from_base(sam_folder, small_plug).save_pretrained(folder)
    tensors = load_file(folder / INCREMENT)
    first = next(iter(tensors))
    save_file({k: v for k, v in tensors.items() if k != first}, folder / INCREMENT)
    with pytest.raises(InputError, match="1 missing"):
        PlugModel.from_pretrained(folder)
    save_file(tensors | {"foreign_tensor": torch.zeros(1)}, folder / INCREMENT)
    with pytest.raises(InputError, match="1 foreign .'foreign_tensor'"):
        PlugModel.from_pretrained(folder)
    save_file(tensors | {first: torch.zeros(1, 1, 1)}, folder / INCREMENT)
    with pytest.raises(InputError, match="1 of another shape"):
        PlugModel.from_pretrained(folder)
    (folder / INCREMENT).write_bytes(b"not tensors")
    with pytest.raises(InputError, match="expected a safetensors file"):
        PlugModel.from_pretrained(folder)
    (folder / INCREMENT).unlink()
    with pytest.raises(InputError, match="got neither"):
        PlugModel.from_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="expected a segmenter .*, got model_type 'bert'"):
        PlugModel.from_pretrained(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="expected a readable config.json"):
        PlugModel.from_pretrained(folder)


def test_unknown_model_and_base_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a bundled name"):
        PlugModel.from_pretrained("no-such-model")
    with pytest.raises(InputError, match="expected a file or folder, got none at this path"):
        PlugModel.from_base(tmp_path / "nothing")


def test_increment_on_random_weights_needs_its_base(small_plug: PlugConfig, tmp_path: Path) -> None:
    PlugModel.from_base(small_sam_config(), small_plug).save_pretrained(tmp_path / "plug")
    with pytest.raises(InputError, match="trained on a base with random weights"):
        PlugModel.from_pretrained(tmp_path / "plug")


def test_batched_equals_single(sam_folder: Path, small_plug: PlugConfig) -> None:
    model = trained(PlugModel.from_base(sam_folder, small_plug))
    pixels = torch.randn(3, 3, 64, 64)
    boxes = BOXES.expand(3, -1, -1) + torch.arange(3).view(3, 1, 1)
    with torch.no_grad():
        together = model(pixels, boxes)
        for image in range(3):
            for prompt in range(2):
                one = slice(image, image + 1), slice(prompt, prompt + 1)
                alone = model(pixels[one[0]], boxes[one])
                torch.testing.assert_close(alone.pred_masks, together.pred_masks[one], atol=1e-4, rtol=1e-4)


def test_rows_of_table_2_are_configurations(sam_folder: Path) -> None:
    rows = {
        "fine-tuning": {"point_loss": False, "refine": False, "parallel_lora": False, "visible_branch": False},
        "refine module": {"parallel_lora": False},
        "parallel LoRA": {},
    }
    for name, changes in rows.items():
        config = PlugConfig(image_size=64, lora_rank=2, refine_channels=8, **changes)
        model = PlugModel.from_base(sam_folder, config)
        output = model(torch.randn(1, 3, 64, 64), BOXES)
        assert (output.visible_logits is None) == (name == "fine-tuning")
        assert model.config.num_branches == (2 if name == "parallel LoRA" else 1)
        assert output.pred_masks.shape == (1, 2, 64, 64)


def test_increment_includes_a_base_that_was_trained(sam_folder: Path, tmp_path: Path) -> None:
    config = PlugConfig(image_size=64, lora_rank=2, refine_channels=8, train_base=True)
    model = trained(PlugModel.from_base(sam_folder, config))
    model.save_pretrained(tmp_path / "plug")
    again = PlugModel.from_pretrained(tmp_path / "plug")
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("rank", "lora", "paper_millions"),
    [(4, 1_310_720, 8.8), (8, 2_621_440, 10.0), (16, 5_242_880, 12.7), (32, 10_485_760, 17.9)],
)
def test_parameters_of_the_paper(rank: int, lora: int, paper_millions: float) -> None:
    from amodal.models.bases.families import base_config

    counts = parameter_counts(PlugConfig(sam=base_config("vit-h"), lora_rank=rank))
    assert counts["lora"] == lora
    assert counts["incremental"] == pytest.approx(paper_millions * 1e6, rel=0.03)
    assert counts["total"] == counts["base"] + counts["incremental"]  # the base is frozen


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_size", 100), ("lora_rank", -1), ("epsilon", 0), ("num_points", 0), ("oversample", 0),
        ("importance", 1.5), ("crop_scale", 0.5), ("mask_threshold", 1.0), ("box_source", "guess"),
    ],
)  # fmt: skip
def test_configuration_refuses_impossible_values(field: str, value: object) -> None:
    with pytest.raises(InputError, match=f"{field}: expected .*, got {value!r}"):
        PlugConfig(**{field: value})


def test_refine_module_needs_the_visible_branch() -> None:
    with pytest.raises(InputError, match="refine: expected False without visible_branch"):
        PlugConfig(visible_branch=False)


def test_bfloat16_model_keeps_coordinates_exact(sam_folder: Path, small_plug: PlugConfig) -> None:
    model = PlugModel.from_base(sam_folder, small_plug).to(torch.bfloat16)
    assert model.prompt_encoder.shared_embedding.positional_embedding.dtype == torch.float32
    with torch.no_grad():
        output = model(torch.randn(1, 3, 64, 64), BOXES)
    assert output.pred_masks.isfinite().all()


def test_autocast_keeps_coordinates_exact(sam_folder: Path, small_plug: PlugConfig) -> None:
    model = PlugModel.from_base(sam_folder, small_plug)
    features = model.prompt_encoder.shared_embedding
    points = torch.rand(1, 5, 2, 2) * 64
    exact = features(points, (64, 64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(features(points, (64, 64)), exact)


@pytest.mark.slow
def test_vit_h_runs_one_forward_in_bfloat16() -> None:
    """In its own process, whose peak memory is the model's; `measure` refuses outputs that are not finite."""
    script = """
import json, torch
from vit_h_forward import measure
print(json.dumps(measure("ours", torch.bfloat16, True, "vit-h", 2)))
"""
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=benchmarks, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["parameters"] > 640_000_000
    assert result["peak_mib"] < 20 * 1024
