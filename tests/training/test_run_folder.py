"""A run folder belongs to the recipe that its run began with, and a fork starts a new one from its last weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from amodal.errors import InputError
from amodal.models.aura import AuraModel
from amodal.models.bases.conv_prompt import ConvPromptModel
from amodal.models.plug import PlugModel
from amodal.training.build import build
from amodal.training.loop import train
from amodal.training.recipe import Recipe, load_recipe
from tests.recipes.test_aura import small_recipe
from tests.training.processes import FSDP2, error_of, finish, start
from tests.training.tiny import tiny_recipe


def run(recipe: Recipe | Path, **options: Any) -> Path:
    return train(recipe, progress=False, **options)


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time of change and bytes of every file below a folder."""
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file()}


def weights(out: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoints" / f"step_{step:07d}" / "model.safetensors")


def other_data(folder: Path) -> str:
    """Another annotation file with the same content."""
    copy = folder / "other"
    shutil.copytree(folder / "toy", copy, dirs_exist_ok=True)
    return str(copy / "annotations.json")


@pytest.mark.parametrize("stop_after", [None, 2])
def test_a_run_refuses_another_seed_and_writes_nothing(tmp_path: Path, stop_after: int | None) -> None:
    recipe = tiny_recipe(tmp_path)
    run(recipe, stop_after=stop_after)
    before = contents(tmp_path)
    with pytest.raises(
        InputError,
        match=r"^recipe: expected the one that the run in '.*/run' began with \(recipe\.yaml\), got seed 1 instead of "
        r"0; choose another output, or --fork NAME for a new run from its last weights$",
    ):
        run(recipe.model_copy(update={"seed": 1}))
    assert contents(tmp_path) == before


def test_a_run_refuses_other_data_and_names_at_most_three_keys(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    run(recipe)
    source = recipe.data.train[0].model_dump()
    annotations = other_data(tmp_path)
    given = tiny_recipe(tmp_path, data={"train": [source | {"annotations": annotations}, source]})
    with pytest.raises(InputError, match=r"got data\.train\.0\.annotations \"\S*\.\.\. instead of \"\S*") as error:
        run(given)
    assert 'data.train.1 {"format": "canonical", ' in str(error.value)
    assert "... instead of no value; choose" in str(error.value)
    assert "\n" not in str(error.value)
    many = tiny_recipe(tmp_path, steps=5, batch_size=2, warmup_steps=2, ema=0.5, validate_every=1)
    with pytest.raises(
        InputError, match=r"steps 5 instead of 4, .*batch_size 2 instead of 4, .* instead of 1 and 2 more; choose"
    ):
        run(many)


def test_the_recipe_in_the_run_folder_is_written_once(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    file = tmp_path / "run" / "recipe.yaml"
    run(recipe, stop_after=1)
    first = contents(tmp_path / "run")[str(file)]
    run(tiny_recipe(tmp_path, log_every=2, trackers=[]))
    run(recipe)  # finished
    assert contents(tmp_path / "run")[str(file)] == first
    assert load_recipe(file) == recipe


def test_keys_that_may_change_do_not_change_the_weights(tmp_path: Path) -> None:
    straight, resumed = (tiny_recipe(tmp_path).model_copy(update={"output": str(tmp_path / n)}) for n in "ab")
    run(straight)
    run(resumed, stop_after=1)
    (tmp_path / "b").rename(tmp_path / "c")  # a run folder may move
    values = {"workers": 1, "log_every": 3, "checkpoint_every": 4, "max_minutes": 60.0, "picture_objects": 0}
    training = resumed.training.model_copy(update=values | {"trackers": []})
    run(resumed.model_copy(update={"output": str(tmp_path / "c"), "training": training}))
    a, b = weights(tmp_path / "a", 4), weights(tmp_path / "c", 4)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_step_that_the_run_has_passed_is_no_place_to_stop(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, "plug")
    run(recipe, stop_after=2)
    run(recipe, stop_after=2)
    with pytest.raises(InputError, match="stop-after: expected a step from 2 on, where the run is, got 1"):
        run(recipe, stop_after=1)


def test_a_run_of_an_older_version_resumes(tmp_path: Path) -> None:
    """Its recipe lacks keys that were added later."""
    recipe = tiny_recipe(tmp_path, "plug")
    run(recipe, stop_after=2)
    file = tmp_path / "run" / "recipe.yaml"
    content = yaml.safe_load(file.read_text())
    del content["data"]["mask_prompt_share"], content["data"]["mask_prompt_noise"], content["model"]["mask_prompts"]
    file.write_text(yaml.safe_dump(content))
    run(recipe)
    assert weights(tmp_path / "run", 4)
    assert yaml.safe_load(file.read_text()) == content
    content["training"]["momentum"] = 0.5  # a key of a version that this one does not know
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=r"recipe .*/run/recipe\.yaml: training\.momentum: unknown key"):
        run(recipe)


@pytest.mark.parametrize("task", ["plug", pytest.param("sam", marks=pytest.mark.slow)])
def test_a_fork_starts_from_the_last_weights(tmp_path: Path, task: str) -> None:
    recipe = tiny_recipe(tmp_path, task, ema=0.9)  # the saved model has the averaged weights instead
    run(recipe)
    versions = json.loads((tmp_path / "run" / "versions.json").read_text())
    before = contents(tmp_path / "run")
    given = tiny_recipe(tmp_path, task, learning_rate=1e-4, steps=3).model_copy(update={"seed": 1})
    model = run(given, fork="second", stop_after=1)
    second = tmp_path / "second"
    assert model == second / "model"
    assert contents(tmp_path / "run") == before
    last, started = weights(tmp_path / "run", 4), build(load_recipe(second / "recipe.yaml")).model.state_dict()
    assert all(torch.equal(started[name], last[name]) for name in last)
    saved = (PlugModel if task == "plug" else ConvPromptModel).from_pretrained(tmp_path / "run" / "model").state_dict()
    assert started.keys() == saved.keys() and not all(torch.equal(started[name], saved[name]) for name in last)
    assert all(torch.equal(started[name], saved[name]) for name in started.keys() - last.keys())

    assert load_recipe(second / "recipe.yaml") == given.model_copy(
        update={"output": str(second), "init": str(second / "init")}
    )
    assert json.loads((second / "log.jsonl").read_text().splitlines()[0])["step"] == 1
    origin = {"folder": str(tmp_path / "run"), "step": 4, "commit": versions["commit"]}
    assert json.loads((second / "versions.json").read_text())["forked_from"] == origin
    run(second / "recipe.yaml")  # resumes the fork
    assert json.loads((second / "versions.json").read_text())["forked_from"] == origin
    assert not list(tmp_path.glob(".writing_*"))
    straight = given.model_copy(update={"output": str(tmp_path / "third"), "init": str(second / "init")})
    run(straight)
    a, b = weights(second, 3), weights(tmp_path / "third", 3)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("changes", [{}, {"train_mllm": True, "lora_rank": 0}], ids=["lora", "whole"])
def test_aura_forks(tmp_path: Path, changes: dict[str, Any]) -> None:
    recipe = small_recipe(tmp_path, changes, steps=2, validate_every=1, ema=0.9)
    run(recipe)
    second = small_recipe(tmp_path, changes, steps=1, learning_rate=1e-5)
    folder = run(second, fork="second")
    last, started = weights(tmp_path / "run", 2), build(load_recipe(tmp_path / "second" / "recipe.yaml")).model
    assert isinstance(started, AuraModel) and started.processor is not None
    assert all(torch.equal(started.state_dict()[name], last[name]) for name in last)
    saved = AuraModel.from_pretrained(tmp_path / "run" / "model")
    assert saved.processor is not None
    assert started.processor.mllm.tokenizer.get_vocab() == saved.processor.mllm.tokenizer.get_vocab()
    assert AuraModel.from_pretrained(folder).config.to_dict() == saved.config.to_dict()


def test_a_fork_that_was_killed_before_its_first_checkpoint_starts_again_from_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(tmp_path)
    run(recipe, stop_after=2)
    with monkeypatch.context() as patch:
        patch.setattr("amodal.training.loop._TrainingRun.train_from", lambda *_: None)  # ends before the first step
        run(recipe, fork="second")
    first = weights(tmp_path / "run", 2)
    run(recipe)  # the other run continues
    started = build(load_recipe(tmp_path / "second" / "recipe.yaml")).model.state_dict()
    assert all(torch.equal(started[name], first[name]) for name in first)


def test_a_fork_that_cannot_start_writes_nothing(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    with pytest.raises(InputError, match="fork: expected a run with a checkpoint and a model in '.*/run', got none"):
        run(recipe, fork="second")
    run(recipe)
    (tmp_path / "taken").mkdir()
    before = contents(tmp_path)
    for name in ("taken", "run"):
        with pytest.raises(InputError, match=f"fork: expected the name of a new folder, got '.*/{name}', which exists"):
            run(recipe, fork=name)
    for name in ("", "..", "a/b", "/tmp/x", "."):
        with pytest.raises(InputError, match=r"fork: expected the name of a new folder beside '.*/run', got "):
            run(recipe, fork=name)
    with pytest.raises(InputError, match="init: expected a model of the recipe's sizes, got '.*/run/model'"):
        run(tiny_recipe(tmp_path, model={"output_channels": 24}), fork="second")
    with pytest.raises(InputError, match="/run/model"):
        run(tiny_recipe(tmp_path, "plug").model_copy(update={"output": recipe.output}), fork="second")
    base = str(tmp_path / "base")
    assert {k: v for k, v in contents(tmp_path).items() if not k.startswith(base)} == before
    assert not (tmp_path / "second").exists() and not list(tmp_path.glob(".writing_*"))
    last = tmp_path / "run" / "checkpoints" / "step_0000004" / "model.safetensors"
    save_file({"foreign": torch.zeros(1)}, last)
    with pytest.raises(
        InputError, match=r"fork: expected the checkpoint and the model of one run, got .*\['foreign'\]"
    ):
        run(recipe, fork="second")
    last.unlink()  # as in a checkpoint of DeepSpeed
    with pytest.raises(InputError, match="fork: expected a run with a checkpoint and a model"):
        run(recipe, fork="second")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [{}, FSDP2], ids=["ddp", "fsdp2"])
def test_all_processes_fork_and_refuse_together(tmp_path: Path, strategy: dict[str, str]) -> None:
    recipe = tiny_recipe(tmp_path, "plug", ema=0.9)
    file, other = tmp_path / "file.yaml", tmp_path / "other.yaml"
    file.write_text(recipe.model_dump_json())
    other.write_text(recipe.model_copy(update={"seed": 1}).model_dump_json())
    finish(start(file, 2, **strategy), file)
    before = contents(tmp_path / "run")
    for process in (running := start(other, 2, **strategy)):
        process.join(120)
    assert all(process.exitcode != 0 for process in running)
    assert all("got seed 1 instead of 0" in error_of(other, rank) for rank in "01")
    assert contents(tmp_path / "run") == before
    finish(start(other, 2, fork="second", **strategy), file)
    last = weights(tmp_path / "run", 4)
    started = build(load_recipe(tmp_path / "second" / "recipe.yaml")).model.state_dict()
    assert all(torch.equal(started[name], last[name]) for name in last)
    assert weights(tmp_path / "second", 4)
