"""The offline writer: fills in question templates, so that the answers follow from the masks.

The templates ask about use, occlusion, places and sizes, which works for any image. Questions about use need facts
about the category (`questions.knowledge`); kinds of objects that nobody has facts about get none.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterator

from amodal.datagen.backends.base import BackendReply, UsageEstimate, WritingTask
from amodal.datagen.policy import MAX_SHARED, MIN_SEVERAL
from amodal.datagen.prompt import to_response
from amodal.datagen.rules import RuleContext, RuleSettings, check_duplicate, check_pair, object_ids
from amodal.datagen.store.records import Draft
from amodal.questions.image_forms import image_questions
from amodal.questions.knowledge import Knowledge, built_in_facts
from amodal.questions.wording import Question

FIRST = ("purpose", "belongs", "hidden", "obstacle", "uncover", "whole", "outer", "two_of_a_kind")
"""Names of the families that are drawn from first: the others ask about places and sizes."""


class TemplateBackend:
    """Writes pairs without a model. The same seed and image give the same pairs.

    Args:
        seed: seed of all random choices.
        knowledge: facts about categories; the built-in ones if None.
    """

    def __init__(self, seed: int = 0, knowledge: Knowledge | None = None) -> None:
        self.name = "template"
        self._seed = seed
        self._knowledge = built_in_facts() if knowledge is None else knowledge

    def estimate(self, task: WritingTask) -> UsageEstimate:
        """Estimate no tokens: this backend is free."""
        return UsageEstimate()

    async def ask(self, task: WritingTask) -> BackendReply:
        """Write the pairs at once."""
        drafts = self.write(task)
        text = to_response(drafts)
        return BackendReply(text, text, exhausted=len(drafts) < task.count)

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def write(self, task: WritingTask) -> list[Draft]:
        """Write at most `task.count` pairs that satisfy the rules; fewer if the image does not allow more.

        No more than `MAX_SHARED` pairs mention the same objects, and of several objects enough answers mention two or
        more (`policy.py`), so an image with few objects gets fewer pairs.
        """
        rng = random.Random(f"{self._seed} {task.image.id} {task.round}")
        context = RuleContext(task.image, task.categories, RuleSettings(knowledge=self._knowledge))
        drafts = [_draft(question) for question in _in_turns(image_questions(context.facts, rng, self._knowledge), rng)]
        several = [draft for draft in drafts if _num_objects(draft) > 1]
        single = [draft for draft in drafts if _num_objects(draft) == 1]
        chosen = _Chosen(context, [*task.kept, *(Draft(one.question, one.answer) for one in task.rejected)])
        num_kept = sum(_num_objects(draft) > 1 for draft in task.kept)
        chosen.add(several, math.ceil((task.count + len(task.kept)) * MIN_SEVERAL - 1e-9) - num_kept)
        most_single = int((len(chosen.drafts) + num_kept) * (1 - MIN_SEVERAL) / MIN_SEVERAL + 1e-9)
        most_single -= len(task.kept) - num_kept
        if len(context.facts) == 1:
            most_single = task.count
        chosen.add(single, min(task.count, len(chosen.drafts) + max(most_single, 0)))
        chosen.add(several, task.count)
        rng.shuffle(chosen.drafts)
        return chosen.drafts


class _Chosen:
    """The pairs chosen so far.

    Args:
        context: what they are checked against.
        taken: pairs of earlier rounds.
    """

    def __init__(self, context: RuleContext, taken: list[Draft]) -> None:
        self.drafts: list[Draft] = []
        self._context, self._taken = context, taken

    def add(self, drafts: list[Draft], limit: int) -> None:
        """Add pairs that satisfy the rules until there are `limit`."""
        for draft in drafts:
            if len(self.drafts) >= limit:
                return
            earlier = self._taken + self.drafts
            objects = set(object_ids(draft.answer))
            if sum(set(object_ids(one.answer)) == objects for one in earlier) >= MAX_SHARED:
                continue
            if check_duplicate(draft, earlier, self._context.settings) or check_pair(draft, self._context):
                continue
            self.drafts.append(draft)


def _in_turns(questions: Iterator[Question], rng: random.Random) -> list[Question]:
    """One question of each family, then a second one, and so on."""
    families = defaultdict[str, list[Question]](list)
    for question in questions:
        families[question.family].append(question)
    names = list(families)
    rng.shuffle(names)
    names.sort(key=lambda name: not name.startswith(FIRST))
    for name in names:
        rng.shuffle(families[name])
    ordered = []
    for turn in range(max(map(len, families.values()), default=0)):
        ordered += [families[name][turn] for name in names if turn < len(families[name])]
    return ordered


def _num_objects(draft: Draft) -> int:
    return len(object_ids(draft.answer))


def _draft(question: Question) -> Draft:
    return Draft(question.text, question.answer, question.claims)
