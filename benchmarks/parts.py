"""One list of jobs for several processes, each of which writes its results as files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Job = TypeVar("Job")


@dataclass(frozen=True)
class Part:
    """Process `number` of `count`, from 0."""

    number: int
    count: int

    def of(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """This process's jobs: together the parts do every job once."""
        return jobs[self.number :: self.count]


def add_part(parser: argparse.ArgumentParser) -> None:
    """Let a script be started several times over, one part each: `--part 0/2`, `--part 1/2`."""
    parser.add_argument("--part", type=_part, default=Part(0, 1), help="K/N: every N-th job from the K-th")


def _part(text: str) -> Part:
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise argparse.ArgumentTypeError(f"expected K/N with K below N, got {text!r}")
    return Part(int(number), int(count))
