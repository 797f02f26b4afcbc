"""The paper's largest model runs here (slow)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_vit_h_runs_one_forward_in_bfloat16() -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "vit_h_forward.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["finite"]
    assert result["mask"] == [1, 1, 512, 512]
    assert result["peak_gib"] < 20
