"""Stage 2: ask a backend about every image until each has its pairs or a limit is reached."""

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

from amodal.datagen.backends.base import Backend, BackendError, BackendReply, UsageEstimate, WritingTask
from amodal.datagen.prompt import RejectedPair, parse_response
from amodal.datagen.store.records import EXHAUSTED, REFUSED, Draft, ImageState, WorkImage
from amodal.datagen.store.requests import Usage
from amodal.datagen.store.work_folder import WorkFolder
from amodal.datagen.wanted import WantedPairs, keep_wanted, wanted_pairs
from amodal.errors import InputError

LOCK_FILE = "generate.lock"


@dataclass(frozen=True)
class RequestPolicy:
    """How many requests are sent at a time, and how often they are repeated.

    Attributes:
        concurrency: maximum number of requests at a time.
        attempts: maximum number of requests for one reply before this run skips the image.
        first_wait: seconds before the second attempt; each further wait is twice as long.
        longest_wait: maximum seconds to wait, unless the server asks for more.
    """

    concurrency: int = 8
    attempts: int = 8
    first_wait: float = 1.0
    longest_wait: float = 60.0

    def __post_init__(self) -> None:
        for name in ("concurrency", "attempts"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if self.first_wait < 0:
            raise InputError(f"retry_wait: expected 0 or more seconds, got {self.first_wait}")

    def wait(self, attempt: int, requested: float | None) -> float:
        """Seconds to wait after a failed attempt; randomness keeps clients from returning all at once.

        Args:
            attempt: number of the attempt that failed, from 0.
            requested: seconds that the server asked to wait, or None.
        """
        longest = min(self.first_wait * 2.0**attempt, self.longest_wait)
        return max(longest * random.uniform(0.5, 1.0), requested or 0.0)


@dataclass(frozen=True)
class TokenPrices:
    """Price of one million tokens, in any currency."""

    prompt: float = 0.0
    completion: float = 0.0

    def __post_init__(self) -> None:
        if not (self.prompt >= 0 and self.completion >= 0):
            raise InputError(f"price: expected 0 or more, got {self.prompt:g} and {self.completion:g}")

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Price of one request."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


@dataclass(frozen=True)
class UsageLimits:
    """Limits over all runs of a work folder; None means no limit."""

    requests: int | None = None
    tokens: int | None = None
    money: float | None = None

    def __post_init__(self) -> None:
        for name in ("requests", "tokens", "money"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                option = {"tokens": "max-total-tokens"}.get(name, f"max-{name}")
                raise InputError(f"{option}: expected 0 or more, got {value}")


class Budget:
    """Adds up what requests have used and what requests under way may still use.

    A request may be sent only if its estimate fits in what is left. So a limit holds even if every
    request under way turns out as expensive as its estimate.
    """

    def __init__(self, limits: UsageLimits, prices: TokenPrices, used: Usage) -> None:
        if limits.money is not None and prices == TokenPrices():
            raise InputError("max-money: expected prices of tokens with it, got none")
        self._limits, self._prices = limits, prices
        self._requests, self._tokens, self._money = used.requests, used.tokens, used.money

    def reserve(self, estimate: UsageEstimate) -> str | None:
        """Set aside what a request may use.

        Returns:
            None, or the name of the limit that the request would exceed; then nothing is set aside.
        """
        tokens, money = self._amounts(estimate.prompt_tokens, estimate.completion_tokens)
        for name, used, more, limit in (
            ("requests", self._requests, 1, self._limits.requests),
            ("tokens", self._tokens, tokens, self._limits.tokens),
            ("money", self._money, money, self._limits.money),
        ):
            if limit is not None and used + more > limit:
                return name
        self._requests, self._tokens, self._money = self._requests + 1, self._tokens + tokens, self._money + money
        return None

    def settle(self, estimate: UsageEstimate, prompt_tokens: int, completion_tokens: int) -> float:
        """Replace the estimate of a request by what it used; returns its cost."""
        reserved_tokens, reserved_money = self._amounts(estimate.prompt_tokens, estimate.completion_tokens)
        tokens, money = self._amounts(prompt_tokens, completion_tokens)
        self._tokens += tokens - reserved_tokens
        self._money += money - reserved_money
        return money

    def _amounts(self, prompt_tokens: int, completion_tokens: int) -> tuple[int, float]:
        return prompt_tokens + completion_tokens, self._prices.cost(prompt_tokens, completion_tokens)


@dataclass
class GenerationOutcome:
    """The result of one run.

    Attributes:
        images: number of replies that could be parsed.
        pairs: number of pairs written into slots.
        unreadable: number of replies that could not be parsed.
        given_up: number of images without a reply after all attempts, left for another run.
        refused: number of images that the endpoint refused.
        stopped: why the run ended early; None if it did not.
        error: error of the last attempt for an image that was given up.
    """

    images: int = 0
    pairs: int = 0
    unreadable: int = 0
    given_up: int = 0
    refused: int = 0
    stopped: str | None = None
    error: str | None = None


def generate(
    work: WorkFolder,
    backend: Backend,
    *,
    pairs: int | None = None,
    rounds: int | None = None,
    policy: RequestPolicy | None = None,
    limits: UsageLimits | None = None,
    prices: TokenPrices | None = None,
    progress: bool = True,
) -> GenerationOutcome:
    """Ask about images that have no pairs yet, and again about those that `check` sent back.

    May be interrupted at any moment and called again. After a first SIGINT or SIGTERM the requests
    under way finish; a second one cancels them.

    Args:
        work: work folder.
        backend: writer of the pairs.
        pairs: number of pairs wanted per image; that of the run before in this folder if None, at first 10.
        rounds: maximum number of replies per image over all runs; that of the run before if None, at first 3.
        policy: concurrency and retries.
        limits: what the work folder may use over all runs.
        prices: token prices, for the limit on money.
        progress: show a progress bar on stderr.

    Raises:
        InputError: another process generates in this folder, the endpoint never sent a reply,
            or a setting is out of range.
    """
    wanted = wanted_pairs(work, pairs, rounds)
    try:
        lock = FileLock(work.folder / LOCK_FILE).acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"work {work.folder}: expected no other run on it, got one that generates") from error
    with lock:
        keep_wanted(work, wanted)
        work.requests.mark_lost()
        budget = Budget(limits or UsageLimits(), prices or TokenPrices(), work.requests.usage())
        console = Console(stderr=True)
        hidden = not (progress and console.is_terminal)
        with Progress(console=console, transient=True, disable=hidden) as bar:
            run = _GenerationRun(work, backend, wanted, policy or RequestPolicy(), budget, bar)
            return _run_to_end(run.all_images())


def _run_to_end(coroutine: Coroutine[Any, Any, GenerationOutcome]) -> GenerationOutcome:
    """Run a coroutine; in a separate thread if an event loop already runs, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


class _GenerationRun:
    """The state of one call of `generate`."""

    def __init__(
        self,
        work: WorkFolder,
        backend: Backend,
        wanted: WantedPairs,
        policy: RequestPolicy,
        budget: Budget,
        bar: Progress,
    ) -> None:
        self.outcome = GenerationOutcome()
        self._work, self._backend, self._wanted = work, backend, wanted
        self._policy, self._budget, self._bar = policy, budget, bar
        counts = work.image_state_counts()
        self._bar_row = bar.add_task(backend.name, total=counts.get("selected", 0) + counts.get("again", 0))
        self._categories = work.categories()
        self._work_id = work.settings()["id"]
        # One pass by id, so that each image comes up once per run and belongs to one worker.
        self._images: Iterator[WorkImage] = work.images("selected", "again")
        self._open_at = 0.0  # no request before this time: a server that asks one client to wait means all
        self._num_silent = 0  # images given up since the last reply

    async def all_images(self) -> GenerationOutcome:
        self._stopping = asyncio.Event()
        self._handle_signals()
        workers = [asyncio.create_task(self._process_images()) for _ in range(self._policy.concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await self._backend.close()
        if self.outcome.given_up and not self._work.requests.any_replied():
            raise InputError(f"backend {self._backend.name}: expected an answer, got {self.outcome.error}")
        return self.outcome

    def _handle_signals(self) -> None:
        loop, main = asyncio.get_running_loop(), asyncio.current_task()
        assert main is not None

        def on_signal() -> None:
            if self._stopping.is_set():
                main.cancel()
            self._stop("interrupted")

        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(number, on_signal)
            except (NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread
                return

    def _stop(self, reason: str) -> None:
        self.outcome.stopped = self.outcome.stopped or reason
        self._stopping.set()

    async def _process_images(self) -> None:
        """What each worker does: take the next image until none is left."""
        while not self._stopping.is_set():
            image = next(self._images, None)
            if image is None:
                return
            while image.state in ("selected", "again") and await self._run_round(image):
                image = self._work.image(image.id)
            self._bar.advance(self._bar_row)
            await asyncio.sleep(0)  # lets signals through with a backend that never waits

    async def _run_round(self, image: WorkImage) -> bool:
        """Get one reply about an image and store it; False if there was none."""
        task, slots = self._next_task(image)
        if not slots:
            self._work.set_image_state(image.id, "done")
            return False
        result = await self._ask(task)
        if result is None:
            return False
        request_id, reply, cost = result
        try:
            drafts = parse_response(reply.text, allow_none=reply.exhausted)
        except InputError as error:
            self._store_malformed(image, request_id, reply, cost, str(error))
        else:
            self._store(image, request_id, reply, cost, drafts, slots)
        return True

    def _next_task(self, image: WorkImage) -> tuple[WritingTask, list[int]]:
        """What to ask about an image, and the slots that the pairs go into."""
        held = {pair.slot: pair for pair in self._work.pairs.find(image_id=image.id)}
        failed = [pair for pair in held.values() if pair.state == "failed"]
        slots = [slot for slot in range(1, self._wanted.pairs + 1) if slot not in held or held[slot].state == "failed"]
        task = WritingTask(
            image=self._work.sample(image),
            categories=self._categories,
            count=len(slots),
            round=image.tries,
            key=f"{self._work_id}-{image.id}-{image.tries}",
            kept=[Draft(p.question, p.answer, p.claims) for p in held.values() if p.state != "failed"],
            rejected=[RejectedPair(pair.question, pair.answer, pair.reason or "") for pair in failed],
            complaint=image.reason if image.tries else None,
        )
        return task, slots

    async def _ask(self, task: WritingTask) -> tuple[int, BackendReply, float] | None:
        """Request id, reply and cost after as many attempts as needed; None without a reply."""
        estimate = self._backend.estimate(task)
        for attempt in range(self._policy.attempts):
            await self._sleep(self._open_at - time.monotonic())
            if self._stopping.is_set():
                return None
            exceeded = self._budget.reserve(estimate)
            if exceeded is not None:
                self._stop(f"the limit on {exceeded} is reached")
                return None
            request_id = self._work.requests.begin(task.image.id, task.round)
            try:
                reply = await self._backend.ask(task)
            except BackendError as error:
                self._budget.settle(estimate, 0, 0)
                self._work.requests.end(request_id, "error", detail=str(error))
                if not error.retry:
                    self._handle_refusal(task.image.id, error)
                    return None
                wait = self._policy.wait(attempt, error.wait)
                if error.wait is not None:
                    self._open_at = max(self._open_at, time.monotonic() + error.wait)
                last_error = str(error)
                if attempt + 1 < self._policy.attempts:
                    await self._sleep(wait)
                continue
            self._num_silent = 0
            return request_id, reply, self._budget.settle(estimate, reply.prompt_tokens, reply.completion_tokens)
        self.outcome.given_up, self.outcome.error = self.outcome.given_up + 1, last_error
        self._num_silent += 1
        if self._num_silent >= self._policy.concurrency:
            self._stop(f"the endpoint does not answer ({last_error})")
        return None

    def _handle_refusal(self, image_id: int, error: BackendError) -> None:
        """Stop if the endpoint refuses every request; otherwise only this image fails."""
        if not self._work.requests.any_replied():
            raise InputError(f"backend {self._backend.name}: expected an answer, got {error}") from error
        if error.fatal:
            self._stop(f"the endpoint refuses ({error})")
            return
        self.outcome.refused += 1
        self._work.set_image_state(image_id, "failed", f"{REFUSED}: {error}")

    async def _sleep(self, seconds: float) -> None:
        """Wait, unless the run stops meanwhile."""
        if seconds > 0:
            try:
                await asyncio.wait_for(self._stopping.wait(), seconds)
            except asyncio.TimeoutError:
                return

    def _store(
        self, image: WorkImage, request_id: int, reply: BackendReply, cost: float, drafts: list[Draft], slots: list[int]
    ) -> None:
        with self._work.atomic():
            self._work.requests.end(
                request_id, "answered", response=reply.raw or None, cost=cost,
                prompt_tokens=reply.prompt_tokens, completion_tokens=reply.completion_tokens,
            )  # fmt: skip
            self._work.pairs.add_drafts(image.id, drafts, slots, self._backend.name)
            state: ImageState = "answered" if drafts or self._work.pairs.exist(image.id) else "failed"
            self._work.count_reply(image.id, state, EXHAUSTED if reply.exhausted else None)
        self.outcome.images += 1
        self.outcome.pairs += min(len(drafts), len(slots))

    def _store_malformed(
        self, image: WorkImage, request_id: int, reply: BackendReply, cost: float, reason: str
    ) -> None:
        """Store a reply that could not be parsed; the image is tried again while it has rounds left."""
        with self._work.atomic():
            self._work.requests.end(
                request_id, "malformed", detail=reason, response=reply.raw or None, cost=cost,
                prompt_tokens=reply.prompt_tokens, completion_tokens=reply.completion_tokens,
            )  # fmt: skip
            state: ImageState = "again"
            if image.tries + 1 >= self._wanted.rounds:
                state = "answered" if self._work.pairs.exist(image.id) else "failed"
            self._work.count_reply(image.id, state, reason)
        self.outcome.unreadable += 1
