"""Running jobs in several processes, and the memory setting of a process."""

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
    """Yield the results of a function in the order of the jobs.

    The function is sent to each process once. Only a few jobs are in progress at a time, so memory does not grow with
    their number.

    Args:
        function: function of one job; it must be picklable if `workers` is larger than 1.
        jobs: arguments of the function.
        workers: number of processes; 1 runs the jobs in this process.
    """
    if workers == 1:
        yield from map(function, jobs)
        return
    # Processes are spawned instead of forked, because a fork copies the locks of the threads of torch and OpenCV, and a
    # process that inherits a locked one waits forever.
    context = multiprocessing.get_context("spawn")
    in_progress: deque[Future[Result]] = deque()
    with ProcessPoolExecutor(workers, context, _start, (function,)) as pool:
        try:
            for job in jobs:
                in_progress.append(pool.submit(_call, job))
                if len(in_progress) > 2 * workers:
                    yield in_progress.popleft().result()
            while in_progress:
                yield in_progress.popleft().result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_function: Callable[[Any], Any] | None = None  # set in each worker process


def _start(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function


def _call(job: Any) -> Any:
    assert _function is not None
    return _function(job)


# For each environment variable of glibc: the number of the parameter in its malloc.h, and its value in bytes.
MALLOC_SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": (-3, 32 * 2**20),  # larger buffers are mapped separately; the largest value allowed
    "MALLOC_TRIM_THRESHOLD_": (-1, 2**30),  # more freed memory than this is returned to the system
}


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for later buffers, in this process and in the processes that it starts.

    By default, glibc returns buffers of a megabyte to the system after each use, which then has to clear them page by
    page for the next layer (docs/speed.md). Environment variables that are already set are kept, and other C libraries
    are left unchanged. The setting is that of the whole process, so only the command line makes it.
    """
    set_parameter = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if set_parameter is None:
        return
    for name, (number, size) in MALLOC_SETTINGS.items():
        if name not in os.environ:
            set_parameter(number, size)
            os.environ[name] = str(size)
