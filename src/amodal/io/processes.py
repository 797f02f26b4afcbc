"""Work in this process or in several."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_processes(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int = 1) -> Iterator[Result]:
    """Results in the order of the jobs.

    The function travels once; only a few jobs are under way at a time, so memory does not grow with
    their number.
    """
    if workers == 1:
        yield from map(function, jobs)
        return
    # Spawned, not forked: a fork copies the locks of torch's and OpenCV's threads as they are, and a
    # process that inherits a locked one waits for ever.
    context = multiprocessing.get_context("spawn")
    under_way: deque[Future[Result]] = deque()
    with ProcessPoolExecutor(workers, context, _start, (function,)) as pool:
        try:
            for job in jobs:
                under_way.append(pool.submit(_call, job))
                if len(under_way) > 2 * workers:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_function: Callable[[Any], Any] | None = None  # of a worker process


def _start(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function


def _call(job: Any) -> Any:
    assert _function is not None
    return _function(job)
