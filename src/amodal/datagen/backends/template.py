"""The offline writer: fills in question templates, so that the answers are correct by construction.

The templates ask about purposes, places, sizes and occlusion, which works for any image, also with unknown kinds of
objects. If all objects are kinds of procedural scenes, the writer also asks the questions of `questions.scene_forms`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import chain

import numpy as np

from amodal.datagen.backends.base import BackendReply, UsageEstimate, WritingTask
from amodal.datagen.prompt import to_response
from amodal.datagen.rules import RuleContext, check_duplicate, check_pair, object_ids
from amodal.datagen.store.records import Draft
from amodal.questions.facts import Facts
from amodal.questions.image_forms import image_questions, inventory_questions
from amodal.questions.scene_forms import scene_conversations
from amodal.questions.wording import SCENE_KINDS, Question

SCENE_SHARE = 0.4  # of the pairs about a procedural scene that come from its own questions
SCENE_ROUNDS = 4  # rounds of about ten scene questions; the rules reject most, as they name what they ask for


class TemplateBackend:
    """Writes pairs without a model. The same seed and image give the same pairs.

    Args:
        seed: seed of all random choices.
    """

    def __init__(self, seed: int = 0) -> None:
        self.name = "template"
        self._seed = seed

    def estimate(self, task: WritingTask) -> UsageEstimate:
        """Estimate no tokens: this backend is free."""
        return UsageEstimate()

    async def ask(self, task: WritingTask) -> BackendReply:
        """Write the pairs at once."""
        text = to_response(self.write(task))
        return BackendReply(text, text)

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def write(self, task: WritingTask) -> list[Draft]:
        """Write at most `task.count` pairs that satisfy the rules; fewer if the image does not allow more."""
        rng = random.Random(f"{self._seed} {task.image.id} {task.round}")
        context = RuleContext(task.image, task.categories)
        facts = Facts(task.image, task.categories)
        inventory = [_draft(question) for question in inventory_questions(facts, rng)]
        general = [*map(_draft, image_questions(facts, rng)), *inventory[:1]]
        rng.shuffle(general)
        general = _mixed(general)
        scene = self._scene_drafts(task, facts)
        kept: list[Draft] = []
        taken = [Draft(question, "") for question in (*task.kept, *(pair.question for pair in task.rejected))]
        for limit, drafts in (
            (round(task.count * SCENE_SHARE), scene),
            (task.count, chain(general, scene, inventory[1:])),
        ):
            for draft in drafts:
                if len(kept) >= limit:
                    break
                if check_pair(draft, context) or check_duplicate(draft, taken + kept, context.settings):
                    continue
                kept.append(draft)
        rng.shuffle(kept)
        return kept

    def _scene_drafts(self, task: WritingTask, facts: Facts) -> Iterator[Draft]:
        if not set(facts.kinds) <= set(SCENE_KINDS):
            return
        for repetition in range(SCENE_ROUNDS):
            rng = np.random.default_rng((self._seed, task.image.id, task.round, repetition))
            for conversation in scene_conversations(facts, rng, "train"):
                first = conversation[0]  # later turns depend on it
                if "{seg:" in first.answer:
                    yield _draft(first)


def _draft(question: Question) -> Draft:
    return Draft(question.text, question.answer, question.claims)


def _mixed(drafts: list[Draft]) -> list[Draft]:
    """Two answers that mention several objects for each that mentions one, as long as there are both."""
    several = [draft for draft in drafts if len(object_ids(draft.answer)) > 1]
    single = [draft for draft in drafts if len(object_ids(draft.answer)) <= 1]
    mixed = list[Draft]()
    while several or single:
        mixed += several[:2] + single[:1]
        several, single = several[2:], single[1:]
    return mixed
