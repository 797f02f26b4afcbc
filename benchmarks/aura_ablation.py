"""AURA's table 2 at our scale: what the Occlusion Condition and Spatial Occlusion Encoders add.

Four rows (neither, each, both) are trained from several seeds for the same steps on the same batches; only
the two settings differ. The language model and the regions are those of `aura-small`. As in the paper, the language
model's LoRA is trained, the vision backbone (`sam-small`) is frozen, all terms of Eq. 4 weigh 1, and there are no other
losses and no true boxes as hints. Differs from the paper: both decoders get the box of a region, because `sam-small` is
prompted by maps; the regions and their choice are not trained. The mask decoders start from the backbone's, the layers
from a `[SEG]` state to its embedding from random weights. The final weights answer questions about scenes that were not
used in training, with the true words as input (protocol `reason`, teacher forced), because the encoders act on masks,
and predicted words would only add noise. To resume a call that was stopped, give the same command again.

Before: amodal models fetch aura-small
Command: python benchmarks/aura_ablation.py --steps 400 --seeds 3
On several cores: run the command with --part 0/2 and at the same time with --part 1/2, each with OMP_NUM_THREADS=1.
Data: docs/aura.md says how the training data of aura-small are made, and docs/models/aura-small.md the test questions.
Writes aura_ablation.json and aura_ablation.md next to this file, and replaces them after each training.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ablation_report import judged
from parts import add_part

from amodal.errors import InputError
from amodal.io.files import atomic_folder, write_atomic

if TYPE_CHECKING:
    from amodal.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
METRICS = (
    "gIoU_amodal_with_objects", "cIoU_amodal", "gIoU_visible_with_objects", "cIoU_visible", "occlusion_rate_error",
)  # fmt: skip
LESS_IS_BETTER = {"occlusion_rate_error"}
BATCH_SIZE = 16
Results = list[dict[str, Any]]

PAPER_LOSSES = [
    "model.text_weight=1.0", "model.bce_weight=1.0", "model.dice_weight=1.0", "model.rate_weight=1.0",
    "model.map_weight=1.0", "model.iou_weight=0.0", "model.naming_weight=0.0", "model.box_weight=0.0",
    "data.hint_share=0.0",
]  # fmt: skip
"""Eq. 4 as it stands; the recipe has other weights, losses of its own, and true boxes as hints."""

# The paper's optimiser. The language model is trained already, so two turns per image are enough, and the masks of all
# their objects are learned.
SHARED = [
    "model.train_language=true", "model.train_tower=false", *PAPER_LOSSES,
    "data.max_turns=2", "data.max_masks=null",
    "training.epochs=null", f"training.batch_size={BATCH_SIZE}",
    "training.select=last", "training.validation_objects=32", "training.precision=no",
]  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the table: its encoders, and its scores in the paper's table 2.

    Attributes:
        name: prefix of the names of its runs.
        label: name in the table.
        condition: whether there is an Occlusion Condition Encoder.
        spatial: whether there is a Spatial Occlusion Encoder.
        paper: amodal gIoU and cIoU, visible gIoU and cIoU, percent.
    """

    name: str
    label: str
    condition: bool
    spatial: bool
    paper: tuple[float, float, float, float]

    def settings(self) -> list[str]:
        """Overrides of the recipe."""
        return [
            f"model.condition_encoder={str(self.condition).lower()}",
            f"model.spatial_encoder={str(self.spatial).lower()}",
        ]


ROWS = (
    Row("neither", "neither", False, False, (43.55, 43.92, 48.96, 48.63)),
    Row("condition", "condition encoder", True, False, (44.86, 44.07, 49.57, 49.10)),
    Row("spatial", "spatial encoder", False, True, (46.95, 45.60, 50.68, 53.72)),
    Row("both", "both", True, True, (47.76, 47.32, 51.31, 55.38)),
)


def main() -> None:
    """Run the missing trainings with their evaluation; write the report after each."""
    options = _arguments()
    start = prepare(options.runs / f"start-{options.part.number}", options.model)
    jobs = options.part.of([(seed, row) for seed in range(options.seeds) for row in ROWS])
    for number, (seed, row) in enumerate(jobs):
        print(f"[{number + 1}/{len(jobs)}] {row.label}, seed {seed}", flush=True)
        planned = {"row": row.name, "seed": seed, "recipe": recipe_digest(row_recipe(row, seed, start, options))}
        check_alike([*_finished(options), planned])
        run_job(row, seed, start, options)
        write_report(_finished(options), _facts(options), options.out)
    print(f"Written: {options.out / 'aura_ablation.md'}")


