"""The command line keeps freed memory unless the user set it otherwise; importing the library does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from amodal.io import processes

# Prints the page faults of a call with eight objects after a few calls, and the variables that child processes see.
PROGRAM = """
import json, os, resource, statistics, sys
import numpy as np
import amodal
from amodal.io.processes import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
segmenter = amodal.AmodalSegmenter.from_pretrained("plug-small")
image, boxes = np.zeros((256, 256, 3), np.uint8), [[10 + i, 20, 90 + i, 120] for i in range(8)]
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    segmenter(image, boxes)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
found = statistics.median([faults() for _ in range(9)][4:])
print(json.dumps([found, {n: v for n, v in os.environ.items() if n.startswith("MALLOC")}]))
"""


def run(argument: str) -> tuple[float, dict[str, str]]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, argument], env=clean, check=True, capture_output=True, text=True
    )
    faults, seen = json.loads(done.stdout)
    return faults, seen


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or not os.confstr("CS_GNU_LIBC_VERSION"), reason="a setting of glibc")
def test_freed_buffers_are_reused() -> None:
    kept, variables = run("keep")
    assert set(variables) == set(processes.MALLOC_SETTINGS)
    given_back, variables = run("leave")
    assert kept < given_back / 4 and not variables, "importing the library must not change the setting"


class FakeLibrary:
    """A C library that records the parameters that are set."""

    def __init__(self) -> None:
        self.parameters: dict[int, int] = {}

    def mallopt(self, parameter: int, value: int) -> int:
        self.parameters[parameter] = value
        return 1


def test_variables_of_the_user_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeLibrary()
    monkeypatch.setattr(processes.ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(os, "environ", {"MALLOC_TRIM_THRESHOLD_": "8192"})
    processes.keep_freed_memory()
    assert library.parameters == {-3: 2**25}
    assert os.environ == {"MALLOC_TRIM_THRESHOLD_": "8192", "MALLOC_MMAP_THRESHOLD_": str(2**25)}


def test_other_c_libraries_are_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.ctypes, "CDLL", lambda name: object())
    monkeypatch.setattr(os, "environ", {})
    processes.keep_freed_memory()
    assert not os.environ
