"""The interface between the pipeline and a backend that writes question-answer pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from amodal.data.samples import ImageSample
from amodal.datagen.prompt import RejectedPair
from amodal.datagen.store.records import Draft


@dataclass(frozen=True)
class WritingTask:
    """A request for pairs about one image.

    Attributes:
        image: the image with its objects.
        categories: names by id.
        count: number of pairs wanted.
        round: number of earlier replies about this image.
        key: the same for the same task in every run, so that a server recognises a repeated request.
        kept: pairs about the image that stay.
        rejected: pairs of earlier rounds that failed the check.
        complaint: why the last reply as a whole could not be used, or None.
    """

    image: ImageSample
    categories: dict[int, str]
    count: int
    round: int
    key: str
    kept: Sequence[Draft] = ()
    rejected: Sequence[RejectedPair] = ()
    complaint: str | None = None


@dataclass(frozen=True)
class BackendReply:
    """The reply to a writing task, and the tokens it used.

    Attributes:
        text: text for `prompt.parse_response`.
        raw: everything that was received, as JSON, for the record.
        prompt_tokens: as counted by the server, or estimated.
        completion_tokens: as counted by the server, or estimated.
        exhausted: the writer knows no more pairs about this image; there may be none at all.
    """

    text: str
    raw: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    exhausted: bool = False


@dataclass(frozen=True)
class UsageEstimate:
    """The most tokens that a request may use."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class BackendError(Exception):
    """A request that got no reply.

    Attributes:
        retry: whether the same request may succeed later.
        fatal: whether every other request would fail for the same reason.
        wait: seconds that the server asks to wait, or None.
    """

    def __init__(self, message: str, *, retry: bool, fatal: bool = False, wait: float | None = None) -> None:
        super().__init__(message)
        self.retry, self.fatal, self.wait = retry, fatal, wait


class Backend(Protocol):
    """Writes question-answer pairs about images.

    Attributes:
        name: name in the history of pairs, such as `openai/gpt-4o`.
    """

    name: str

    def estimate(self, task: WritingTask) -> UsageEstimate:
        """The most tokens that this task may use."""

    async def ask(self, task: WritingTask) -> BackendReply:
        """Send one request.

        Raises:
            BackendError: no reply was received.
        """

    async def close(self) -> None:
        """Close connections."""
