"""The offline writer: questions by form, answers right by construction.

It knows what common kinds of objects are for (`purposes`), where objects are, how large they are and
what hides what. That gives enough to ask about any picture, also of unknown kinds; for pictures of
procedural scenes it also asks what `data.synthetic.questions` knows to ask.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import chain

import numpy as np

from amodal.datagen.backends.base import Answer, Estimate, Task
from amodal.datagen.prompt import to_response
from amodal.datagen.rules import Context, check_duplicate, check_pair, object_ids
from amodal.datagen.store.records import Draft
from amodal.questions.image_facts import Facts
from amodal.questions.image_forms import all_questions, fillers
from amodal.questions.scene_facts import SceneFacts
from amodal.synthetic.questions import questions_about
from amodal.synthetic.shapes import THINGS

SCENE_SHARE = 0.4  # of the pairs of a procedural scene, from its own questions
SCENE_DRAWS = 4  # times about ten scene questions are drawn, as most name what they ask for


class TemplateBackend:
    """Writes without any model, the same for the same seed and image.

    Args:
        seed: of the choices.
    """

    def __init__(self, seed: int = 0) -> None:
        self.name = "template"
        self._seed = seed

    def estimate(self, task: Task) -> Estimate:
        """Nothing: it is free."""
        return Estimate()

    async def ask(self, task: Task) -> Answer:
        """Write at once."""
        text = to_response(self.write(task))
        return Answer(text, text)

    async def close(self) -> None:
        """Nothing to close."""

    def write(self, task: Task) -> list[Draft]:
        """At most `task.count` pairs that keep to the rules; fewer where the picture gives no more."""
        rng = random.Random(f"{self._seed} {task.image.id} {task.round}")
        context = Context(task.image, task.categories)
        facts = Facts(task.image, task.categories)
        rest = fillers(facts, rng)
        general = [*all_questions(facts, rng), *rest[:1]]
        rng.shuffle(general)
        general = _mixed(general)
        scene = self._scene_questions(task)
        kept: list[Draft] = []
        taken = [Draft(question, "") for question in (*task.kept, *(one.question for one in task.rejected))]
        for limit, drafts in ((round(task.count * SCENE_SHARE), scene), (task.count, chain(general, scene, rest[1:]))):
            for draft in drafts:
                if len(kept) >= limit:
                    break
                if check_pair(draft, context) or check_duplicate(draft, taken + kept, context.settings):
                    continue
                kept.append(draft)
        rng.shuffle(kept)
        return kept

    def _scene_questions(self, task: Task) -> Iterator[Draft]:
        kinds = {task.categories.get(thing.category_id) for thing in task.image.objects}
        if not kinds <= set(THINGS):
            return
        facts = SceneFacts(task.image, task.categories)
        for draw in range(SCENE_DRAWS):
            rng = np.random.default_rng((self._seed, task.image.id, task.round, draw))
            for conversation in questions_about(facts, rng, "train"):
                first = conversation[0]  # later turns lean on it
                if "{seg:" in first.answer:
                    yield Draft(first.question, first.answer)


def _mixed(drafts: list[Draft]) -> list[Draft]:
    """Two answers that mention several objects for each that mentions one, as long as there are both."""
    several = [draft for draft in drafts if len(object_ids(draft.answer)) > 1]
    single = [draft for draft in drafts if len(object_ids(draft.answer)) <= 1]
    mixed = list[Draft]()
    while several or single:
        mixed += several[:2] + single[:1]
        several, single = several[2:], single[1:]
    return mixed
