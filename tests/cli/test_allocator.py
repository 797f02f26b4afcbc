"""The command line keeps freed memory, unless its user said otherwise; the library does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from amodal.cli import allocator

# What a buffer costs the second time: page faults of filling 8 MiB again, and what children will see.
PROGRAM = """
import json, os, resource, sys
import amodal, torch
from amodal.cli.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
torch.set_num_threads(1)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(json.dumps([min(faults() for _ in range(3)), {n: v for n, v in os.environ.items() if n.startswith("MALLOC")}]))
"""


def run(argument: str, **variables: str) -> tuple[int, dict[str, str]]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, argument], env=clean | variables, check=True, capture_output=True, text=True
    )
    faults, seen = json.loads(done.stdout)
    return faults, seen


@pytest.mark.skipif(sys.platform != "linux" or not os.confstr("CS_GNU_LIBC_VERSION"), reason="glibc's own setting")
def test_a_freed_buffer_is_used_again() -> None:
    kept, variables = run("keep")
    assert kept < 100 and set(variables) == set(allocator.SETTINGS)
    given_back, variables = run("leave")
    assert given_back > kept and not variables, "importing the library must change nothing"


def test_what_the_user_set_wins() -> None:
    _, variables = run("keep", MALLOC_MMAP_THRESHOLD_="4096", MALLOC_TRIM_THRESHOLD_="8192")
    assert variables == {"MALLOC_MMAP_THRESHOLD_": "4096", "MALLOC_TRIM_THRESHOLD_": "8192"}


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    allocator.keep_freed_memory()
    assert "MALLOC_TRIM_THRESHOLD_" not in os.environ
