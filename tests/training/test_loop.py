from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from amodal.errors import InputError
from amodal.models.bases.conv_prompt import ConvPromptModel
from amodal.models.plug import PlugModel
from amodal.training import loop
from amodal.training.build import build, read_source, step_sampler
from amodal.training.loop import train
from amodal.training.optimizers import learning_rate_factor, total_steps
from amodal.training.recipe import DataRecipe, Recipe, SourceRecipe, TrainingRecipe, parse_recipe
from tests.training.tiny import SAM, tiny_recipe

MIXED = "vision_encoder.backbone.mix.8.project.weight"


def run(recipe: Recipe | Path, **options: Any) -> Path:
    return train(recipe, progress=False, **options)


def moved(recipe: Recipe, output: Path) -> Recipe:
    return recipe.model_copy(update={"output": str(output)})


def log_of(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("task", ["sam", "plug"])
def test_a_resumed_run_gives_the_result_of_an_uninterrupted_one(tmp_path: Path, task: str) -> None:
    recipe = tiny_recipe(tmp_path, task, ema=0.9)
    straight, resumed = moved(recipe, tmp_path / "straight"), moved(recipe, tmp_path / "resumed")
    run(straight)
    run(resumed, stop_after=3)
    run(resumed)
    newest = "checkpoints/step_0000004"
    a, b = (load_file(tmp_path / name / newest / "model.safetensors") for name in ("straight", "resumed"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    averages = [torch.load(tmp_path / name / newest / "average.pt") for name in ("straight", "resumed")]
    assert all(torch.equal(averages[0][name], averages[1][name]) for name in averages[0])
    losses = [[line["loss"] for line in log_of(tmp_path / n) if "loss" in line] for n in ("straight", "resumed")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


def test_a_run_writes_its_recipe_versions_log_and_checkpoints(tmp_path: Path) -> None:
    model = run(tiny_recipe(tmp_path, workers=1))
    assert isinstance(ConvPromptModel.from_pretrained(model), ConvPromptModel)
    out = tmp_path / "run"
    expected = ["recipe.yaml", "versions.json", "log.jsonl", "curves.png", "pictures", "logs", "checkpoints", "model"]
    expected += ["best", "final"]
    assert set(expected) == {path.name for path in out.iterdir()}
    lines = log_of(out)
    assert {"visible_bce", "visible_dice", "quality", "loss", "lr", "samples_per_s"} <= lines[0].keys()
    assert {"val_visible", "val_full", "val_occ"} <= lines[2].keys()
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["step_0000002", "step_0000004"]
    assert list((out / "logs").rglob("events.*"))


def test_plug_trains_with_losses_by_name_and_saves_an_increment(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, "plug", model={"dice_weight": 0.5, "iou_weight": 0.1}, steps=2, accumulation=2)
    folder = run(recipe)
    names = {f"{m}_{k}" for m in ("visible", "amodal", "refined") for k in ("bce", "point", "dice")} | {"quality"}
    assert names <= log_of(tmp_path / "run")[0].keys()
    assert (folder / "increment.safetensors").is_file()
    PlugModel.from_pretrained(folder)


def test_time_limit_ends_with_a_checkpoint_and_a_model(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, steps=50, validate_every=50, checkpoint_every=50, max_minutes=1e-9)
    model = run(recipe)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_0000001"]
    assert (model / "model.safetensors").is_file()


def test_a_process_that_does_not_write_validates_as_often_as_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All processes take part in every validation; a process that decided by the files on disk would block them."""
    monkeypatch.setattr(loop._TrainingRun, "_save_model", lambda *_: None)
    run(tiny_recipe(tmp_path, steps=4, validate_every=2))
    assert sum("val_full" in line for line in log_of(tmp_path / "run")) == 2


@pytest.mark.parametrize("select", ["best", "last"])
def test_the_best_and_the_final_weights_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, select: str) -> None:
    scores = iter([0.5, 0.9, 0.1])
    monkeypatch.setattr(loop, "validate_masks", lambda *_, **__: {"full": next(scores)})
    recipe = tiny_recipe(tmp_path, "plug", steps=6, picture_objects=0, ema=0.5, learning_rate=0.01, select=select)
    out = run(recipe).parent
    weights = {
        name: PlugModel.from_pretrained(out / name).state_dict()
        for name in ("best", "final", "model", "checkpoints/step_0000004", "checkpoints/step_0000006", ".")
    }

    def same(one: str, two: str) -> bool:
        return all(torch.equal(tensor, weights[two][name]) for name, tensor in weights[one].items())

    assert same("best", "checkpoints/step_0000004") and same("final", "checkpoints/step_0000006")
    assert not same("best", "final")
    assert same("model", "best" if select == "best" else "final") and same("model", ".")


def test_a_resumed_run_keeps_the_best_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.1])
    monkeypatch.setattr(loop, "validate_masks", lambda *_, **__: {"full": next(scores)})
    recipe = tiny_recipe(tmp_path, "plug", picture_objects=0, learning_rate=0.01)
    out = run(recipe, stop_after=2).parent
    assert not (out / "final").exists()
    best = (out / "best" / "increment.safetensors").read_bytes()
    run(recipe)
    assert (out / "best" / "increment.safetensors").read_bytes() == best
    assert (out / "final" / "increment.safetensors").read_bytes() != best


def test_the_saved_model_has_the_averaged_weights(tmp_path: Path) -> None:
    folder = run(tiny_recipe(tmp_path, ema=0.5, steps=2, validate_every=2))
    saved = load_file(folder / "model.safetensors")
    last = tmp_path / "run" / "checkpoints" / "step_0000002"
    average = torch.load(last / "average.pt")
    name = "mask_decoder.lateral.0.weight"
    assert torch.equal(saved[name], average[name])
    assert not torch.equal(saved[name], load_file(last / "model.safetensors")[name])


def test_checkpoints_of_another_model_are_refused(tmp_path: Path) -> None:
    run(tiny_recipe(tmp_path, steps=2))
    (tmp_path / "run" / "recipe.yaml").unlink()
    with pytest.raises(InputError, match="output: expected checkpoints of this recipe's model"):
        run(tiny_recipe(tmp_path, model={"output_channels": 24}))
    with pytest.raises(InputError, match=r"output: expected .* to contain average\.pt"):
        run(tiny_recipe(tmp_path, ema=0.9))
    with pytest.raises(InputError, match="output: expected a folder without checkpoints for a new run"):
        run(tiny_recipe(tmp_path), resume=False)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, learning_rate=1e30, clip_grad_norm=0.0, warmup_steps=0)
    with pytest.raises(FloatingPointError, match=r"step 2: expected a finite loss, got nan \(visible_bce.* ids are in"):
        run(recipe)
    content = json.loads((tmp_path / "run" / "not_finite_step_0000002_process_0.json").read_text())
    assert content["step"] == 2
    assert len(content["batch"]) == recipe.training.batch_size
    setup = build(recipe)
    keys = step_sampler(recipe, setup.train, 1, 2).keys(1)
    assert content["batch"] == [setup.train.describe(key) for key in keys]
    assert {"source", "image_id", "annotation_id", "file"} == content["batch"][0].keys()
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))


def test_losses_between_two_log_lines_survive_an_interruption(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, "plug", log_every=3, checkpoint_every=1, steps=6, accumulation=2)
    straight, resumed = moved(recipe, tmp_path / "straight"), moved(recipe, tmp_path / "resumed")
    run(straight)
    for stop in (2, 4):  # the losses of neither step are logged
        run(resumed, stop_after=stop)
    run(resumed)
    a, b = ({x["step"]: x for x in log_of(tmp_path / n) if "loss" in x} for n in ("straight", "resumed"))
    for step in (3, 6):
        assert {k: v for k, v in a[step].items() if k not in ("time", "samples_per_s")} == {
            k: v for k, v in b[step].items() if k not in ("time", "samples_per_s")
        }


def test_no_steps_save_the_untrained_model(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, "plug", steps=0)
    saved = PlugModel.from_pretrained(run(recipe))
    assert all(not name.endswith("lora.up") or not p.any() for name, p in saved.named_parameters())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this device computes in float16")
def test_half_precision_on_a_cpu_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"training\.precision: expected 'bf16' or 'no' on a CPU, got 'fp16'"):
        run(tiny_recipe(tmp_path, precision="fp16"))


@pytest.mark.parametrize(("instructions", "warned"), [(False, True), (True, False)])
@pytest.mark.skipif(torch.cuda.is_available(), reason="the training runs on the GPU")
def test_bf16_without_instructions_for_it_warns(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder, tmp_path: Path, instructions: bool, warned: bool
) -> None:
    monkeypatch.setattr("amodal.training.checkpoint.has_bfloat16", lambda: instructions)
    train(tiny_recipe(tmp_path, precision="bf16"), stop_after=1, progress=False)
    assert any("several times slower than 'no' on this CPU" in str(w.message) for w in recwarn) == warned


@pytest.mark.skipif(not torch.cuda.is_available(), reason="float16 needs a GPU")
def test_half_precision_scales_its_loss(tmp_path: Path) -> None:
    run(tiny_recipe(tmp_path, "plug", precision="fp16"))
    assert torch.load(tmp_path / "run" / "checkpoints" / "step_0000004" / "scaler.pt")["scale"] > 1


def test_gradient_checkpointing_changes_no_number(tmp_path: Path) -> None:
    losses = []
    for checkpointing in (False, True):
        recipe = tiny_recipe(tmp_path, "plug", gradient_checkpointing=checkpointing, steps=2)
        run(moved(recipe, tmp_path / str(checkpointing)))
        losses.append([x["loss"] for x in log_of(tmp_path / str(checkpointing)) if "loss" in x])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_gradient_checkpointing_of_a_convolutional_segmenter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"training\.gradient_checkpointing: expected false for task 'sam', got true"):
        build(tiny_recipe(tmp_path, gradient_checkpointing=True))


def test_gradient_checkpointing_stores_less(tmp_path: Path) -> None:
    kept = []
    for checkpointing in (False, True):
        setup = build(tiny_recipe(tmp_path, "plug"))
        model: Any = setup.model.train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            model(torch.zeros(2, 3, 32, 32), torch.tensor([4.0, 4.0, 20.0, 24.0]).repeat(2, 1, 1))
        kept.append(sum(sizes))
    assert kept[1] < 0.6 * kept[0]


def test_warm_up_then_decay_to_zero() -> None:
    for decay in ("linear", "cosine"):
        factor = learning_rate_factor(TrainingRecipe(steps=100, warmup_steps=10, decay=decay), 100)
        values = [factor(step) for step in range(101)]
        assert values[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
        assert values[10] == 1
        assert all(a >= b for a, b in pairwise(values[10:]))
        assert values[100] == pytest.approx(0)
        assert values[55] == pytest.approx(0.5)


def test_epochs_count_objects() -> None:
    assert total_steps(TrainingRecipe(epochs=3, batch_size=4, accumulation=2), 80) == 30
    assert total_steps(TrainingRecipe(steps=7), 80) == 7


def test_the_sides_of_a_split_share_no_image(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    assert isinstance(recipe.data, DataRecipe)
    whole = recipe.data.train[0]
    split = {"validation_share": 0.5, "split_seed": 3}
    sides = [read_source(whole.model_copy(update={"split": s} | split)).dataset for s in ("train", "validation")]
    paths = [{image.path for image in side.images} for side in sides]
    assert paths[0] and paths[1] and not paths[0] & paths[1]
    assert paths[0] | paths[1] == {image.path for image in read_source(whole).dataset.images}


def test_categories_can_be_excluded(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    annotations = recipe.data.train[0].annotations
    source = read_source(
        SourceRecipe(format="canonical", annotations=annotations, exclude_categories=["red"], weight=2.0)
    )
    assert source.weight == 2.0
    assert source.dataset.num_objects == 4
    with pytest.raises(InputError, match=r"exclude_categories: expected names .* got \['blue'\]"):
        read_source(SourceRecipe(format="canonical", annotations=annotations, exclude_categories=["blue"]))


def test_train_reads_a_recipe_file_with_overrides(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.model_dump_json())
    output = tmp_path / "from_file"
    assert run(file, overrides=["training.steps=1", f"output={output}"]) == output / "model"
    assert len([line for line in log_of(output) if "loss" in line]) == 1
    with pytest.raises(InputError, match="overrides: expected none for a parsed recipe, got some"):
        run(recipe, overrides=["training.steps=1"])


def test_recipes_without_data_are_rejected(tmp_path: Path) -> None:
    content = tiny_recipe(tmp_path).model_dump(mode="json")
    content["data"]["validation"] = []
    with pytest.raises(InputError, match="data: expected sources with at least one usable object"):
        build(parse_recipe(content))


def test_missing_data_is_reported_before_the_base_is_loaded(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, "plug", model={"base": "nobody/has-this"})
    (tmp_path / "toy" / "annotations.json").unlink()
    with pytest.raises(InputError, match="annotations: expected a file, got"):
        build(recipe)


def test_a_trained_base_cannot_be_frozen_afterwards(tmp_path: Path) -> None:
    folder = run(tiny_recipe(tmp_path, "plug", model={"train_base": True}, steps=0))
    frozen = tiny_recipe(tmp_path, "plug").model_copy(update={"init": str(folder), "output": str(tmp_path / "b")})
    with pytest.raises(InputError, match="init: expected a model on a frozen base, .* got '.*', which has trained its"):
        build(frozen)


def test_init_on_another_base_keeps_the_new_base(tmp_path: Path) -> None:
    """Otherwise the increment would name the new base, but belong to the old one."""
    bases = []
    for seed in (1, 2):
        recipe = tiny_recipe(tmp_path, steps=0)
        bases.append(run(recipe.model_copy(update={"seed": seed, "output": str(tmp_path / str(seed))})))
    models = [{"base": str(base), "image_size": SAM["image_size"]} for base in bases]
    first = build(tiny_recipe(tmp_path, "plug", models[0])).model
    with torch.no_grad():
        for parameter in first.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    first.save_pretrained(tmp_path / "first")
    recipe = tiny_recipe(tmp_path, "plug", models[1]).model_copy(update={"init": str(tmp_path / "first")})
    started: Any = build(recipe).model
    new = PlugModel.from_base(bases[1], started.config)
    for name, tensor in started.state_dict().items():
        source = new if started.is_base_tensor(name) else first
        assert torch.equal(tensor, source.state_dict()[name]), name
    assert not torch.equal(new.vision_encoder.backbone.mix["8"].project.weight, first.state_dict()[MIXED])


@pytest.mark.slow
def test_compiled_training_runs(tmp_path: Path) -> None:
    """With 32 pixels the coarsest map would be one cell, where torch 2.13 failed to compile the gradient."""
    recipe = tiny_recipe(tmp_path, model={"image_size": 64}, steps=2, compile=True)
    assert (run(recipe) / "model.safetensors").is_file()


@pytest.mark.parametrize("task", ["sam", "plug"])
def test_init_starts_from_given_weights(task: str, tmp_path: Path) -> None:
    first = run(tiny_recipe(tmp_path, task))
    recipe = tiny_recipe(tmp_path, task).model_copy(update={"init": str(first)})
    started = build(recipe).model.state_dict()
    given = (PlugModel if task == "plug" else ConvPromptModel).from_pretrained(first).state_dict()
    assert started.keys() == given.keys() and all(torch.equal(started[k], given[k]) for k in given)


def test_init_may_lack_the_prompt_adapter_but_nothing_else(tmp_path: Path) -> None:
    sizes = {"base": "sam-small", "image_size": 32}
    without = run(tiny_recipe(tmp_path, "plug", model=sizes, steps=0))
    recipe = tiny_recipe(tmp_path, "plug", model=sizes | {"prompted_encoder": True}, steps=0)
    recipe = recipe.model_copy(update={"init": str(without), "output": str(tmp_path / "grown")})
    started, given = build(recipe).model.state_dict(), PlugModel.from_pretrained(without).state_dict()
    new = "vision_encoder.prompt_adapter.weight"
    assert started.keys() == given.keys() | {new} and not started[new].any()
    assert all(torch.equal(started[name], given[name]) for name in given)
    plain = tiny_recipe(tmp_path, "plug", model=sizes).model_copy(update={"init": str(run(recipe))})
    with pytest.raises(InputError, match="model.prompted_encoder: expected true, as in init '.*/grown/model', got fal"):
        build(plain)
    more = {"refine": False, "lora_rank": 0, "parallel_lora": False}
    fewer = tiny_recipe(tmp_path, "plug", model=sizes | more, steps=0)
    fewer = fewer.model_copy(update={"output": str(tmp_path / "fewer")})
    with pytest.raises(InputError, match="init: expected a model of the recipe's sizes, .*refine_module"):
        build(recipe.model_copy(update={"init": str(run(fewer))}))


def test_init_refuses_other_sizes(tmp_path: Path) -> None:
    first = run(tiny_recipe(tmp_path))
    wider = tiny_recipe(tmp_path, model={"output_channels": 32}).model_copy(update={"init": str(first)})
    with pytest.raises(InputError, match="init: expected a model of the recipe's sizes"):
        build(wider)