def _finished(options: argparse.Namespace) -> Results:
    return [json.loads(p.read_text()) for p in sorted(options.runs.glob(f"*-{options.steps}/result.json"))]


def prepare(start: Path, name: str) -> Path:
    """Write the model that every row starts from, unless it exists.

    Args:
        start: folder to write; each process has its own.
        name: model whose language model and regions are used.

    Returns:
        `start`: an AURA without occlusion encoders, whose decoders are those of its base.
    """
    from amodal.models.aura import AuraConfig, AuraModel
    from amodal.models.aura.trunk_mllm import load_recorded_mllm
    from amodal.models.bases.families import load_base
    from amodal.models.increments import Origin

    if start.is_dir():
        return start
    trained = AuraModel.from_pretrained(name)
    without = {"condition_encoder": False, "spatial_encoder": False}
    config = AuraConfig.from_dict(trained.config.to_dict() | without)
    torch.manual_seed(0)
    model = AuraModel(config, mllm=load_recorded_mllm(config, None, None))
    model.load_base(load_base(*Origin.from_record(config.base).location(None, "base")))
    model.mllm.load_state_dict(trained.mllm.state_dict())
    assert model.box_reader is not None and trained.box_reader is not None
    model.box_reader.load_state_dict(trained.box_reader.state_dict())
    model.processor = trained.processor
    with atomic_folder(start) as folder:
        model.save_pretrained(folder)
    return start


def run_job(row: Row, seed: int, start: Path, options: argparse.Namespace) -> None:
    """Train and evaluate one row with one seed, unless its result exists."""
    from amodal.data.reason_seg import read_reason_seg
    from amodal.evaluation.reason import evaluate_reason
    from amodal.inference.assistant import AmodalAssistant
    from amodal.training.loop import train

    folder = _folder(row, seed, options)
    if (folder / "result.json").is_file():
        return
    recipe = row_recipe(row, seed, start, options)
    model = train(recipe)
    report = evaluate_reason(
        AmodalAssistant.from_pretrained(str(model)),
        read_reason_seg(options.questions, options.annotations),
        teacher_forced=True,
        max_conversations=options.conversations,
        name=row.name,
        answers=folder / "answers.jsonl",
    )
    result = {"row": row.name, "seed": seed, "recipe": recipe_digest(recipe), "metrics": report.metrics}
    write_atomic(folder / "result.json", json.dumps(result, indent=1))


def row_recipe(row: Row, seed: int, start: Path, options: argparse.Namespace) -> Recipe:
    """The recipe of one training; `output` is its folder."""
    from amodal.training.recipe import load_recipe

    shared = [
        *SHARED,
        f"init={start}",
        f"seed={seed}",
        f"output={_folder(row, seed, options)}",
        f"training.steps={options.steps}",
        f"training.warmup_steps={options.steps // 10}",
        f"training.validate_every={max(options.steps, 1)}",
        f"training.checkpoint_every={max(options.steps // 4, 1)}",
        f"training.workers={options.workers}",
    ]
    return load_recipe(options.recipe, [*shared, *row.settings(), *options.set])


def _folder(row: Row, seed: int, options: argparse.Namespace) -> Path:
    runs: Path = options.runs
    return runs / f"{row.name}-seed{seed}-{options.steps}"


def recipe_digest(recipe: Recipe) -> str:
    """Digest of the settings that all runs of one table share, independent of row, seed and process."""
    content = recipe.model_dump(mode="json", exclude={"seed", "output", "init"})
    for key in ("condition_encoder", "spatial_encoder"):
        del content["model"][key]
    del content["training"]["workers"]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def check_alike(results: Results) -> None:
    """Check that the rows differ only in their encoders.

    Raises:
        InputError: runs were trained with different recipes.
    """
    digests = [(f"{r['row']}-seed{r['seed']}", r.get("recipe")) for r in results]
    if len({digest for _, digest in digests}) > 1:
        raise InputError(f"results: expected runs of one recipe, got {digests}; delete the folders of the others")


def write_report(results: Results, facts: dict[str, Any], out: Path) -> None:
    """Replace `aura_ablation.json` and `aura_ablation.md` in a folder."""
    out.mkdir(parents=True, exist_ok=True)
    verdicts = [verdict(results, row.name, metric) for row in ROWS[1:] for metric in METRICS]
    content = facts | {"results": results, "against_neither": verdicts}
    write_atomic(out / "aura_ablation.json", json.dumps(content, indent=1) + "\n")
    write_atomic(out / "aura_ablation.md", "\n".join(_page(results, facts, verdicts)))


