"""A queue that runs the jobs of many visitors one at a time and serves the visitors in turn."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


class BusyError(Exception):
    """The queue is full, or a job did not start in time."""


@dataclass(eq=False)
class _QueuedJob:
    work: Callable[[], Any]
    result: asyncio.Future[Any]


class JobQueue:
    """A queue with one worker thread. Each visitor has their own waiting line; the lines are served in turn.

    Args:
        max_waiting: maximum number of waiting jobs.
        max_per_visitor: maximum number of waiting jobs per visitor; machines behind one address count as one visitor.
        max_seconds: maximum waiting time of a job; after that it fails.
    """

    def __init__(self, max_waiting: int = 128, max_per_visitor: int = 32, max_seconds: float = 60.0) -> None:
        self.max_waiting, self.max_per_visitor, self.max_seconds = max_waiting, max_per_visitor, max_seconds
        self.lines: OrderedDict[str, deque[_QueuedJob]] = OrderedDict()
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="model")
        self.closed = False
        self.pump: asyncio.Task[None] | None = None

    @property
    def num_waiting(self) -> int:
        """Number of jobs that have not started."""
        return sum(len(line) for line in self.lines.values())

    @property
    def is_ready(self) -> bool:
        """Whether there is a place for another job."""
        return not self.closed and self.num_waiting < self.max_waiting

    async def run(self, visitor: str, work: Callable[[], T]) -> T:
        """Run a function in the worker thread when it is the visitor's turn.

        Args:
            visitor: name of the visitor's waiting line.
            work: function without arguments.

        Returns:
            What the function returns; what it raises is raised here.

        Raises:
            BusyError: the queue is full, or the job did not start in time.
        """
        line = self.lines.get(visitor)
        if line is not None and len(line) >= self.max_per_visitor:
            raise BusyError(f"expected at most {self.max_per_visitor} requests of one visitor at a time, got more")
        if self.num_waiting >= self.max_waiting:
            raise BusyError("expected a free place in the queue, got none; try again in a moment")
        job = _QueuedJob(work, asyncio.get_running_loop().create_future())
        self.lines.setdefault(visitor, deque()).append(job)
        if self.pump is None or self.pump.done():
            self.pump = asyncio.create_task(self._run_jobs())
        timer = asyncio.get_running_loop().call_later(self.max_seconds, self._fail_late, visitor, job)
        try:
            result: T = await job.result
            return result
        finally:
            timer.cancel()
            self._remove(visitor, job)  # in case the visitor went away before the job started

    def close(self) -> None:
        """Stop the worker thread."""
        self.closed = True
        self.worker.shutdown(wait=False, cancel_futures=True)

    async def _run_jobs(self) -> None:
        loop = asyncio.get_running_loop()
        while self.lines:
            visitor, line = next(iter(self.lines.items()))
            job = line.popleft()
            self.lines.move_to_end(visitor)
            if not line:
                del self.lines[visitor]
            if job.result.done():
                continue
            try:
                value = await loop.run_in_executor(self.worker, job.work)
            except Exception as error:
                if not job.result.done():
                    job.result.set_exception(error)
            else:
                if not job.result.done():
                    job.result.set_result(value)

    def _fail_late(self, visitor: str, job: _QueuedJob) -> None:
        if self._remove(visitor, job) and not job.result.done():
            job.result.set_exception(
                BusyError(
                    f"expected the job to start within {self.max_seconds:g} seconds, got no turn; try again in a moment"
                )
            )

    def _remove(self, visitor: str, job: _QueuedJob) -> bool:
        """Remove a waiting job from its line; False if it has already started."""
        line = self.lines.get(visitor)
        if line is None or job not in line:
            return False
        line.remove(job)
        if not line:
            del self.lines[visitor]
        return True
