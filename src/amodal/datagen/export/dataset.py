"""Stage 5: write the finished pairs of a work folder as a dataset with a dataset card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from amodal.data.reason_seg import parse_answer
from amodal.datagen.export.writers import PARQUET_CARD_HEADER, WRITERS, ExportForm, ExportSource
from amodal.datagen.stats import BINS, statistics
from amodal.datagen.store.records import PairState
from amodal.datagen.store.work_folder import WorkFolder
from amodal.errors import InputError
from amodal.io.files import atomic_folder, require_empty_folder

FINISHED: tuple[PairState, ...] = ("accepted", "rewritten")

FORM_NOTES: dict[ExportForm, str] = {
    "canonical": "`annotations.json` (COCO JSON with visible and amodal masks), `questions.json` and one question "
    "file per side of the split, `images/`. `{seg:ID}` in an answer names an annotation.",
    "parquet": "One row per image, in `data/`: the image, its objects with visible and amodal masks (COCO RLE), and "
    "its question-answer pairs. `{seg:ID}` in an answer names an object.",
    "muse": "One JSON list per side of the split, one record per image, with `questions`, `answers` (the objects, "
    "in the order of the placeholders; `segmentation` is the amodal mask, `visible_mask` the visible one) and "
    "`text_answers` with `{seg}` placeholders. The images are in `images/`.",
    "reasonseg": "One image and one JSON file per pair, below `amodal/` with amodal polygons and below `visible/` "
    "with visible ones. ReasonSeg has one mask per question: the objects of an answer are its `target` shapes.",
}


def export(work: WorkFolder, form: ExportForm, out: Path, states: Sequence[PairState] = FINISHED) -> dict[str, Any]:
    """Write a dataset into a new folder, which appears complete or not at all.

    Args:
        work: work folder.
        form: canonical, parquet, muse or reasonseg.
        out: folder to make.
        states: states of the pairs to write.

    Returns:
        Statistics of what was written, as returned by `statistics`.

    Raises:
        InputError: an unknown form or state, a folder that is not empty, no pair in these states,
            or a pair whose markup names objects that do not exist.
    """
    if form not in WRITERS:
        raise InputError(f"to: expected one of {', '.join(WRITERS)}, got {form!r}")
    for state in states:
        if state not in get_args(PairState):
            raise InputError(f"states: expected some of {', '.join(get_args(PairState))}, got {state!r}")
    require_empty_folder(out, "out")
    source = ExportSource(work, tuple(states))
    _validate(source)
    with atomic_folder(out) as unfinished:
        WRITERS[form](source, unfinished)
        numbers = statistics(work, states)
        header = PARQUET_CARD_HEADER if form == "parquet" else ""
        (unfinished / "README.md").write_text(dataset_card(source, form, numbers, header), encoding="utf-8")
    return numbers


def dataset_card(source: ExportSource, form: ExportForm, numbers: dict[str, Any], header: str = "") -> str:
    """The text of an export's `README.md`.

    Args:
        source: what was exported.
        form: form of the export.
        numbers: statistics of what was exported.
        header: YAML for the top of the file, without its fences.
    """
    parts = [f"---\n{header}---\n"] if header else []
    parts.append("# Amodal reasoning segmentation: questions, answers and the masks they mention\n")
    parts.append(f"{FORM_NOTES[form]}\n")
    parts.append("## Statistics\n")
    parts.append(_table(numbers))
    parts.append("## Occlusion rate of the objects mentioned\n")
    parts.append(_histogram(numbers["occlusion"]))
    parts.append("## How it was made\n")
    parts.append(_provenance(source, numbers))
    return "\n".join(parts)


def _validate(source: ExportSource) -> None:
    found = False
    for image, pairs in source.images():
        found = True
        known = {record["id"] for record in source.work.object_records(image.id)}
        for pair in pairs:
            ids = [number for number, _ in parse_answer(pair.answer)]
            if not ids or not known.issuperset(ids):
                raise InputError(f"pair {pair.id}: expected an answer about objects of its image, got {pair.answer!r}")
    if not found:
        counts = {state: count for state, count in source.work.pairs.counts().items() if count}
        listed = ", ".join(f"{count} {state}" for state, count in counts.items()) or "none at all"
        raise InputError(f"states: expected pairs that are {' or '.join(source.states)}, got {listed}")


def _table(numbers: dict[str, Any]) -> str:
    lines = [_row(("", "images", "pairs", "pairs per image")), "| --- | ---: | ---: | ---: |"]
    for name, side in {**numbers["splits"], "all": numbers}.items():
        ratio = f"{side['pairs'] / side['images']:.1f}" if side["images"] else "-"
        lines.append(_row((name, f"{side['images']:,}", f"{side['pairs']:,}", ratio)))
    answer = numbers["objects_per_answer"]
    counted = ", ".join(f"{count:,} with {length}" for length, count in answer["counts"].items())
    return "\n".join(lines) + f"\n\nObjects per answer: {answer['mean']:.2f} on average ({counted}).\n"


def _histogram(occlusion: dict[str, Any]) -> str:
    total = max(occlusion["objects"], 1)
    lines = ["| occlusion rate | objects | share |", "| --- | ---: | ---: |"]
    for index, count in enumerate(occlusion["histogram"]):
        lines.append(_row((f"{index / BINS:.0%} to {(index + 1) / BINS:.0%}", f"{count:,}", f"{count / total:.1%}")))
    return "\n".join(lines) + f"\n\n{occlusion['whole']:,} of {occlusion['objects']:,} objects are not occluded.\n"


def _provenance(source: ExportSource, numbers: dict[str, Any]) -> str:
    work = source.work
    sources = work.settings().get("source", {"sources": []})["sources"]
    formats = ", ".join(sorted({one["format"] for one in sources})) or "unknown"
    by_reviewer = work.reviews.counts_by_reviewer()
    states = ", ".join(f"{numbers['states'][state]:,} {state.replace('_', '-')}" for state in source.states)
    lines = [
        f"- Images and masks: from annotations in the form {formats}; their licences also apply to this dataset.",
        f"- Written by: {', '.join(work.pairs.writers()) or 'nobody'}.",
        "- Checked automatically: markup, masks, words that give the answer away, occlusion, length, language, "
        "duplicates.",
        f"- Reviewed: {sum(by_reviewer.values()):,} reviews by {len(by_reviewer)} people.",
        f"- Exported states: {states}.",
    ]
    num_modal = work.num_modal_objects()
    if num_modal:
        lines.append(f"- {num_modal:,} objects have no known amodal mask; their visible mask is used instead.")
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