def values(results: Results, row: str, metric: str) -> dict[int, float]:
    """A score by seed; runs without this score are left out."""
    return {r["seed"]: r["metrics"][metric] for r in results if r["row"] == row and metric in r["metrics"]}


def verdict(results: Results, row: str, metric: str) -> dict[str, Any]:
    """Whether a row is better than the one without encoders, by the differences in per cent for each seed.

    `better`: their 95 % confidence interval (`ablation_report.judged`) is above zero. `worse`: it is below zero.
    `open`: anything else, including a single seed or none.
    """
    before, after = values(results, "neither", metric), values(results, row, metric)
    sign = -100 if metric in LESS_IS_BETTER else 100
    found = [sign * (after[seed] - before[seed]) for seed in sorted(before.keys() & after.keys())]
    found_out = judged(found) if found else {"mean": None, "error": None, "seeds": 0, "says": "open"}
    says = {"holds": "better", "fails": "worse", "open": "open"}[found_out["says"]]
    return {"row": row, "metric": metric, **found_out, "says": says}


def _page(results: Results, facts: dict[str, Any], verdicts: list[dict[str, Any]]) -> list[str]:
    wanted = len(ROWS) * facts["seeds"]
    state = [] if len(results) >= wanted else [f"**Unfinished: {len(results)} of {wanted} runs.**", ""]
    labels = {row.name: row.label for row in ROWS}
    clear = [v for v in verdicts if v["says"] != "open"]
    return [
        "# Ablation of AURA's encoders at our scale",
        "",
        f"AURA's table 2. Every row is trained for {facts['steps']} steps with {facts['batch_size']} images each, with",
        f"two turns per image, from {facts['seeds']} seeds. The language model with its LoRA and the regions are",
        f"{facts['llm']}; the LoRA is trained. The backbone is the frozen base of that model, from which both mask",
        "decoders start. All terms of Eq. 4 weigh 1; there are no other losses and no true boxes as hints.",
        "The protocol is `reason` with the true words as input (teacher forced). Scores are percentages, mean ±",
        "standard deviation over the seeds. No row was tuned. The columns of the paper are LLaVA on photographs with",
        "the words that it predicts.",
        "",
        f"```bash\n{facts['command']}\n```",
        "",
        *state,
        "| encoders | " + " | ".join(METRICS) + " | paper amodal gIoU / cIoU | paper visible gIoU / cIoU |",
        "| --- |" + " --- |" * (len(METRICS) + 2),
        *(_line(row, results) for row in ROWS),
        "",
        "Comparison with the row that has neither encoder, for each seed. A row is better (worse) where the 95 %",
        "confidence interval of the mean gain (Student's t) is above (below) zero; everything else is open. Gains are",
        "in percentage points, ± standard error.",
        "",
        *(f"- {labels[v['row']]}: {v['metric']} {v['says']}, gain {v['mean']:+.2f} ± {v['error']:.2f}" for v in clear),
        *([] if clear else ["- Everything is open."]),
        "",
    ]


def _line(row: Row, results: Results) -> str:
    paper = [f"{row.paper[i]:.2f} / {row.paper[i + 1]:.2f}" for i in (0, 2)]
    cells = [row.label, *(_cell(values(results, row.name, metric)) for metric in METRICS), *paper]
    return "| " + " | ".join(cells) + " |"


def _cell(found: dict[int, float]) -> str:
    if not found:
        return ""
    percent = [100 * value for value in found.values()]
    mean = statistics.fmean(percent)
    return f"{mean:.1f}" if len(found) < 2 else f"{mean:.1f} ± {statistics.stdev(percent):.1f}"


def _facts(options: argparse.Namespace) -> dict[str, Any]:
    command = f"python benchmarks/aura_ablation.py --steps {options.steps} --seeds {options.seeds}"
    command += f" --conversations {options.conversations}" + "".join(f" --set {s}" for s in options.set)
    return {
        "command": command, "llm": f"those of `{options.model}`", "steps": options.steps, "batch_size": BATCH_SIZE,
        "seeds": options.seeds, "rows": [row.name for row in ROWS],
    }  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--conversations", type=int, default=1000, help="Conversations per model, the first in the file."
    )
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--model", default="aura-small", help="Model whose language model and regions all rows start from."
    )
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/aura/small.yaml")
    parser.add_argument("--annotations", type=Path, default=ROOT / "data/scenes-test/annotations.json")
    parser.add_argument("--questions", type=Path, default=ROOT / "data/scenes-test/free.json")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/aura-ablation")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks")
    parser.add_argument(
        "--set", action="append", default=[], help="Override for all rows, key.inner=value; repeatable."
    )
    add_part(parser)
    return parser.parse_args()


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
