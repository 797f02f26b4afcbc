"""Question files about procedural scenes, with answers that are correct by construction.

The questions about an image depend on the seed and the image's id alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from amodal.data.datasets import read_dataset
from amodal.data.reason_seg import write_questions
from amodal.data.relations import derive_occluders
from amodal.data.samples import AnnotatedDataset, ImageSample
from amodal.errors import InputError
from amodal.io.progress import progress_bar
from amodal.questions.facts import Facts
from amodal.questions.list_forms import LISTS, Lists, alone, scene_lists
from amodal.questions.scene_forms import PRESENT_SHARE, scene_conversations
from amodal.questions.wording import SCENE_KINDS, WORDS, Question, Words


def synthesize_questions(
    annotations: Path,
    out: Path,
    *,
    seed: int = 0,
    words: Words = "train",
    present: float | None = None,
    lists: Lists | None = None,
    images: Path | None = None,
    count: int | None = None,
    progress: bool = True,
) -> Path:
    """Write a question file about procedural scenes, or about other images whose amodal masks are known.

    About images with other kinds than those of procedural scenes it asks less, see `scene_conversations`.

    Args:
        annotations: canonical file that `synthesize` wrote for `scenes`.
        out: question file to write.
        seed: the same seed gives the same bytes.
        words: `train`, or the `held_out` forms that occur in no training question; `free` and `free_held_out` have
            many more forms, for a model that knows English already.
        present: share of the questions for a purpose or a kind whose answer is in the scene; `PRESENT_SHARE` if None.
        lists: write these lists of `questions.list_forms` instead of single questions and conversations.
        images: folder of the images; `images/` beside the annotations if None.
        count: number of images to ask about, from the first; all if None.
        progress: show a bar on stderr.

    Returns:
        `out`.

    Raises:
        InputError: the annotations cannot be read, a setting is invalid, `out` cannot be written, or there is no
            question about any image.
    """
    if count is not None and count < 1:
        raise InputError(f"count: expected 1 or more, got {count}")
    if out.exists() and annotations.exists() and out.samefile(annotations):
        raise InputError(f"out: expected another file than the annotations, got {str(out)!r}")
    dataset = read_dataset("canonical", annotations, images)
    per_image = question_records(dataset, seed, words, count, present, lists)
    total = min(len(dataset.images), count or len(dataset.images))
    shown = progress_bar(per_image, "questions", progress, total)
    return write_questions(out, (record for records in shown for record in records))


def question_records(
    dataset: AnnotatedDataset,
    seed: int,
    words: Words,
    count: int | None = None,
    present: float | None = None,
    lists: Lists | None = None,
) -> Iterator[list[dict[str, Any]]]:
    """Write the records of a question file, image by image.

    Args:
        dataset: procedural scenes, or other images.
        seed: apart from their ids, the records about an image depend on it and the image's id alone.
        words: part of the wording.
        count: as for `synthesize_questions`.
        present: as for `synthesize_questions`.
        lists: as for `synthesize_questions`.

    Raises:
        InputError: `words`, `lists`, `seed` or `present` is invalid, `lists` is combined with words other than
            `train` (but for `talk` and `decisions`) or with `present`, is `all` for kinds other than those of
            procedural scenes, or an object has no amodal mask.
    """
    if words not in WORDS:
        raise InputError(f"words: expected one of {', '.join(WORDS)}, got {words!r}")
    if lists is not None and lists not in LISTS:
        raise InputError(f"lists: expected one of {', '.join(LISTS)}, got {lists!r}")
    if lists in ("kinds", "all") and words != "train":
        raise InputError(f"words: expected 'train' for lists, got {words!r}")
    if seed < 0:
        raise InputError(f"seed: expected 0 or more, got {seed}")
    if lists and present is not None:
        raise InputError(f"present: expected without lists, got {present:g}")
    present = PRESENT_SHARE if present is None else present
    if not 0 <= present <= 1:
        raise InputError(f"present: expected a share in [0, 1], got {present}")
    unknown = sorted(set(dataset.categories.values()) - set(SCENE_KINDS))
    if unknown and lists == "all":
        raise InputError(f"annotations: expected kinds of procedural scenes, got {', '.join(unknown[:3])}")
    return _records(dataset, seed, words, count, present, lists)


def _records(
    dataset: AnnotatedDataset, seed: int, words: Words, count: int | None, present: float, lists: Lists | None
) -> Iterator[list[dict[str, Any]]]:
    number, kinds = 0, _kinds(dataset)
    frequency = kind_frequency(dataset) if lists == "decisions" else None
    for image in dataset.images[:count]:
        facts, rng, records = _facts(image, dataset.categories), np.random.default_rng((seed, image.id)), []
        if lists:
            written = scene_lists(facts, rng, lists, words, kinds, frequency)
        else:
            written = scene_conversations(facts, rng, words, present, kinds)
        for turns in written:
            number += 1
            records.append({"id": number, "image_id": image.id, **_texts(turns)})
        yield records


def _kinds(dataset: AnnotatedDataset) -> tuple[str, ...]:
    """The kinds that questions may name: of procedural scenes, or else all of the dataset."""
    names = {_plain(name) for name in dataset.categories.values()}
    return SCENE_KINDS if names <= set(SCENE_KINDS) else tuple(sorted(names))


def kind_frequency(dataset: AnnotatedDataset) -> Counter[str]:
    """In how many images each kind has exactly one object."""
    names = {key: _plain(name) for key, name in dataset.categories.items()}
    shown = (alone([names.get(obj.category_id, "") for obj in image.objects]) for image in dataset.images)
    return Counter(kind for kinds in shown for kind in kinds)


def _plain(name: str) -> str:
    return name.replace("_", " ").strip()


def _facts(image: ImageSample, categories: Mapping[int, str]) -> Facts:
    for obj in image.objects:
        if obj.category_id not in categories:
            raise InputError(f"image {image.id}: expected categories with names, got {obj.category_id} without one")
        if obj.amodal_rle is None:
            raise InputError(f"image {image.id}: expected objects with amodal masks, got one without")
    return Facts(derive_occluders(image), categories)


def _texts(turns: list[Question]) -> dict[str, Any]:
    families, questions, answers = (
        [getattr(turn, name) for turn in turns] for name in ("family", "text", "answer")
    )  # fmt: skip
    if len(turns) == 1:
        return {"kind": families[0], "question": questions[0], "answer": answers[0]}
    return {"kind": families, "question": questions, "answer": answers}
