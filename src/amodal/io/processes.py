"""Work in this process or in several."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
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


# By name of glibc's environment variable: the parameter's number in its malloc.h, and the bytes to set.
SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": (-3, 32 * 2**20),  # larger buffers are the system's own, as large as glibc allows
    "MALLOC_TRIM_THRESHOLD_": (-1, 2**30),  # freed memory beyond goes back to the system
}


def keep_freed_memory() -> None:
    """Keep freed buffers for the next ones, here and in processes that this one starts.

    By default glibc gives buffers of a megabyte back to the system after each use, which then has to
    clear them page by page for the next layer (docs/speed.md). Variables that are set win; other C
    libraries are left as they are. It is the whole process's setting, so only the command line makes it.
    """
    set_parameter = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if set_parameter is None:
        return
    for name, (number, size) in SETTINGS.items():
        if name not in os.environ:
            set_parameter(number, size)
            os.environ[name] = str(size)
