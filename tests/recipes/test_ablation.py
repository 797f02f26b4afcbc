"""The ablation of PLUG: one command runs and resumes it, and its verdicts follow from the scores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from ablation import TABLES, Row, _arguments, recipe_of  # noqa: E402
from ablation_report import CLAIMS, PAPER, differences, markdown, verdict  # noqa: E402
from parts import Part  # noqa: E402

from tests.training.tiny import tiny_recipe  # noqa: E402


def result(row: str, seed: int, full: float, occ: float) -> dict[str, Any]:
    return {"row": row, "seed": seed, "scores": {"toy": {"mIoU_full": full, "mIoU_occ": occ}}, "curve": []}


@pytest.mark.parametrize("row", [row for rows in TABLES.values() for row in rows], ids=lambda row: row.name)
def test_rows_change_the_bundled_recipe_to_the_method_of_the_paper(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ablation.py"])
    model = recipe_of(row, 0, _arguments()).model.model_dump()
    own = ("train_base", "mask_prompts", "prompted_encoder", "dice_weight", "occluded_dice_weight", "iou_weight")
    assert not any(model[name] for name in own)


def test_a_claim_holds_only_if_its_interval_is_above_zero() -> None:
    results = [result("ft", s, 0.60 + 0.01 * s, 0.30) for s in range(3)]
    results += [result("pt", s, 0.64 + 0.01 * s, 0.30 + (0.02, -0.03, 0.02)[s]) for s in range(3)]
    full, occ = verdict("x", "ft", "pt", results)["cells"]
    assert full["mean"] == pytest.approx(4.0)
    assert (full["says"], occ["says"]) == ("holds", "open")
    assert verdict("x", "pt", "ft", results)["cells"][0]["says"] == "fails"
    noisy = [result("a", s, 0.5, 0.5) for s in range(3)] + [
        result("b", s, 0.5 + 0.001 * (s + 1) ** 3, 0.5) for s in range(3)
    ]
    assert verdict("x", "a", "b", noisy)["cells"][0]["says"] == "open"  # all differences are positive, but far apart


def test_one_seed_is_open_and_sam_is_compared_with_every_seed() -> None:
    assert (
        verdict("x", "ft", "pt", [result("ft", 0, 0.1, 0.1), result("pt", 0, 0.9, 0.9)])["cells"][0]["says"] == "open"
    )
    results = [result("sam", 0, 0.5, 0.5), *(result("ft", s, 0.6 + 0.1 * s, 0.5) for s in range(2))]
    assert differences(results, "sam", "ft", "toy", "mIoU_full") == pytest.approx([10.0, 20.0])


def test_the_report_says_when_it_is_unfinished() -> None:
    rows = [{"name": name, "label": name} for name in PAPER]
    facts = {"rows": rows, "steps": 1, "seeds": 3, "batch_size": 1, "learning_rate": 1e-4, "test_objects": 5}
    facts |= {"command": "python x", "point_loss": None}
    results = [result("ft", 0, 0.5, 0.25), result("ft", 1, 0.7, 0.25)]
    page = markdown(facts, results, [verdict(*claim, results) for claim in CLAIMS])
    assert "**Unfinished: 2 of 22 runs.**" in page
    assert "| ft | 2 | 60.0 ± 14.1 | 25.0 ± 0.0 | 82.47 / 50.1 | 80.16 / 27.07 |" in page
    assert "Not measured yet." in page
    assert "**Of 0 comparisons 0 hold, 0 fail and 0 are open.**" in page
    results += [result("pt", seed, 0.9 + 0.2 * seed, 0.25) for seed in (0, 1)]
    page = markdown(facts, results, [verdict(*claim, results) for claim in CLAIMS])
    assert "**Of 2 comparisons 1 hold, 0 fail and 1 are open.**" in page
    assert "everywhere" not in page and "nowhere" not in page  # it holds for one metric only
    results += [result("rm", seed, 0.95 + 0.2 * seed, 0.5) for seed in (0, 1)]
    page = markdown(facts, results, [verdict(*claim, results) for claim in CLAIMS])
    assert "Hold everywhere: the refine module helps." in page
    results += [result("pl", seed, 0.1 + 0.2 * seed, 0.1) for seed in (0, 1)]
    page = markdown(facts, results, [verdict(*claim, results) for claim in CLAIMS])
    assert "Fail everywhere: parallel LoRA helps." in page
    results += [result("rank4", 0, 0.5, 0.5)]
    page = markdown(facts, results, [verdict(*claim, results) for claim in CLAIMS])
    assert "Open everywhere: rank 16 beats rank 4." in page
    assert "## Table 3" in page
    facts["rows"] = [row for row in rows if not row["name"].startswith("rank")]
    page = markdown(facts, results[:-1], [verdict(*claim, results[:-1]) for claim in CLAIMS])
    assert "**Unfinished: 8 of 13 runs.**" in page
    assert "Table 3" not in page


def test_the_parts_of_several_processes_cover_every_job_once() -> None:
    jobs = list(range(7))
    shares = [list(Part(number, 3).of(jobs)) for number in range(3)]
    assert sorted(job for share in shares for job in share) == jobs
    assert [len(share) for share in shares] == [3, 2, 2]


@pytest.mark.slow
def test_the_ablation_runs_and_resumes(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, "plug", steps=2)
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.model_dump_json())
    toy = tmp_path / "toy" / "annotations.json"
    command = [sys.executable, "benchmarks/ablation.py", "--steps", "2", "--seeds", "2", "--batch-size", "2"]
    command += ["--workers", "0", "--validation-objects", "4", "--test-objects", "4", "--timed-steps", "1"]
    command += ["--recipe", str(file), "--runs", str(tmp_path / "runs"), "--out", str(tmp_path), "--test", f"toy={toy}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    page = (tmp_path / "ablation.md").read_text()
    assert "Unfinished" not in page and "s per step with it" in page
    assert (tmp_path / "ablation.png").is_file()
    done = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").glob("*/result.json")}
    assert len(done) == 15  # SAM once, seven rows with two seeds
    alone = subprocess.run([*command, "--tables", "2"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "[9/9]" in alone  # SAM once, four rows with two seeds; all of them exist
    page = (tmp_path / "ablation.md").read_text()
    assert "Unfinished" not in page and "Table 3" not in page and "rank 4" not in page
    next(iter(done)).unlink()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    again = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").glob("*/result.json")}
    assert again.keys() == done.keys()
    assert sum(again[p] != done[p] for p in done) == 1
