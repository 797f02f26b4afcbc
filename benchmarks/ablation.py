"""PLUG's tables 2 and 3 at our scale: what each part of the method adds on the frozen `sam-small`.

Every row is trained with the same recipe, number of steps and batches, from several seeds; only the
settings of the model differ. The weights with the best validation score are evaluated on the test sets.
To resume a call that was stopped, give the same command again.

Command: python benchmarks/ablation.py --steps 600 --seeds 3
Table 2 alone: --tables 2
On several cores: run the command with --part 0/2 and at the same time with --part 1/2, each with OMP_NUM_THREADS=1.
Data: docs/models/plug-small.md says how the folders under data/ are made.
Writes ablation.json, ablation.md and ablation.png next to this file, and replaces them after each training.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from ablation_report import write_report
from parts import add_part

from amodal.data.datasets import read_dataset
from amodal.evaluation.evaluator import evaluate
from amodal.inference.segmenter import AmodalSegmenter
from amodal.io.files import write_atomic
from amodal.training.build import TrainingSetup, build, step_sampler
from amodal.training.datasets.sampling import loader
from amodal.training.loop import train
from amodal.training.recipe import Recipe, load_recipe

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes/plug/small.yaml"
TEST_SETS = {"scenes": "data/scenes-test/annotations.json", "pasted": "data/paste-test/annotations.json"}

# As in the paper: a frozen base, only BCE and the point loss, boxes as prompts.
SHARED = [
    "model.train_base=false", "model.dice_weight=0.0", "model.occluded_dice_weight=0.0", "model.iou_weight=0.0",
    "model.mask_prompts=false", "model.prompted_encoder=false", "data.mask_prompt_share=0.0", "data.own_mask_share=0.0",
    "model.trunk_weights=null", "training.ema=0.0",
]  # fmt: skip
NOTHING = ["model.point_loss=false", "model.refine=false", "model.parallel_lora=false", "model.visible_branch=false"]
SAM = [*NOTHING, "model.lora_rank=0", "model.box_source=amodal", "model.mask_threshold=0.5"]


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: prefix of the names of its runs.
        label: name in the table.
        settings: overrides of the recipe.
        trains: False for the base without training.
    """

    name: str
    label: str
    settings: tuple[str, ...]
    trains: bool = True


ROWS = (
    Row("sam", "SAM, given the amodal box", tuple(SAM), trains=False),
    Row("ft", "fine-tuning", tuple(NOTHING)),
    Row("pt", "+ point loss", tuple(NOTHING[1:])),
    Row("rm", "+ refine module", ("model.parallel_lora=false",)),
    Row("pl", "+ parallel LoRA (rank 16)", ("model.lora_rank=16",)),
)
RANKS = tuple(Row(f"rank{rank}", f"rank {rank}", (f"model.lora_rank={rank}",)) for rank in (4, 8, 32))
TABLES = {2: ROWS, 3: (ROWS[-1], *RANKS)}
"""Rows by number of the paper's table."""


def main() -> None:
    """Run the missing trainings with their evaluation; write the report after each."""
    options = _arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    timing = options.runs / f"point_loss_{options.steps}.json"
    if options.part.number == 0 and not timing.is_file():
        seconds = time_point_loss(recipe_of(ROWS[-1], 0, options), options.timed_steps)
        write_atomic(timing, json.dumps(seconds, indent=1))
    jobs = options.part.of(_jobs(options.seeds, options.tables))
    started = time.monotonic()
    for number, (seed, row) in enumerate(jobs):
        minutes = (time.monotonic() - started) / 60
        print(f"[{number + 1}/{len(jobs)}] {row.label}, seed {seed} ({minutes:.0f} min so far)", flush=True)
        run_job(row, seed, options)
        _report(options)
    print(f"Written: {options.out / 'ablation.md'}")


def _jobs(seeds: int, numbers: Sequence[int]) -> list[tuple[int, Row]]:
    """Table 2 with every seed, then what table 3 has in addition."""
    tables = [(seed, row) for number in sorted(numbers) for seed in range(seeds) for row in TABLES[number]]
    return list(dict.fromkeys((seed, row) for seed, row in tables if row.trains or seed == 0))


