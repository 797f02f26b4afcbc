"""Questions about procedural scenes with answers that are right by construction.

A picture gets some single questions and two conversations, about ten turns, drawn by the seed and the
image's id alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from amodal.data.formats.canonical import read_canonical
from amodal.data.question_writer import write_questions
from amodal.data.samples import AnnotatedDataset
from amodal.errors import InputError
from amodal.io.progress import bar
from amodal.questions.scene_facts import SceneFacts
from amodal.questions.scene_families import FAMILIES, FOLLOW_UPS, OPENERS, PRESENT_SHARE, Ask, Asker, Family
from amodal.questions.scene_lists import LISTS, Lists
from amodal.questions.scene_wording import WORDS, Words
from amodal.synthetic.shapes import THINGS

SINGLE = 4  # questions a picture besides the conversations
TURNS = ((2, 2), (3, 5))  # fewest and most turns of each conversation
TRIES = 60


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
    """Write a question file about procedural scenes.

    Args:
        annotations: canonical file that `synthesize` wrote for `scenes`.
        out: question file to write.
        seed: the same seed gives the same bytes.
        words: `train`, or the `held_out` forms that no training question uses.
        present: share of questions for a purpose or a kind whose answer is in the scene; PRESENT_SHARE if None.
        lists: ask those of `questions_lists` in the place of single questions and conversations.
        images: folder of the images; `images/` beside the annotations if None.
        count: ask about the first pictures only.
        progress: show a bar on stderr.

    Returns:
        `out`.

    Raises:
        InputError: unreadable annotations, settings that cannot be used, an `out` that cannot be written, or
            pictures without a question.
    """
    if count is not None and count < 1:
        raise InputError(f"count: expected 1 or more, got {count}")
    if out.exists() and annotations.exists() and out.samefile(annotations):
        raise InputError(f"out: expected another file than the annotations, got {str(out)!r}")
    dataset = read_canonical(annotations, images)
    pictures = question_records(dataset, seed, words, count, present, lists)
    total = min(len(dataset.images), count or len(dataset.images))
    shown = bar(pictures, "questions", progress, total)
    return write_questions(out, (record for records in shown for record in records))


def question_records(
    dataset: AnnotatedDataset,
    seed: int,
    words: Words,
    count: int | None = None,
    present: float | None = None,
    lists: Lists | None = None,
) -> Iterator[list[dict[str, Any]]]:
    """Records of a question file, picture by picture.

    Args:
        dataset: procedural scenes.
        seed: the records of a picture depend on it and the image's id alone, but for their numbers.
        words: side of the wording.
        count: first pictures to ask about; all if None.
        present: as for `synthesize_questions`.
        lists: likewise.

    Raises:
        InputError: words that are neither side, unknown lists, held-out words or a share of them, a seed below 0, a
            share beyond [0, 1], kinds that are not of procedural scenes, or an object without an amodal mask.
    """
    if words not in WORDS:
        raise InputError(f"words: expected one of {', '.join(WORDS)}, got {words!r}")
    if lists is not None and lists not in LISTS:
        raise InputError(f"lists: expected one of {', '.join(LISTS)}, got {lists!r}")
    if lists and words != "train":
        raise InputError(f"words: expected 'train' for lists, got {words!r}")
    if seed < 0:
        raise InputError(f"seed: expected 0 or more, got {seed}")
    if lists and present is not None:
        raise InputError(f"present: expected without lists, got {present:g}")
    present = PRESENT_SHARE if present is None else present
    if not 0 <= present <= 1:
        raise InputError(f"present: expected a share in [0, 1], got {present}")
    unknown = sorted(set(dataset.categories.values()) - set(THINGS))
    if unknown:
        raise InputError(f"annotations: expected kinds of procedural scenes, got {', '.join(unknown[:3])}")
    return _records(dataset, seed, words, count, present, lists)


def questions_about(
    facts: SceneFacts, rng: np.random.Generator, words: Words, present: float = PRESENT_SHARE
) -> list[list[Ask]]:
    """Conversations about one scene, most of a single turn; empty for a scene without objects."""
    if not len(facts):
        return []
    asker = Asker(facts, rng, words, present)
    conversations = [[first] for first in (_draw(asker, FAMILIES) for _ in range(SINGLE)) if first]
    for fewest, most in TURNS:
        turns = _converse(asker, int(rng.integers(fewest, most + 1)))
        if turns:
            conversations.append(turns)
    return conversations


def lists_about(facts: SceneFacts, rng: np.random.Generator, lists: Lists = "all") -> list[list[Ask]]:
    """Lists about a scene, a conversation each; empty for a scene without objects."""
    asker = Asker(facts, rng, "train")
    made = [ask(asker) for ask in LISTS[lists]] if len(facts) else []
    return [[ask] for ask in made if ask is not None]


def _converse(asker: Asker, wanted: int) -> list[Ask]:
    """A question, follow-ups as long as the answers give rise to them, else something new."""
    opener = _draw(asker, OPENERS)
    turns = [opener] if opener else []
    while turns and len(turns) < wanted:
        follower = _draw(asker, FOLLOW_UPS, turns) or _draw(asker, FAMILIES)
        if follower is None:
            break
        turns.append(follower)
    return turns


def _draw(asker: Asker, families: Mapping[Family, float], turns: Sequence[Ask] = ()) -> Ask | None:
    """A question for the picture, or a follow-up to `turns`; None if `TRIES` found nothing new.

    New is a question not asked about the picture before, whose answer was not given in the conversation
    nor, if it names objects, about the picture.
    """
    makers, weights = list(families), np.array(list(families.values()))
    answered = asker.answers | {turn.answer for turn in turns}
    for _ in range(TRIES):
        maker = makers[int(asker.rng.choice(len(makers), p=weights / weights.sum()))]
        made = maker(asker, turns[-1]) if turns else maker(asker)
        if made is None or made.question in asker.asked or made.answer in answered:
            continue
        asker.asked.add(made.question)
        if made.named:
            asker.answers.add(made.answer)
        if made.purpose is not None:
            asker.purposes.add(made.purpose)
        return made
    return None


def _records(
    dataset: AnnotatedDataset, seed: int, words: Words, count: int | None, present: float, lists: Lists | None
) -> Iterator[list[dict[str, Any]]]:
    number = 0
    for image in dataset.images[:count]:
        facts, rng, records = SceneFacts(image, dataset.categories), np.random.default_rng((seed, image.id)), []
        asked = lists_about(facts, rng, lists) if lists else questions_about(facts, rng, words, present)
        for turns in asked:
            number += 1
            records.append({"id": number, "image_id": image.id, **_texts(turns)})
        yield records


def _texts(turns: list[Ask]) -> dict[str, Any]:
    if len(turns) == 1:
        return {"kind": turns[0].kind, "question": turns[0].question, "answer": turns[0].answer}
    asked, answered = [t.question for t in turns], [t.answer for t in turns]
    return {"kind": [t.kind for t in turns], "question": asked, "answer": answered}
