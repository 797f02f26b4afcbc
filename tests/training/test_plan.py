"""The computed memory and number of steps of a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from amodal.cli.main import main
from amodal.errors import InputError
from amodal.models.bases.families import base_config
from amodal.models.plug import PlugConfig, PlugModel
from amodal.nn.kernels import forced_kernel
from amodal.training.plan import fake_aura, plan, saved_for_backward, saved_for_masks, saved_for_words
from amodal.training.recipe import Recipe, load_recipe
from amodal.training.tasks.aura import AuraTask
from amodal.training.tasks.plug import PlugTask
from tests.models.aura import ANSWER, small_aura, training_batch
from tests.models.families import ROWS
from tests.recipes.test_aura import small_recipe
from tests.training.tiny import tiny_base, tiny_recipe

ROOT = Path(__file__).parents[2]


def small(folder: Path, **training: Any) -> Recipe:
    return tiny_recipe(folder, "plug", **training)


@pytest.mark.parametrize("refine", [True, False])
@pytest.mark.parametrize("family", sorted(ROWS))
def test_every_family_of_bases_can_be_planned(tmp_path: Path, family: str, refine: bool) -> None:
    ROWS[family].model().save_pretrained(tmp_path / "base")
    settings = {"base": str(tmp_path / "base"), "image_size": 64, "refine": refine}
    memory = plan(tiny_recipe(tmp_path, "plug", settings))
    assert json.loads(json.dumps(memory))


@pytest.mark.parametrize("num_prompts", [1, 3])
def test_the_count_equals_what_autograd_saves(tmp_path: Path, num_prompts: int) -> None:
    """Compared with a real step of the same model in float32."""
    config = PlugConfig(sam=base_config(tiny_base(tmp_path)), image_size=32, num_points=16, refine_channels=8)
    saved, layer_inputs, counts = saved_for_backward(PlugTask(config), "no", num_prompts)
    assert layer_inputs == 2 * (1 + 2 + 2) * 4 * 4 * 24  # bfloat16; only the first of three layers gets one branch
    model = PlugModel(config).train()
    assert counts["parameters"] == sum(p.numel() for p in model.parameters())
    assert counts["trained"] == sum(p.numel() for p in model.parameters() if p.requires_grad)
    box = torch.tensor([[[4.0, 4.0, 20.0, 24.0]]]).repeat(1, num_prompts, 1)
    maps = torch.zeros(1, num_prompts, 32, 32, dtype=torch.bool)
    yes = torch.ones(1, num_prompts, dtype=torch.bool)
    batch = {"pixel_values": torch.zeros(1, 3, 32, 32), "input_boxes": box, "valid": yes, "has_amodal": yes}
    batch |= {"visible_masks": maps, "amodal_masks": maps.clone()}
    assert sum(saved.values()) == pytest.approx(really_saved(PlugTask(config), model, batch), rel=0.15)


@pytest.mark.parametrize("changes", [{}, {"spatial_encoder": False, "condition_encoder": False}])
def test_the_count_of_aura_equals_what_autograd_saves(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Compared with a real step of the same model in float32."""
    model = small_aura(tmp_path, **changes).train()
    batch = training_batch(model, (ANSWER,))
    with FakeTensorMode(), forced_kernel("fused"):
        fake = fake_aura(model.config, "no")
        words, layer_inputs = saved_for_words(fake, batch["input_ids"].shape[1], "no")
        masks = saved_for_masks(fake, 3, "no")
    assert layer_inputs == 2 * batch["input_ids"].numel() * 24 * 4  # two layers of 24 float32 channels
    maps = torch.zeros(3, 64, 64, dtype=torch.bool)
    batch |= {"visible_masks": maps, "amodal_masks": maps, "has_amodal": torch.ones(3, dtype=torch.bool)}
    saved = really_saved(AuraTask(model.config), model, batch)
    assert sum(words.values()) + masks == pytest.approx(saved, rel=0.15)


def really_saved(task: Any, model: torch.nn.Module, batch: dict[str, Any]) -> int:
    """Bytes that autograd saves of a step, without the weights."""
    own, seen = {p.untyped_storage().data_ptr() for p in model.parameters()}, dict[int, tuple[int, torch.Tensor]]()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = task(model, batch, torch.Generator())
        torch.stack(list(losses.values())).sum()
    return sum(size for size, _ in seen.values())


