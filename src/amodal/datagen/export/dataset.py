"""Stage 5: a finished work folder as a dataset, in the form that others read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from amodal.data.formats.reason_seg import PLACEHOLDER, parse_answer
from amodal.datagen.annotation_file import write_annotations
from amodal.datagen.export.card import write_card
from amodal.datagen.export.parquet import CARD_FRONT, write_parquet
from amodal.datagen.export.shapes import write_shapes
from amodal.datagen.intake import link_file
from amodal.datagen.rules import object_ids
from amodal.datagen.stats import statistics
from amodal.datagen.store.manifest import Manifest
from amodal.datagen.store.records import Pair, PairState, SplitName, WorkImage
from amodal.errors import InputError
from amodal.io.files import appearing_folder, empty_folder

Form = Literal["canonical", "parquet", "muse", "reasonseg"]
FINISHED: tuple[PairState, ...] = ("accepted", "rewritten")


@dataclass(frozen=True)
class Finished:
    """What an export takes from a work folder.

    Attributes:
        manifest: the work folder.
        states: of the pairs to take.
    """

    manifest: Manifest
    states: tuple[PairState, ...]

    def images(self, split: SplitName | None = None) -> Iterator[tuple[WorkImage, list[Pair]]]:
        """Images that have such pairs, with them, on one side or on both."""
        for image in self.manifest.images():
            if split in (None, image.split):
                pairs = list(self.manifest.pairs(self.states, image_id=image.id))
                if pairs:
                    yield image, pairs


def export(manifest: Manifest, form: Form, out: Path, states: Sequence[PairState] = FINISHED) -> dict[str, Any]:
    """Write a dataset into a new folder; all of it or nothing.

    Args:
        manifest: the work folder.
        form: canonical, parquet, muse or reasonseg.
        out: folder to make.
        states: pairs to take.

    Returns:
        The figures of what was written, as `statistics` gives them.

    Raises:
        InputError: unknown form or state, a folder that holds something, no pair in these states,
            or a pair whose markup names objects that are not there.
    """
    if form not in WRITERS:
        raise InputError(f"to: expected one of {', '.join(WRITERS)}, got {form!r}")
    for state in states:
        if state not in get_args(PairState):
            raise InputError(f"states: expected some of {', '.join(get_args(PairState))}, got {state!r}")
    empty_folder(out, "out")
    source = Finished(manifest, tuple(states))
    _validate(source)
    with appearing_folder(out) as unfinished:
        WRITERS[form](source, unfinished)
        figures = statistics(manifest, states)
        front = CARD_FRONT if form == "parquet" else ""
        write_card(unfinished / "README.md", manifest, form, figures, states, front)
    return figures


def link_images(source: Finished, folder: Path) -> None:
    """Put the pictures of an export into a folder."""
    folder.mkdir()
    for image, _ in source.images():
        link_file(source.manifest.image_path(image), folder / image.file_name)


def write_list(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """A JSON list, one record a line, without holding it in memory."""
    with path.open("w", encoding="utf-8") as file:
        separator = "[\n"
        for record in records:
            file.write(separator + json.dumps(record, ensure_ascii=False))
            separator = ",\n"
        file.write("\n]\n" if separator != "[\n" else "[]\n")


def _validate(source: Finished) -> None:
    found = False
    for image, pairs in source.images():
        found = True
        known = {record["id"] for record in source.manifest.object_records(image.id)}
        for pair in pairs:
            numbers = [number for number, _ in parse_answer(pair.answer)]
            if not numbers or not known.issuperset(numbers):
                raise InputError(f"pair {pair.id}: expected an answer about objects of its image, got {pair.answer!r}")
    if not found:
        counts = {state: count for state, count in source.manifest.pair_counts().items() if count}
        listed = ", ".join(f"{count} {state}" for state, count in counts.items()) or "none at all"
        raise InputError(f"states: expected pairs that are {' or '.join(source.states)}, got {listed}")


def _write_canonical(source: Finished, out: Path) -> None:
    wanted = {image.id for image, _ in source.images()}
    write_annotations(source.manifest, out / "annotations.json", keep=wanted.__contains__)
    link_images(source, out / "images")
    write_list(out / "questions.json", _questions(source, None))
    for split in get_args(SplitName):
        write_list(out / f"questions-{split}.json", _questions(source, split))


def _questions(source: Finished, split: SplitName | None) -> Iterator[dict[str, Any]]:
    for image, pairs in source.images(split):
        for pair in pairs:
            texts = {"question": pair.question, "answer": pair.answer}
            yield {"id": pair.id, "image_id": image.id, **texts, "split": image.split}


def _write_muse(source: Finished, out: Path) -> None:
    link_images(source, out / "images")
    for split in get_args(SplitName):
        write_list(out / f"{split}.json", _muse_records(source, split))


def _muse_records(source: Finished, split: SplitName) -> Iterator[dict[str, Any]]:
    categories = source.manifest.categories()
    for image, pairs in source.images(split):
        objects = {record["id"]: record for record in source.manifest.object_records(image.id)}
        for record in objects.values():
            record["category_name"] = categories[record["category_id"]]
        yield {
            "image_id": image.id,
            "file_name": image.file_name,
            "height": image.height,
            "width": image.width,
            "ann_list": list(objects.values()),
            "questions": [pair.question for pair in pairs],
            "answers": [[objects[number] for number in object_ids(pair.answer)] for pair in pairs],
            "text_answers": [_muse_text(pair.answer) for pair in pairs],
        }


def _muse_text(answer: str) -> str:
    """Words with `{seg}` after each object, without the markup of phrases."""
    return PLACEHOLDER.sub("{seg}", answer).replace("<p>", "").replace("</p>", "")


def _write_parquet(source: Finished, out: Path) -> None:
    write_parquet(source.manifest, {split: source.images(split) for split in get_args(SplitName)}, out / "data")


def _write_reasonseg(source: Finished, out: Path) -> None:
    for image, pairs in source.images():
        write_shapes(source.manifest, image, pairs, out)


WRITERS: dict[str, Callable[[Finished, Path], None]] = {
    "canonical": _write_canonical,
    "parquet": _write_parquet,
    "muse": _write_muse,
    "reasonseg": _write_reasonseg,
}
