"""The ablation of AURA: verdicts, the report, and the models that all rows start from."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import aura_ablation as ablation

from amodal.errors import InputError
from amodal.models.aura import AuraModel
from amodal.models.bases.families import load_base
from amodal.synthetic.generate import synthesize
from amodal.synthetic.questions import synthesize_questions
from tests.models.aura import small_trunk_aura, small_trunk_recipe


def result(row: str, seed: int, value: float, error: float = 0.1) -> dict[str, Any]:
    return {"row": row, "seed": seed, "metrics": {"gIoU_amodal_with_objects": value, "occlusion_rate_error": error}}


@pytest.mark.parametrize(
    ("before", "after", "says", "gain"),
    [
        ((0.5, 0.52, 0.51), (0.6, 0.63, 0.6), "better", 0.1),
        ((0.6, 0.63, 0.6), (0.5, 0.52, 0.51), "worse", -0.1),
        ((0.5, 0.5, 0.5), (0.6, 0.49, 0.5), "open", 0.03),
        ((0.5, 0.5, 0.5), (0.51, 0.53, 0.55), "open", 0.03),  # all differences are positive, but far apart
        ((0.5,), (0.9,), "open", 0.4),  # one seed is not enough
    ],
)
def test_verdicts(before: tuple[float, ...], after: tuple[float, ...], says: str, gain: float) -> None:
    results = [result("neither", i, v) for i, v in enumerate(before)] + [
        result("both", i, v) for i, v in enumerate(after)
    ]
    got = ablation.verdict(results, "both", "gIoU_amodal_with_objects")
    assert got["says"] == says and got["seeds"] == len(before)
    assert got["mean"] == pytest.approx(100 * gain, abs=1)


def test_a_smaller_error_is_a_gain() -> None:
    results = [result("neither", i, 0.5, 0.2 + i / 100) for i in range(3)]
    results += [result("both", i, 0.5, 0.1 + i / 90) for i in range(3)]
    assert ablation.verdict(results, "both", "occlusion_rate_error")["says"] == "better"


def test_the_report_contains_finished_runs_only(tmp_path: Path) -> None:
    facts: dict[str, Any] = {"command": "python x", "llm": "one of ours", "steps": 10, "batch_size": 4, "seeds": 2}
    results = [result(row, seed, 0.5 + seed / 10) for row in ("neither", "both") for seed in range(2)]
    ablation.write_report(results, facts, tmp_path)
    page = (tmp_path / "aura_ablation.md").read_text()
    assert "**Unfinished: 4 of 8 runs.**" in page
    assert "| neither | 55.0 ± 7.1 |" in page and "| condition encoder |  |" in page
    assert "- Everything is open." in page
    assert json.loads((tmp_path / "aura_ablation.json").read_text())["results"] == results
    assert sorted(p.name for p in tmp_path.iterdir()) == ["aura_ablation.json", "aura_ablation.md"]


def test_all_runs_of_a_table_share_one_recipe() -> None:
    options = Namespace(recipe=ablation.ROOT / "recipes/aura/small.yaml", runs=Path("runs"), steps=8, workers=0, set=[])
    made = [ablation.row_recipe(row, seed, Path("start"), options) for row in ablation.ROWS for seed in range(2)]
    assert len({str(recipe.output) for recipe in made}) == 8
    assert len({ablation.recipe_digest(recipe) for recipe in made}) == 1
    options.set = ["data.max_turns=3"]
    other = ablation.row_recipe(ablation.ROWS[0], 0, Path("start"), options)
    runs = [result("both", 0, 0.5) | {"recipe": ablation.recipe_digest(recipe)} for recipe in (made[0], other)]
    ablation.check_alike(runs[:1])
    with pytest.raises(InputError, match="one recipe"):
        ablation.check_alike([runs[0], runs[1] | {"seed": 1}])


def test_the_losses_are_those_of_the_paper() -> None:
    """All terms of Eq. 4 weigh 1, and every other loss of a model of ours weighs 0."""
    options = Namespace(recipe=ablation.ROOT / "recipes/aura/small.yaml", runs=Path("runs"), steps=8, workers=0, set=[])
    for row in ablation.ROWS:
        recipe = ablation.row_recipe(row, 0, Path("start"), options)
        weights = {k: v for k, v in recipe.model.model_dump().items() if k.endswith("_weight")}
        terms = {"text_weight", "bce_weight", "dice_weight", "rate_weight", "map_weight"}
        assert weights == {name: float(name in terms) for name in weights} and terms < weights.keys()
        assert recipe.data.hint_share == 0


def trained_model(folder: Path) -> Path:
    """A small random model, in the form of `aura-small`."""
    small_trunk_aura(folder).save_pretrained(folder / "aura")
    return folder / "aura"


@pytest.mark.slow
def test_the_command_runs_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All four rows, one step each on a few scenes: training, evaluation and the page."""
    scenes, questions, model = tmp_path / "scenes" / "annotations.json", tmp_path / "free.json", trained_model(tmp_path)
    synthesize("scenes", 8, 1, scenes.parent, progress=False)
    synthesize_questions(scenes, questions, words="free", progress=False)
    changes = ["training.batch_size=2", "training.validation_objects=2", "data.train.1.weight=0"]
    for source in ("train.0", "train.1", "validation.0", "validation.1"):
        changes += [f"data.{source}.annotations={scenes}", f"data.{source}.questions={questions}"]
    sizes = small_trunk_recipe(tmp_path).model_dump(exclude={"revision", "trunk_weights"})
    changes += [f"model.trunk_mllm={json.dumps(sizes)}", f"model.base={tmp_path / 'trunk'}", "model.image_size=64"]
    changes += ["model.lora_rank=2", "model.lora_targets=[q_proj, v_proj]", "model.spatial_channels=4"]
    options = {"steps": 1, "seeds": 1, "conversations": 2, "workers": 0, "annotations": scenes, "model": model}
    options |= {"questions": questions, "runs": tmp_path / "runs", "out": tmp_path / "out"}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    words += [word for change in changes for word in ("--set", change)]
    monkeypatch.setattr(sys, "argv", ["aura_ablation.py", *words])
    ablation.main()
    page = (tmp_path / "out" / "aura_ablation.md").read_text()
    assert "Unfinished" not in page and "- Everything is open." in page  # one seed shows nothing
    results = json.loads((tmp_path / "out" / "aura_ablation.json").read_text())["results"]
    assert sorted(one["row"] for one in results) == sorted(row.name for row in ablation.ROWS)
    assert all(set(ablation.METRICS) <= one["metrics"].keys() for one in results)


