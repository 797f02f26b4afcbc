"""How many pairs and replies are wanted per image: `generate` stores both numbers, so that `check` counts by them."""

from __future__ import annotations

from dataclasses import dataclass

from amodal.datagen.store.work_folder import WorkFolder
from amodal.errors import InputError

_SETTING = "wanted"


@dataclass(frozen=True)
class WantedPairs:
    """What is wanted of each image.

    Attributes:
        pairs: number of question-answer pairs (paper section 4.2: "ten question-and-answer pairs").
        rounds: maximum number of replies over all runs: the first one, and retries for pairs that failed.

    Raises:
        InputError: a number below 1.
    """

    pairs: int = 10
    rounds: int = 3

    def __post_init__(self) -> None:
        for name in ("pairs", "rounds"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected 1 or more, got {getattr(self, name)}")


def wanted_pairs(work: WorkFolder, pairs: int | None = None, rounds: int | None = None) -> WantedPairs:
    """What is wanted of each image of a work folder.

    Args:
        work: work folder.
        pairs: number of pairs; that of the last `generate` in this folder if None, or 10 before the first.
        rounds: number of replies; likewise, or 3.

    Raises:
        InputError: a number below 1.
    """
    given = {name: value for name, value in (("pairs", pairs), ("rounds", rounds)) if value is not None}
    return WantedPairs(**(work.settings().get(_SETTING, {}) | given))


def keep_wanted(work: WorkFolder, wanted: WantedPairs) -> None:
    """Store what is wanted in the work folder."""
    work.set_settings({_SETTING: vars(wanted)})