def test_more_prompts_per_crop_take_more_memory() -> None:
    """A plan had counted one prompt, whatever the recipe says."""
    recipes = [load_recipe(ROOT / "recipes/plug/small.yaml", [f"data.num_prompts={number}"]) for number in (1, 2)]
    one, two = (plan(recipe)["activations_per_crop"] for recipe in recipes)
    assert 1.5 * one < two < 2 * one


def test_memory_adds_up_and_steps_follow_the_objects(tmp_path: Path) -> None:
    recipe = small(tmp_path, steps=None, epochs=3, batch_size=4, accumulation=2)
    computed = plan(recipe, processes=2, objects=80)
    assert (computed["crops_per_process"], computed["iterations"], computed["iterations_per_epoch"]) == (2, 30, 10.0)
    assert "iterations" not in plan(recipe)
    assert plan(small(tmp_path, steps=7))["iterations"] == 7


def test_the_memory_of_aura_adds_up() -> None:
    """At full size, because all parts of a model for unit tests round to 0.00 GiB; the headers have checkpointing."""
    changes = ["training.gradient_checkpointing=false", "training.batch_size=4", "training.steps=null"]
    changes += ["training.epochs=3", "model.base=vit-b", "data.max_masks=2"]
    recipe = load_recipe(ROOT / "recipes/aura/llava-7b-vit-h.yaml", changes)
    counted = plan(recipe, processes=2, objects=160)
    parts = ("language_model", "lora", "backbone", "heads", "gradients", "optimizer")
    per_sequence = counted["activations_of_words"] + counted["activations_of_masks"]
    assert counted["total"] == pytest.approx(sum(counted[part] for part in parts) + 2 * per_sequence, abs=0.1)
    assert counted["language_model"] == pytest.approx(2 * 7_063_427_072 / 2**30, abs=0.01)  # 2 bytes each
    assert counted["activations_of_words_checkpointed"] < counted["activations_of_words"] / 4
    assert (counted["sequences_per_process"], counted["masks_per_sequence"]) == (2, 2)
    assert (counted["iterations"], counted["iterations_per_epoch"]) == (30, 10.0)


@pytest.mark.parametrize("task", ["plug", "aura"])
def test_plan_and_info_agree(tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = small(tmp_path) if task == "plug" else small_recipe(tmp_path)
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.model_dump_json())
    capsys.readouterr()
    assert main(["info", str(file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    counted = plan(recipe)
    assert (told["trainable"], told["incremental"]) == (counted["trained"], counted["stored"])
    if task == "aura":
        assert told["total"] == counted["parameters"]
    else:  # `info` leaves out the fixed Fourier features of the prompt encoder
        assert 0 < counted["parameters"] - told["total"] <= 2 * 256


def test_checkpointing_trades_memory_for_time() -> None:
    usual = load_recipe(ROOT / "recipes/plug/kins-vit-b.yaml")
    checkpointed = load_recipe(ROOT / "recipes/plug/kins-vit-b.yaml", ["training.gradient_checkpointing=true"])
    a, b = plan(usual, processes=8), plan(checkpointed, processes=8)
    assert a["activations_per_crop_checkpointed"] < a["activations_per_crop"]
    fixed = a["weights"] + a["gradients"] + a["optimizer"]
    assert a["total"] == pytest.approx(fixed + 16 * a["activations_per_crop"], abs=0.15)
    assert b["total"] == pytest.approx(fixed + 16 * b["activations_per_crop_checkpointed"], abs=0.15)


def test_recipes_without_a_plan_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="plan: expected a recipe with task 'plug' or 'aura', got 'sam'"):
        plan(tiny_recipe(tmp_path))
    for model in ({"train_vision": True}, {"train_mllm": True, "lora_rank": 0}):
        with pytest.raises(InputError, match="plan: expected a recipe that trains neither the vision tower nor"):
            plan(small_recipe(tmp_path, model))
    with pytest.raises(InputError, match=r"training\.batch_size: expected a multiple of the 3 processes, got 4"):
        plan(small(tmp_path), processes=3)


def test_the_command_prints_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(small(tmp_path, batch_size=4).model_dump_json())
    assert main(["train", str(file), "--plan", "--processes", "2", "--json"]) == 0
    computed = json.loads(capsys.readouterr().out)
    assert computed["crops_per_process"] == 2
    assert not (tmp_path / "run").exists()