def test_rows_switch_both_encoders() -> None:
    settings = {tuple(row.settings()) for row in ablation.ROWS}
    assert settings == {
        (f"model.condition_encoder={c}", f"model.spatial_encoder={s}")
        for c in ("true", "false")
        for s in ("true", "false")
    }


def test_all_rows_start_from_the_language_model_and_the_base(tmp_path: Path) -> None:
    name = trained_model(tmp_path)
    start = ablation.prepare(tmp_path / "start", str(name))
    weights = (start / "increment.safetensors").read_bytes()
    assert ablation.prepare(start, str(name)) == start
    assert (start / "increment.safetensors").read_bytes() == weights
    model, trained = AuraModel.from_pretrained(start), AuraModel.from_pretrained(name)
    assert model.condition_encoder is None and model.spatial_encoder is None
    ours, theirs = model.state_dict(), trained.state_dict()
    kept = [key for key in ours if key.startswith(("mllm.", "prompt_encoder.box_reader."))]
    assert any(".lora_" in key for key in kept) and all(torch.equal(ours[key], theirs[key]) for key in kept)
    base: Any = load_base(tmp_path / "trunk").model
    for decoder in model.decoders():
        fresh = {key: tensor for key, tensor in base.mask_decoder.state_dict().items() if key in decoder.state_dict()}
        assert fresh and all(torch.equal(decoder.state_dict()[key], tensor) for key, tensor in fresh.items())
    key = "prompt_encoder.projection.0.weight"
    assert not torch.equal(ours[key], theirs[key])
