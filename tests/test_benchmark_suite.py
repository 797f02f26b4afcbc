"""The benchmark suite runs each script in its own process and writes JSON, a table and a plot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.suite import find_scripts, main, table

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPT = """
from measure import arguments, finish

options = arguments("A benchmark of nothing.")
rows = [{"kind": kind, "size": size, "seconds": size / 2} for kind in "ab" for size in (1, 2)]
finish("nothing", options, rows, {"x": "size", "y": "seconds", "series": SERIES})
"""


@pytest.fixture(params=["'kind'", "None"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "measure.py").write_text((BENCHMARKS / "measure.py").read_text())
    (scripts / "nothing.py").write_text(SCRIPT.replace("SERIES", request.param))
    (scripts / "broken.py").write_text("from measure import arguments\nraise RuntimeError('no such luck')\n")
    (scripts / "unrelated.py").write_text("print()\n")
    return scripts


def test_json_tables_and_plots_are_written(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["nothing", "--folder", str(folder), "--out", str(out), "--quick", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["nothing"]["quick"] and len(printed["nothing"]["rows"]) == 4
    assert json.loads((out / "nothing.json").read_text()) == printed["nothing"]
    assert (out / "nothing.txt").read_text().splitlines()[0].split() == ["kind", "size", "seconds"]
    assert (out / "nothing.png").read_bytes().startswith(b"\x89PNG")


def test_invalid_arguments(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    for arguments, message in (
        (["speed", "--folder", str(folder)], "bench: names: expected some of broken, nothing, got speed"),
        (["--folder", str(tmp_path / "nowhere")], "folder: expected benchmark scripts, got none"),
        (
            ["nothing", "--folder", str(folder), "--out", str(folder / "nothing.py")],
            "out: expected a folder, got the file",
        ),
        (["broken", "--folder", str(folder)], "bench: broken: expected it to finish, got: RuntimeError: no such luck"),
    ):
        assert main(["--out", out, *arguments]) == 2
        assert message in capsys.readouterr().err


SUITE = {
    "attention", "chat", "compiled", "evaluate", "image_mode", "input_pipeline", "objects", "plug_encoder",
    "sam2_encoder", "scaling", "start_up", "train_step", "vit_h_forward",
}  # fmt: skip


def test_every_benchmark_is_found_and_documented() -> None:
    found = find_scripts(BENCHMARKS).keys()
    assert found == SUITE
    page = (BENCHMARKS.parent / "docs" / "speed.md").read_text()
    assert all(f"| `{name}` |" in page for name in found)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SUITE))
def test_every_benchmark_has_the_options_of_the_suite(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), "--help"], capture_output=True, text=True, check=True
    )
    assert "--quick" in done.stdout and "--out" in done.stdout
    required = done.stdout.split("options:")[0]
    assert "[--out OUT]" in required and "] --" not in required.replace("\n", " ").replace("  ", " ")


def test_threads_reach_the_script(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nothing", "--folder", str(folder), "--out", str(tmp_path), "--threads", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nothing"]["machine"]["threads"] == 1


def test_table_is_aligned() -> None:
    assert table([{"a": 1.23456, "name": "x"}, {"a": 20, "name": "long"}]) == "    a  name\n1.235     x\n   20  long"
