"""An assistant that gives the true answers, changed in known ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from amodal.data.reason_seg import ReasonDataset, ReasonTurn
from amodal.inference.assistant import Reply
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject

Change = Callable[[Reply], Reply]


def scene_objects(turn: ReasonTurn) -> list[SceneObject]:
    pairs = [
        (obj.visible_mask(), obj.amodal_mask(), phrase) for obj, phrase in zip(turn.objects, turn.phrases, strict=True)
    ]
    return [SceneObject.from_masks(v, a, phrase=phrase) for v, a, phrase in pairs if a is not None]


def reply_with(reply: Reply, objects: Sequence[SceneObject]) -> Reply:
    return replace(reply, scene=Scene(list(objects), reply.scene.size))


@dataclass
class Oracle:
    """Gives the true answers, changed by `change`; recognizes a conversation by its image and questions."""

    dataset: ReasonDataset
    change: Change = lambda reply: reply
    stop_after: int | None = None
    heard: list[tuple[str, ...]] = field(default_factory=list)
    told: list[Any] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    processor: Any = field(default_factory=lambda: SimpleNamespace(seg_token="<mask>"))

    def converse(
        self, conversations: Sequence[tuple[np.ndarray, Sequence[str]]], *, answers: Any = None
    ) -> list[list[Reply]]:
        replies = []
        for image, questions in conversations:
            if self.stop_after is not None and len(self.heard) >= self.stop_after:
                raise KeyboardInterrupt
            self.heard.append(tuple(questions))
            (known,) = [
                c
                for c in self.dataset.conversations
                if [t.question for t in c.turns] == list(questions) and (c.image.load() == image).all()
            ]
            size = known.image.size
            replies.append([self.change(Reply(t.text, Scene(scene_objects(t), size), ())) for t in known.turns])
        self.batches.append(len(conversations))
        self.told += [None] * len(conversations) if answers is None else answers
        return replies


def silent(reply: Reply) -> Reply:
    return replace(reply_with(reply, []), text="Nothing.")


def with_amodal_masks(reply: Reply, amodal_mask: Callable[[np.ndarray], np.ndarray]) -> Reply:
    visible = [(o.visible_mask, o.phrase) for o in reply.scene.objects]
    return reply_with(reply, [SceneObject.from_masks(v, amodal_mask(v), phrase=phrase) for v, phrase in visible])


def visible_only(reply: Reply) -> Reply:
    return with_amodal_masks(reply, lambda visible: visible)
