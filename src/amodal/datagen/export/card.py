"""The dataset card: what is in an exported dataset, with the figures of the paper's section 4.1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amodal.datagen.stats import BINS
from amodal.datagen.store.manifest import Manifest
from amodal.datagen.store.records import PairState

FORM_NOTES = {
    "canonical": "`annotations.json` (COCO JSON with visible and amodal masks), `questions.json` and one question "
    "file for each side of the split, `images/`. `{seg:ID}` in an answer names an annotation.",
    "parquet": "One row an image, in `data/`: the picture, its objects with visible and amodal masks (COCO RLE), and "
    "its question-answer pairs. `{seg:ID}` in an answer names an object.",
    "muse": "One JSON list for each side of the split, one record an image, with `questions`, `answers` (the objects, "
    "in the order of the placeholders; `segmentation` is the amodal mask, `visible_mask` the visible one) and "
    "`text_answers` with `{seg}` placeholders. Pictures are in `images/`.",
    "reasonseg": "A picture and a JSON file for each pair, below `amodal/` with amodal polygons and below `visible/` "
    "with visible ones. ReasonSeg has one mask a question: the objects of an answer are its `target` shapes.",
}


def write_card(
    path: Path, manifest: Manifest, form: str, figures: dict[str, Any], states: Sequence[PairState], front: str = ""
) -> None:
    """Write `README.md`.

    Args:
        path: file to write.
        manifest: the work folder.
        form: how it was exported.
        figures: of `statistics`, over what was exported.
        states: of the pairs exported.
        front: YAML for the top of the file, without its fences.
    """
    parts = [f"---\n{front}---\n"] if front else []
    parts.append("# Amodal reasoning segmentation: questions, answers and the masks they mention\n")
    parts.append(f"{FORM_NOTES[form]}\n")
    parts.append("## Figures\n")
    parts.append(_table(figures))
    parts.append("## Hidden share of the objects mentioned\n")
    parts.append(_histogram(figures["occlusion"]))
    parts.append("## How it was made\n")
    parts.append(_provenance(manifest, figures, states))
    path.write_text("\n".join(parts), encoding="utf-8")


def _table(figures: dict[str, Any]) -> str:
    rows = [("", "images", "pairs", "pairs an image")]
    sides = {**figures["splits"], "all": figures}
    for name, side in sides.items():
        ratio = f"{side['pairs'] / side['images']:.1f}" if side["images"] else "-"
        rows.append((name, f"{side['images']:,}", f"{side['pairs']:,}", ratio))
    lines = [_row(rows[0]), "| --- | ---: | ---: | ---: |", *map(_row, rows[1:])]
    answer = figures["objects_per_answer"]
    counted = ", ".join(f"{count:,} with {length}" for length, count in answer["counts"].items())
    return "\n".join(lines) + f"\n\nObjects an answer: {answer['mean']:.2f} on average ({counted}).\n"


def _histogram(occlusion: dict[str, Any]) -> str:
    total = max(occlusion["objects"], 1)
    lines = ["| hidden | objects | share |", "| --- | ---: | ---: |"]
    for index, count in enumerate(occlusion["histogram"]):
        lines.append(_row((f"{index / BINS:.0%} to {(index + 1) / BINS:.0%}", f"{count:,}", f"{count / total:.1%}")))
    return "\n".join(lines) + f"\n\n{occlusion['whole']:,} of {occlusion['objects']:,} objects are not hidden at all.\n"


def _provenance(manifest: Manifest, figures: dict[str, Any], states: Sequence[PairState]) -> str:
    source = manifest.settings().get("source", {"sources": []})
    writers = manifest.query("SELECT DISTINCT who FROM history WHERE state = 'generated' ORDER BY who")
    people = manifest.query("SELECT count(DISTINCT reviewer), count(*) FROM reviews")[0]
    formats = ", ".join(sorted({one["format"] for one in source["sources"]})) or "unknown"
    held = ", ".join(f"{figures['states'][state]:,} {state.replace('_', '-')}" for state in states)
    lines = [
        f"- Images and masks: from annotations in the form {formats}; their licences hold for what is derived.",
        f"- Written by: {', '.join(who for (who,) in writers) or 'nobody'}.",
        "- Checked automatically: markup, masks, words that give the answer away, occlusion, length, language, "
        "duplicates.",
        f"- Reviewed: {people[1]:,} reviews by {people[0]} people.",
        f"- Exported states: {held}.",
    ]
    modal = manifest.query("SELECT count(*) FROM objects WHERE record LIKE '%\"amodal_unknown\": true%'")[0][0]
    if modal:
        lines.append(f"- {modal:,} objects have no known amodal mask; their visible mask stands in for it.")
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
