"""What a writer of question-answer pairs is to the rest of the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from amodal.data.samples import ImageSample
from amodal.datagen.prompt import Rejected


@dataclass(frozen=True)
class Task:
    """Pairs wanted for one image.

    Attributes:
        image: with its objects.
        categories: names by id.
        count: pairs wanted.
        round: how many answers about this image there were before.
        key: the same for the same task in every run, so that a server can tell a repeated request.
        kept: questions of the image that stay.
        rejected: pairs of earlier rounds that did not pass.
        complaint: why the last answer as a whole could not be used, or None.
    """

    image: ImageSample
    categories: dict[int, str]
    count: int
    round: int
    key: str
    kept: Sequence[str] = ()
    rejected: Sequence[Rejected] = ()
    complaint: str | None = None


@dataclass(frozen=True)
class Answer:
    """What came back, and what it used up.

    Attributes:
        text: to be read by `prompt.parse_response`.
        raw: everything that was received, as JSON, for keeping.
        prompt_tokens: as counted by the server, or estimated.
        completion_tokens: likewise.
    """

    text: str
    raw: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class Estimate:
    """The most a request may use up."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class BackendError(Exception):
    """A request that brought no answer.

    Attributes:
        retry: whether the same request may succeed later.
        fatal: whether every other request would fail the same way.
        wait: seconds the server asks to wait, or None.
    """

    def __init__(self, message: str, *, retry: bool, fatal: bool = False, wait: float | None = None) -> None:
        super().__init__(message)
        self.retry, self.fatal, self.wait = retry, fatal, wait


class Backend(Protocol):
    """Writes question-answer pairs about images.

    Attributes:
        name: for the history of pairs, such as `openai/gpt-4o`.
    """

    name: str

    def estimate(self, task: Task) -> Estimate:
        """The most that asking for this may use up."""

    async def ask(self, task: Task) -> Answer:
        """Ask once.

        Raises:
            BackendError: no answer came.
        """

    async def close(self) -> None:
        """Let go of connections."""
