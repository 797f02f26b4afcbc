"""Two processes give the same training as one process with twice the accumulation."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from amodal.models.aura import AuraModel
from amodal.training import loop
from amodal.training.build import TrainingSetup, build
from amodal.training.checkpoint import full_model
from amodal.training.loop import train
from amodal.training.recipe import Recipe
from tests.models.aura import small_aura
from tests.models.families import ROWS
from tests.training.processes import FSDP2, error_of, finish, start
from tests.training.tiny import tiny_recipe

DDP: dict[str, str] = {}


def written(recipe: Recipe, folder: Path, **training: object) -> Path:
    settings = recipe.training.model_copy(update=training)
    moved = recipe.model_copy(update={"output": str(folder / "run"), "training": settings})
    folder.mkdir(exist_ok=True)
    file = folder / "recipe.yaml"
    file.write_text(moved.model_dump_json())
    return file


def values(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("time", "samples_per_s")} for line in lines]


def as_one(recipe: Recipe, folder: Path, strategy: dict[str, str] = DDP) -> Path:
    """Train in one process with half the batch size and twice the accumulation; returns the run folder.

    The weights get FSDP2's layout for a comparison with it, because convolutions sum in another order in another one.
    """
    settings = recipe.training.model_copy(
        update={"batch_size": recipe.training.batch_size // 2, "accumulation": 2 * recipe.training.accumulation}
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the two processes, because two threads sum products in another order
    try:
        with pytest.MonkeyPatch.context() as patch:
            if strategy is FSDP2:
                patch.setattr(loop, "build", contiguous)
            train(recipe.model_copy(update={"output": str(folder / "run"), "training": settings}), progress=False)
    finally:
        torch.set_num_threads(threads)
    return folder / "run"


def contiguous(recipe: Recipe) -> TrainingSetup:
    setup = build(recipe)
    setup.model.to(memory_format=torch.contiguous_format)
    return setup


def assert_same_run(a: Path, b: Path) -> None:
    """Losses and scores agree to 1e-6, weights as far as AdamW's division by tiny second moments allows.

    The bias of an attention's keys adds the same to all scores of a query, so that its gradient is rounding errors
    alone, which AdamW scales to whole steps. It has no effect, and is not compared.
    """
    for one, two in zip(values(a), values(b), strict=True):
        assert one == pytest.approx(two, abs=1e-6)
    states = [load_file(sorted((out / "checkpoints").glob("step_*"))[-1] / "model.safetensors") for out in (a, b)]
    assert states[0].keys() == states[1].keys()
    compared = [name for name in states[0] if not name.endswith("k_proj.bias")]
    assert len(compared) > 0.9 * len(states[0])
    for name in compared:
        torch.testing.assert_close(states[0][name], states[1][name], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("task", "strategy", "name"),
    [
        ("plug", DDP, "MULTI_CPU"),
        pytest.param("plug", FSDP2, "FSDP2", marks=pytest.mark.slow),
        pytest.param("sam", DDP, "MULTI_CPU", marks=pytest.mark.slow),
        pytest.param("sam", FSDP2, "FSDP2", marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_as_one(tmp_path: Path, task: str, strategy: dict[str, str], name: str) -> None:
    model = {"points_share": 0.5} if task == "sam" else {}
    recipe = tiny_recipe(tmp_path, task, model=model, learning_rate=1e-3, ema=0.9)
    one = as_one(recipe, tmp_path / "one", strategy)
    file = written(recipe, tmp_path / "two")
    finish(start(file, 2, **strategy), file)
    assert_same_run(one, tmp_path / "two" / "run")
    versions = json.loads((tmp_path / "two" / "run" / "versions.json").read_text())
    assert (versions["strategy"], versions["processes"]) == (name, 2)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [DDP, FSDP2], ids=["ddp", "fsdp2"])
@pytest.mark.parametrize(
    ("family", "prompted"), [*((name, False) for name in ROWS if name != "sam"), ("conv_prompt", True)]
)
def test_two_processes_train_plug_on_every_family_as_one(
    tmp_path: Path, family: str, prompted: bool, strategy: dict[str, str]
) -> None:
    ROWS[family].model().save_pretrained(tmp_path / family)
    model = {"base": str(tmp_path / family), "image_size": 64, "point_loss": False, "prompted_encoder": prompted}
    recipe = tiny_recipe(tmp_path, "plug", model=model, learning_rate=1e-3, ema=0.9)
    one = as_one(recipe, tmp_path / "one", strategy)
    file = written(recipe, tmp_path / "two")
    finish(start(file, 2, **strategy), file)
    assert_same_run(one, tmp_path / "two" / "run")


def test_a_sharded_aura_is_saved_with_its_processor(tmp_path: Path) -> None:
    model = small_aura(tmp_path)
    accelerator: Any = SimpleNamespace(
        distributed_type=DistributedType.FSDP,
        is_main_process=True,
        get_state_dict=lambda model: model.state_dict(),
        unwrap_model=lambda model: model,
    )
    full: Any = full_model(accelerator, model, AuraModel)
    full.save_pretrained(tmp_path / "saved")
    again = AuraModel.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.slow
def test_sharded_checkpoints_resume(tmp_path: Path) -> None:
    model = {"point_loss": False}  # rounding of the gradients would change which points are sampled
    recipe = tiny_recipe(tmp_path, "plug", model=model, checkpoint_every=1, ema=0.9, accumulation=2)
    uninterrupted = written(recipe, tmp_path / "whole")
    finish(start(uninterrupted, 2, **FSDP2), uninterrupted)
    short = written(recipe, tmp_path / "stopped", max_minutes=1e-9)  # one step per call
    for _ in range(3):
        finish(start(short, 2, **FSDP2), short)
    rest = written(recipe, tmp_path / "stopped")
    finish(start(rest, 2, **FSDP2), rest)
    whole, stopped = tmp_path / "whole/run", tmp_path / "stopped/run"
    losses = [[line for line in values(out) if "loss" in line] for out in (whole, stopped)]  # stopped runs validate too
    assert losses[0] == losses[1]
    weights = [load_file(out / "checkpoints/step_0000004/model.safetensors") for out in (whole, stopped)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    for one, two in zip(values(as_one(recipe, tmp_path / "one")), values(whole), strict=True):
        assert one == pytest.approx(two, abs=1e-6)


@pytest.mark.slow
def test_a_batch_size_that_the_processes_cannot_divide_is_rejected(tmp_path: Path) -> None:
    file = written(tiny_recipe(tmp_path), tmp_path / "two", batch_size=3)
    for process in (running := start(file, 2)):
        process.join(120)
    assert all(process.exitcode != 0 for process in running)
    expected = "training.batch_size: expected a multiple of the 2 processes, got 3"
    assert all(expected in error_of(file, rank) for rank in "01")
