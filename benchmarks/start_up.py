"""Measure how long `amodal --help`, imports and loading a model take, compared with an empty interpreter.

Command: python benchmarks/start_up.py
"""

from __future__ import annotations

import subprocess
import sys

from measure import arguments, finish, interleave

PROGRAMS = {
    "python": "pass",
    "import amodal": "import amodal",
    "amodal --help": "from amodal.cli.main import main; main(['--help'])",
    "import torch": "import torch",
    "load plug-small": "import amodal; amodal.AmodalSegmenter.from_pretrained('plug-small')",
}


def main() -> None:
    """Start a new interpreter for each program, alternately."""
    options = arguments(__doc__)

    def start(code: str) -> None:
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)

    times = interleave(
        {name: lambda c=code: start(c) for name, code in PROGRAMS.items()}, 1 if options.quick else options.rounds
    )
    rows = [
        {
            "program": name,
            "seconds": row["seconds"],
            "median": row["median"],
            "times_python": row["seconds"] / times["python"]["seconds"],
        }
        for name, row in times.items()
    ]
    finish("start_up", options, rows, {"x": "program", "y": "seconds"})


if __name__ == "__main__":
    main()
