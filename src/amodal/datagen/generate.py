"""Stage 2: ask a backend about every image until each has its pairs, or something says stop."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import Progress

from amodal.datagen.backends.base import Answer, Backend, BackendError, Task
from amodal.datagen.budget import Budget, Limits
from amodal.datagen.prompt import PAIRS_PER_IMAGE, Rejected, parse_response
from amodal.datagen.store.manifest import Manifest
from amodal.datagen.store.records import Draft, WorkImage
from amodal.datagen.store.requests_log import Prices, begin_request, end_request, forget_lost, has_answers, spent
from amodal.errors import InputError

LOCK_FILE = "generate.lock"


@dataclass(frozen=True)
class Pace:
    """How hard and how long to ask.

    Attributes:
        concurrency: requests at a time.
        attempts: requests for one answer before giving the image up for this run.
        first_wait: seconds before the second attempt; each further wait is twice as long.
        longest_wait: seconds at most, unless the server asks for more.
        rounds: answers about one image, over all runs: the first, and further tries for what failed.
    """

    concurrency: int = 8
    attempts: int = 8
    first_wait: float = 1.0
    longest_wait: float = 60.0
    rounds: int = 3

    def __post_init__(self) -> None:
        for name in ("concurrency", "attempts", "rounds"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if self.first_wait < 0:
            raise InputError(f"retry_wait: expected 0 or more seconds, got {self.first_wait}")

    def wait(self, attempt: int, asked: float | None) -> float:
        """Seconds before the attempt after number `attempt` (from 0); a random half keeps clients apart."""
        longest = min(self.first_wait * 2.0**attempt, self.longest_wait)
        return max(longest * random.uniform(0.5, 1.0), asked or 0.0)


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        images: got an answer that could be read.
        pairs: written into slots.
        unreadable: answers of another form than asked for.
        given_up: images without an answer after all attempts, left for another run.
        refused: images the endpoint would not take.
        stopped: why the run ended before its images did; None if it did not.
        error: what the last attempt for an image that was given up brought.
    """

    images: int = 0
    pairs: int = 0
    unreadable: int = 0
    given_up: int = 0
    refused: int = 0
    stopped: str | None = None
    error: str | None = None


def generate(
    manifest: Manifest,
    backend: Backend,
    *,
    pairs: int = PAIRS_PER_IMAGE,
    pace: Pace | None = None,
    limits: Limits | None = None,
    prices: Prices | None = None,
    progress: bool = True,
) -> Outcome:
    """Ask about images that have no pairs yet, and again about those that `check` sent back.

    May be interrupted at any moment and called again. A first SIGINT or SIGTERM lets the requests
    under way end, a second one does not.

    Args:
        manifest: the work folder.
        backend: the writer.
        pairs: wanted for each image.
        pace: concurrency and retries.
        limits: what the work folder may use up, over all runs.
        prices: of tokens, for the limit on money.
        progress: show a bar on stderr.

    Raises:
        InputError: another process generates in this folder, the endpoint never gave an answer,
            or settings that make no sense.
    """
    if pairs < 1:
        raise InputError(f"pairs: expected 1 or more, got {pairs}")
    try:
        held = FileLock(manifest.folder / LOCK_FILE).acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"work {manifest.folder}: expected no other run on it, got one that generates") from error
    with held:
        forget_lost(manifest)
        prices = prices or Prices()
        budget = Budget(limits or Limits(), prices, spent(manifest))
        console = Console(stderr=True)
        hidden = not (progress and console.is_terminal)
        with Progress(console=console, transient=True, disable=hidden) as bar:
            run = _Run(manifest, backend, pairs, pace or Pace(), budget, bar)
            return _completed(run.all())


