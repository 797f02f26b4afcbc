"""The paper's largest model runs here (slow)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = """
import json, torch
from vit_h_forward import measure
print(json.dumps(measure("ours", torch.bfloat16, True, "vit-h", 2)))
"""


@pytest.mark.slow
def test_vit_h_runs_one_forward_in_bfloat16() -> None:
    """In a process of its own, whose peak memory is the model's; `measure` refuses answers that are not finite."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=BENCHMARKS, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["parameters"] > 640_000_000
    assert result["peak_mib"] < 20 * 1024
