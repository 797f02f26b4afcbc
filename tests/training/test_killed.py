"""A run that was killed at any moment and resumed gives the same result as an uninterrupted run."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from amodal.training.recipe import Recipe
from tests.training.processes import PLACES, Hold, Place, error_of, finish, sign_of, start
from tests.training.tiny import tiny_recipe


def kill(file: Path, out: Path, hold: Hold, seconds: float | None) -> None:
    """Start a run and kill it after `seconds`, or once it waits at its place; it cannot end before."""
    sign_of(file).unlink(missing_ok=True)
    (process,) = start(file, hold=hold)
    process.join(seconds if seconds is not None else 0)
    until = time.monotonic() + 120
    while seconds is None and not sign_of(file).is_file() and process.is_alive() and time.monotonic() < until:
        time.sleep(0.005)
    children = children_of(process.pid or 0)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, error_of(file)
    wait_until_gone(children)


def newest(out: Path) -> int:
    """Number of steps of the newest complete checkpoint."""
    return max((int(path.name.removeprefix("step_")) for path in out.glob("checkpoints/step_*")), default=0)


def wait_until_gone(children: list[int], seconds: float = 15) -> None:
    """Check that the data workers of a killed run exit by themselves."""
    until = time.monotonic() + seconds
    while (alive := [pid for pid in children if Path(f"/proc/{pid}").exists()]) and time.monotonic() < until:
        time.sleep(0.1)
    assert not alive


def children_of(pid: int) -> list[int]:
    """Process ids of the children, from Linux's /proc."""
    file = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in file.read_text().split()] if file.is_file() else []


def assert_same_result(straight: Path, killed: Path) -> None:
    """Weights, averages, optimiser state and all log lines are identical."""
    last = sorted((straight / "checkpoints").glob("step_*"))[-1].name
    assert sorted((killed / "checkpoints").glob("*"))[-1].name == last
    a, b = (load_file(out / "checkpoints" / last / "model.safetensors") for out in (straight, killed))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    for part in ("average.pt", "optimizer.pt"):
        one, two = (torch.load(out / "checkpoints" / last / part) for out in (straight, killed))
        assert str(one) == str(two)
    models = [load_file(out / "model" / "increment.safetensors") for out in (straight, killed)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    assert logged(straight) == logged(killed)
    assert not list(killed.rglob(".writing_*"))


def logged(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("time", "samples_per_s")} for line in lines]


def run_both(folder: Path, moments: list[tuple[Place, int, float | None]], **training: object) -> None:
    """Run without interruption, and with one kill per (place, maximum number of steps until it waits, seconds)."""
    recipe: Recipe = tiny_recipe(folder, "plug", ema=0.9, workers=1, picture_objects=1, **training)
    file, straight = (folder / f"{name}.yaml" for name in ("killed", "straight"))
    for path in (file, straight):
        path.write_text(recipe.model_copy(update={"output": str(path.with_suffix(""))}).model_dump_json())
    out = folder / "killed"
    finish(
        start(straight), straight
    )  # in a process like the other run, because the number of threads changes the order of sums
    for place, steps, seconds in moments:
        done = newest(out)
        assert done + steps < recipe.training.steps
        kill(file, out, Hold(place, done + 1, done + steps), seconds)
    (process,) = start(file)
    finish([process], file)
    assert_same_result(folder / "straight", out)


def test_a_killed_run_gives_the_result_of_an_uninterrupted_one(tmp_path: Path) -> None:
    moments: list[tuple[Place, int, float | None]] = [("dropping", 3, None), ("filling", 3, None)]
    run_both(tmp_path, moments, steps=6, log_every=3, validate_every=6, checkpoint_every=1)


@pytest.mark.slow
def test_many_kills(tmp_path: Path) -> None:
    """Kills at every place and at random times."""
    generator = random.Random(0)
    moments: list[tuple[Place, int, float | None]] = [
        (place, generator.randrange(2, 8), seconds)
        for place in PLACES * 5
        for seconds in (None if generator.random() < 0.5 else generator.uniform(0, 2.5),)
    ]
    run_both(tmp_path, moments, steps=200, log_every=7, validate_every=10, checkpoint_every=1)