def _completed(work: Coroutine[Any, Any, Outcome]) -> Outcome:
    """Runs to the end; in a thread of its own where a loop already runs, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


class _Run:
    """One call of `generate`."""

    def __init__(
        self, manifest: Manifest, backend: Backend, pairs: int, pace: Pace, budget: Budget, bar: Progress
    ) -> None:
        self.outcome = Outcome()
        self._manifest, self._backend, self._pairs = manifest, backend, pairs
        self._pace, self._budget, self._bar = pace, budget, bar
        ((todo,),) = manifest.query("SELECT count(*) FROM images WHERE state IN ('selected', 'again')")
        self._row = bar.add_task(backend.name, total=todo)
        self._categories = manifest.categories()
        self._work_id = manifest.settings()["id"]
        # One pass by id, so that each image is in one worker's hands and comes up once a run.
        self._images: Iterator[WorkImage] = manifest.images("selected", "again")
        self._open_at = 0.0  # no request before: a server that asks one client to wait means all
        self._silent = 0  # images given up since the last answer

    async def all(self) -> Outcome:
        self._stopping = asyncio.Event()
        self._listen()
        workers = [asyncio.create_task(self._work()) for _ in range(self._pace.concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await self._backend.close()
        if self.outcome.given_up and not has_answers(self._manifest):
            raise InputError(f"backend {self._backend.name}: expected an answer, got {self.outcome.error}")
        return self.outcome

    def _listen(self) -> None:
        loop, main = asyncio.get_running_loop(), asyncio.current_task()
        assert main is not None

        def on_signal() -> None:
            if self._stopping.is_set():
                main.cancel()
            self._stop("interrupted")

        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(number, on_signal)
            except (NotImplementedError, RuntimeError, ValueError):  # another system, or not the main thread
                return

    def _stop(self, reason: str) -> None:
        self.outcome.stopped = self.outcome.stopped or reason
        self._stopping.set()

    async def _work(self) -> None:
        while not self._stopping.is_set():
            image = next(self._images, None)
            if image is None:
                return
            while image.state in ("selected", "again") and await self._round(image):
                image = self._manifest.image(image.id)
            self._bar.advance(self._row)
            await asyncio.sleep(0)  # a backend that never waits must not keep signals from being seen

    async def _round(self, image: WorkImage) -> bool:
        """One answer about an image, stored; False if there was none."""
        task, slots = self._task(image)
        if not slots:
            self._manifest.set_image_state(image.id, "done")
            return False
        got = await self._ask(task)
        if got is None:
            return False
        request, answer, cost = got
        try:
            drafts = parse_response(answer.text)
        except InputError as error:
            self._store_unreadable(image, request, answer, cost, str(error))
        else:
            self._store(image, request, answer, cost, drafts, slots)
        return True

    def _task(self, image: WorkImage) -> tuple[Task, list[int]]:
        """What to ask, and the slots that wait for it."""
        held = {pair.slot: pair for pair in self._manifest.pairs(image_id=image.id)}
        failed = [pair for pair in held.values() if pair.state == "failed"]
        slots = [slot for slot in range(1, self._pairs + 1) if slot not in held or held[slot].state == "failed"]
        task = Task(
            image=self._manifest.sample(image),
            categories=self._categories,
            count=len(slots),
            round=image.tries,
            key=f"{self._work_id}-{image.id}-{image.tries}",
            kept=[pair.question for pair in held.values() if pair.state != "failed"],
            rejected=[Rejected(pair.question, pair.answer, pair.reason or "") for pair in failed],
            complaint=image.reason if image.tries else None,
        )
        return task, slots

    async def _ask(self, task: Task) -> tuple[int, Answer, float] | None:
        """One answer after as many attempts as it takes; None without one."""
        estimate = self._backend.estimate(task)
        for attempt in range(self._pace.attempts):
            await self._sleep(self._open_at - time.monotonic())
            if self._stopping.is_set():
                return None
            broken = self._budget.take(estimate)
            if broken is not None:
                self._stop(f"the limit on {broken} is reached")
                return None
            request = begin_request(self._manifest, task.image.id, task.round)
            try:
                answer = await self._backend.ask(task)
            except BackendError as error:
                self._budget.settle(estimate, 0, 0)
                end_request(self._manifest, request, "error", detail=str(error))
                if not error.retry:
                    self._refused(task.image.id, error)
                    return None
                wait = self._pace.wait(attempt, error.wait)
                if error.wait is not None:
                    self._open_at = max(self._open_at, time.monotonic() + error.wait)
                last = str(error)
                if attempt + 1 < self._pace.attempts:
                    await self._sleep(wait)
                continue
            self._silent = 0
            return request, answer, self._budget.settle(estimate, answer.prompt_tokens, answer.completion_tokens)
        self.outcome.given_up, self.outcome.error = self.outcome.given_up + 1, last
        self._silent += 1
        if self._silent >= self._pace.concurrency:
            self._stop(f"the endpoint does not answer ({last})")
        return None

    def _refused(self, image_id: int, error: BackendError) -> None:
        """The endpoint will not take this request: nor any other, or only this picture."""
        if error.fatal or not has_answers(self._manifest):
            if not has_answers(self._manifest):
                raise InputError(f"backend {self._backend.name}: expected an answer, got {error}") from error
            self._stop(f"the endpoint refuses ({error})")
            return
        self.outcome.refused += 1
        self._manifest.set_image_state(image_id, "failed", f"refused: {error}")

    async def _sleep(self, seconds: float) -> None:
        """Wait, unless the run is to stop."""
        if seconds > 0:
            try:
                await asyncio.wait_for(self._stopping.wait(), seconds)
            except asyncio.TimeoutError:
                return

    def _store(
        self, image: WorkImage, request: int, answer: Answer, cost: float, drafts: list[Draft], slots: list[int]
    ) -> None:
        with self._manifest.transaction() as connection:
            end_request(self._manifest, request, "answered", answer=answer, cost=cost)
            self._manifest.add_drafts(image.id, drafts, slots, self._backend.name)
            connection.execute(
                "UPDATE images SET state = 'answered', reason = NULL, tries = tries + 1 WHERE id = ?", (image.id,)
            )
        self.outcome.images += 1
        self.outcome.pairs += min(len(drafts), len(slots))

    def _store_unreadable(self, image: WorkImage, request: int, answer: Answer, cost: float, reason: str) -> None:
        """Keep what came; the image is asked about again while it has rounds left."""
        last = image.tries + 1 >= self._pace.rounds
        with self._manifest.transaction() as connection:
            end_request(self._manifest, request, "malformed", detail=reason, answer=answer, cost=cost)
            ((pairs,),) = self._manifest.query("SELECT count(*) FROM pairs WHERE image_id = ?", (image.id,))
            state = "again" if not last else "answered" if pairs else "failed"
            connection.execute(
                "UPDATE images SET state = ?, reason = ?, tries = tries + 1 WHERE id = ?", (state, reason, image.id)
            )
        self.outcome.unreadable += 1
