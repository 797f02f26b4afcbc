"""Divide one list of jobs among several processes, each of which writes its results to files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Job = TypeVar("Job")


@dataclass(frozen=True)
class Part:
    """The share of process `number` of `count` processes, counted from 0."""

    number: int
    count: int

    def of(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """Return the jobs of this process; together the parts contain every job once."""
        return jobs[self.number :: self.count]


def add_part(parser: argparse.ArgumentParser) -> None:
    """Add `--part K/N`, so that a script can run in several processes: `--part 0/2` and `--part 1/2`."""
    parser.add_argument("--part", type=_part, default=Part(0, 1), help="K/N: run every N-th job, starting with job K")


def _part(text: str) -> Part:
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise argparse.ArgumentTypeError(f"expected K/N with K below N, got {text!r}")
    return Part(int(number), int(count))
