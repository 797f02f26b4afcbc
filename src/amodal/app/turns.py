"""One model, many visitors: jobs run one at a time, and visitors take turns."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


class BusyError(Exception):
    """No place in the queue, or no turn in time."""


@dataclass(eq=False)
class _Job:
    work: Callable[[], Any]
    result: asyncio.Future[Any]


class Turns:
    """A queue with one worker thread. Each visitor has a line of their own; the lines take turns.

    Args:
        max_waiting: jobs that wait in all.
        max_own: jobs of one visitor that wait.
        max_seconds: a job that did not begin by then is given up.
    """

    def __init__(self, max_waiting: int = 64, max_own: int = 4, max_seconds: float = 60.0) -> None:
        self.max_waiting, self.max_own, self.max_seconds = max_waiting, max_own, max_seconds
        self.lines: OrderedDict[str, deque[_Job]] = OrderedDict()
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="model")
        self.pump: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Jobs that have not begun."""
        return sum(len(line) for line in self.lines.values())

    async def run(self, visitor: str, work: Callable[[], T]) -> T:
        """Do `work` in the worker thread when it is the visitor's turn.

        Raises:
            BusyError: the queue is full, or the turn did not come in time.
        """
        line = self.lines.get(visitor)
        if line is not None and len(line) >= self.max_own:
            raise BusyError(f"expected at most {self.max_own} requests of one visitor at a time, got more")
        if self.waiting >= self.max_waiting:
            raise BusyError("expected a free place in the queue, got none; try again in a moment")
        job = _Job(work, asyncio.get_running_loop().create_future())
        self.lines.setdefault(visitor, deque()).append(job)
        if self.pump is None or self.pump.done():
            self.pump = asyncio.create_task(self._work_through())
        timer = asyncio.get_running_loop().call_later(self.max_seconds, self._give_up, visitor, job)
        try:
            result: T = await job.result
            return result
        finally:
            timer.cancel()
            self._remove(visitor, job)  # the visitor went away before the turn came

    def close(self) -> None:
        """Let the worker go."""
        self.worker.shutdown(wait=False, cancel_futures=True)

    async def _work_through(self) -> None:
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

    def _give_up(self, visitor: str, job: _Job) -> None:
        if self._remove(visitor, job) and not job.result.done():
            job.result.set_exception(
                BusyError(f"expected a turn within {self.max_seconds:g} seconds, got none; try again in a moment")
            )

    def _remove(self, visitor: str, job: _Job) -> bool:
        """Take a job that waits out of its line; False if it has begun."""
        line = self.lines.get(visitor)
        if line is None or job not in line:
            return False
        line.remove(job)
        if not line:
            del self.lines[visitor]
        return True
