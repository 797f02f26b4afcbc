"""The ablation of AURA: verdicts, the report, and the models that all rows start from."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import aura_ablation as ablation

from amodal.cli.main import main
from amodal.errors import InputError
from amodal.models.aura import AuraModel
from amodal.synthetic.generate import synthesize


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
    options = Namespace(recipe=ablation.ROOT / "recipes/aura/tiny.yaml", runs=Path("runs"), steps=8, workers=0, set=[])
    made = [ablation.row_recipe(row, seed, Path("start"), options) for row in ablation.ROWS for seed in range(2)]
    assert len({str(recipe.output) for recipe in made}) == 8
    assert len({ablation.recipe_digest(recipe) for recipe in made}) == 1
    options.set = ["data.max_turns=3"]
    other = ablation.row_recipe(ablation.ROWS[0], 0, Path("start"), options)
    runs = [result("both", 0, 0.5) | {"recipe": ablation.recipe_digest(recipe)} for recipe in (made[0], other)]
    ablation.check_alike(runs[:1])
    with pytest.raises(InputError, match="one recipe"):
        ablation.check_alike([runs[0], runs[1] | {"seed": 1}])


def test_questions_whose_object_is_often_absent_are_excluded() -> None:
    options = Namespace(recipe=ablation.ROOT / "recipes/aura/tiny.yaml", runs=Path("runs"), steps=8, workers=0, set=[])
    sources = ablation.row_recipe(ablation.ROWS[0], 0, Path("start"), options).data.train
    assert [Path(source.questions).name for source in sources if not source.weight] == ["questions-half.json"]


def test_the_losses_are_those_of_the_paper() -> None:
    """All terms of Eq. 4 weigh 1, and every other loss of a model of ours weighs 0."""
    options = Namespace(recipe=ablation.ROOT / "recipes/aura/tiny.yaml", runs=Path("runs"), steps=8, workers=0, set=[])
    for row in ablation.ROWS:
        recipe = ablation.row_recipe(row, 0, Path("start"), options)
        weights = {k: v for k, v in recipe.model.model_dump().items() if k.endswith("_weight")}
        terms = {"text_weight", "bce_weight", "dice_weight", "rate_weight", "map_weight"}
        assert weights == {name: float(name in terms) for name in weights} and terms < weights.keys()
        assert recipe.data.hint_share == 0


@pytest.mark.slow
def test_the_command_runs_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All four rows, one step each on a few scenes: training, evaluation and the page."""
    scenes, files = synthesize("scenes", 8, 1, tmp_path / "scenes", progress=False), {}
    for name, extra in (("questions", []), ("half", ["--present", "0.5"]), ("lists", ["--lists", "all"])):
        files[name] = str(tmp_path / f"{name}.json")
        made = ["data", "synthesize", "--kind", "questions", "--annotations", str(scenes), "--out", files[name]]
        assert main([*made, *extra]) == 0
    sources = {"train.0": "questions", "train.1": "half", "train.2": "lists", "validation.0": "questions"}
    changes = ["training.batch_size=2", "training.validation_objects=2"]
    changes += [f"data.{source}.annotations={scenes}" for source in sources]
    changes += [f"data.{source}.questions={files[name]}" for source, name in sources.items()]
    options = {"steps": 1, "seeds": 1, "conversations": 2, "workers": 0, "annotations": scenes}
    options |= {"questions": files["questions"], "runs": tmp_path / "runs", "out": tmp_path / "out"}
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


def test_an_interrupted_preparation_is_completed(tmp_path: Path) -> None:
    start = ablation.prepare(tmp_path / "start")
    weights = (start / "model" / "increment.safetensors").read_bytes()
    (start / "model").rename(tmp_path / "gone")  # as if the preparation had stopped in between
    assert ablation.prepare(start) == start
    assert (start / "model" / "increment.safetensors").read_bytes() == weights
    model = AuraModel.from_pretrained(start / "model")
    assert model.condition_encoder is None and model.spatial_encoder is None
    assert model.prompt_encoder.box_reader is None
