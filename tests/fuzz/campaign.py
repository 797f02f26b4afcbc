"""Runs one target for a number of examples, or for a time, with bounds on the time and memory of each example.

`AMODAL_FUZZ_SECONDS=60` runs each target for 60 seconds with new examples. Without it, each target gets the same few
examples each time.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

SECONDS = float(os.environ.get("AMODAL_FUZZ_SECONDS", "0"))
FEW_EXAMPLES = 5
MANY_EXAMPLES = 100  # of one round of a long run
MAX_SECONDS = 20.0  # of the CPU, for one example
MAX_MEMORY = 3 * 2**30  # bytes above what the process has before

_CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
_QUICK = settings(
    max_examples=FEW_EXAMPLES, derandomize=True, database=None, suppress_health_check=_CHECKS, phases=[Phase.generate]
)
_LONG = settings(
    max_examples=MANY_EXAMPLES, database=None, suppress_health_check=_CHECKS, phases=[Phase.generate, Phase.shrink]
)


def run(name: str, examples: st.SearchStrategy[Any], check: Callable[[Any], str]) -> None:
    """Run `check` on examples, and print how many there were of each outcome.

    Args:
        name: of the target.
        examples: what to draw.
        check: returns the outcome of an example, such as `refused`; what it raises is a find.
    """
    outcomes: Counter[str] = Counter()
    began = time.monotonic()

    def bounded(example: Any) -> None:
        with limited_time():
            outcomes[check(example)] += 1

    with limited_memory():
        if not SECONDS:
            _QUICK(given(examples)(bounded))()
        while SECONDS and time.monotonic() - began < SECONDS:
            _LONG(given(examples)(bounded))()
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    print(f"{name}: {outcomes.total()} examples in {time.monotonic() - began:.0f} s ({told})")


@contextmanager
def limited_time() -> Iterator[None]:
    """Raise an error in what takes longer than `MAX_SECONDS` of the CPU."""

    def late(*_: object) -> None:
        raise TimeoutError(f"expected an end within {MAX_SECONDS:g} seconds")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def limited_memory() -> Iterator[None]:
    """Let allocations fail that would make the process grow by more than `MAX_MEMORY`."""
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + MAX_MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
