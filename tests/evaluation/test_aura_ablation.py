"""The ablation's table says what the runs found, and no more."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "aura_ablation.py"


@pytest.fixture(scope="module")
def ablation() -> ModuleType:
    sys.path.insert(0, str(FILE.parent))  # scripts import their neighbours
    spec = importlib.util.spec_from_file_location("aura_ablation", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["aura_ablation"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def result(row: str, seed: int, value: float, error: float = 0.1) -> dict[str, Any]:
    return {"row": row, "seed": seed, "metrics": {"gIoU_amodal_with_objects": value, "occlusion_rate_error": error}}


@pytest.mark.parametrize(
    ("before", "after", "says", "gain"),
    [
        ((0.5, 0.52, 0.51), (0.6, 0.63, 0.6), "better", 0.1),
        ((0.6, 0.63, 0.6), (0.5, 0.52, 0.51), "worse", -0.1),
        ((0.5, 0.5, 0.5), (0.6, 0.49, 0.5), "open", 0.03),
        ((0.5,), (0.9,), "open", 0.4),  # one seed says nothing
    ],
)
def test_verdicts(
    ablation: ModuleType, before: tuple[float, ...], after: tuple[float, ...], says: str, gain: float
) -> None:
    results = [result("neither", i, v) for i, v in enumerate(before)] + [
        result("both", i, v) for i, v in enumerate(after)
    ]
    got = ablation.verdict(results, "both", "gIoU_amodal_with_objects")
    assert got["says"] == says and got["seeds"] == len(before)
    assert got["mean_gain"] == pytest.approx(gain, abs=0.01)


def test_a_smaller_error_is_a_gain(ablation: ModuleType) -> None:
    results = [result("neither", i, 0.5, 0.2 + i / 100) for i in range(3)]
    results += [result("both", i, 0.5, 0.1 + i / 90) for i in range(3)]
    assert ablation.verdict(results, "both", "occlusion_rate_error")["says"] == "better"


def test_the_page(ablation: ModuleType, tmp_path: Path) -> None:
    facts = {"command": "python x", "steps": 10, "seeds": 2, "rows": [row.name for row in ablation.ROWS]}
    results = [result(row, seed, 0.5 + seed / 10) for row in ("neither", "both") for seed in range(2)]
    ablation.write_report(results, facts, tmp_path)
    page = (tmp_path / "aura_ablation.md").read_text()
    assert "**Unfinished: 4 of 8 runs.**" in page
    assert "| neither | 0.550 ± 0.071 |" in page and "| condition encoder |  |" in page
    assert "- Everything is open." in page
    assert json.loads((tmp_path / "aura_ablation.json").read_text())["results"] == results
    assert sorted(p.name for p in tmp_path.iterdir()) == ["aura_ablation.json", "aura_ablation.md"]


def test_rows_switch_both_encoders(ablation: ModuleType) -> None:
    settings = {tuple(row.settings()) for row in ablation.ROWS}
    assert settings == {
        (f"model.condition_encoder={c}", f"model.spatial_encoder={s}")
        for c in ("true", "false")
        for s in ("true", "false")
    }