def run_job(row: Row, seed: int, options: argparse.Namespace) -> None:
    """Train and evaluate one row with one seed, unless its result exists."""
    recipe = recipe_of(row, seed, options)
    result = Path(recipe.output) / "result.json"
    if result.is_file():
        return
    folder = train(recipe)
    segmenter = AmodalSegmenter.from_pretrained(folder)
    box_source = "gt_visible" if row.trains else "gt_amodal"
    scores = {}
    for name, path in options.test.items():
        dataset = read_dataset("canonical", path)
        report = evaluate(
            segmenter, dataset, box_source=box_source, max_objects=options.test_objects, baselines=(), name=row.name
        )
        scores[name] = report.metrics
    content = {"row": row.name, "seed": seed, "scores": scores, "curve": _curve(Path(recipe.output))}
    write_atomic(result, json.dumps(content, indent=1))


def recipe_of(row: Row, seed: int, options: argparse.Namespace) -> Recipe:
    """The shared recipe with the settings of a row."""
    steps = options.steps if row.trains else 0
    every = max(options.steps // options.validations, 1)
    shared = [
        *SHARED,
        f"seed={seed}",
        f"output={options.runs / f'{row.name}-seed{seed}-{options.steps}'}",
        f"training.steps={steps}",
        "training.epochs=null",
        f"training.batch_size={options.batch_size}",
        f"training.learning_rate={options.learning_rate}",
        f"training.warmup_steps={options.steps // 12}",
        f"training.validate_every={every}",
        f"training.checkpoint_every={every}",
        f"training.validation_objects={options.validation_objects}",
        f"training.workers={options.workers}",
    ]
    return load_recipe(options.recipe, [*shared, *row.settings, *options.set])


def time_point_loss(recipe: Recipe, steps: int) -> dict[str, float]:
    """Seconds per step with and without the point loss, alternating on the same batches."""
    training = build(recipe)
    batches = iter(loader(training.train, step_sampler(recipe, training.train, 0, steps + 1), 0))
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    for step in range(steps + 1):
        batch = next(batches)
        for name in seconds:
            _set(training, point_loss=name == "with")
            begun = time.perf_counter()
            _one_step(training, batch, recipe.training.precision == "bf16")
            if step > 0:  # the first step is a warm-up
                seconds[name].append(time.perf_counter() - begun)
    medians = {name: sorted(values)[len(values) // 2] for name, values in seconds.items()}
    return medians | {"overhead": medians["with"] / medians["without"] - 1, "steps": float(steps)}


def _set(training: TrainingSetup, *, point_loss: bool) -> None:
    task: Any = training.task
    task.config.point_loss = point_loss


def _one_step(training: TrainingSetup, batch: dict[str, torch.Tensor], is_bfloat16: bool) -> None:
    training.model.train()
    generator = torch.Generator().manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bfloat16):
        losses = training.task(training.model, batch, generator)
    torch.stack(list(losses.values())).sum().backward()
    training.model.zero_grad()


def _curve(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: line[k] for k in ("step", "val_full", "val_occ")} for line in lines if "val_full" in line]


def _report(options: argparse.Namespace) -> None:
    """Write the report of all results of the wanted tables so far."""
    rows = {row.name: row for number in sorted(options.tables) for row in TABLES[number]}
    files = sorted(options.runs.glob(f"*-{options.steps}/result.json"))
    results = [result for result in (json.loads(p.read_text()) for p in files) if result["row"] in rows]
    timing = options.runs / f"point_loss_{options.steps}.json"
    facts = {
        "command": f"python benchmarks/ablation.py --steps {options.steps} --seeds {options.seeds}"
        f" --batch-size {options.batch_size} --learning-rate {options.learning_rate}"
        f" --validations {options.validations} --validation-objects {options.validation_objects}"
        f" --test-objects {options.test_objects} --tables {' '.join(map(str, options.tables))}"
        + "".join(f" --set {s}" for s in options.set),
        "steps": options.steps,
        "seeds": options.seeds,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "test_objects": options.test_objects,
        "rows": [asdict(row) for row in rows.values()],
        "point_loss": json.loads(timing.read_text()) if timing.is_file() else None,
    }
    write_report(facts, results, options.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--tables", type=int, nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--validations", type=int, default=8, help="Number of validations, the points of the curves.")
    parser.add_argument("--validation-objects", type=int, default=256)
    parser.add_argument("--test-objects", type=int, default=600, help="Objects per test set, the first in its file.")
    parser.add_argument("--timed-steps", type=int, default=15, help="Timed steps for the cost of the point loss.")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/ablation")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks")
    parser.add_argument("--test", action="append", default=None, help="Test set, NAME=FILE; repeatable.")
    parser.add_argument(
        "--set", action="append", default=[], help="Override for all rows, key.inner=value; repeatable."
    )
    add_part(parser)
    options = parser.parse_args()
    named = dict(item.split("=", 1) for item in options.test) if options.test else TEST_SETS
    options.test = {name: ROOT / path for name, path in named.items()}
    return options


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
