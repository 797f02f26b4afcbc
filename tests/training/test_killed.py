"""A run that is killed, at any moment, ends as one that was not."""

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
    """Start a run and kill it after so many seconds, or once it stands still; it cannot end before."""
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
    """Steps of the newest complete checkpoint."""
    return max((int(path.name.removeprefix("step_")) for path in out.glob("checkpoints/step_*")), default=0)


def wait_until_gone(children: list[int], seconds: float = 15) -> None:
    """Data workers of a killed run leave by themselves."""
    until = time.monotonic() + seconds
    while (left := [pid for pid in children if Path(f"/proc/{pid}").exists()]) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left


def children_of(pid: int) -> list[int]:
    """Process ids, by Linux's /proc."""
    file = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in file.read_text().split()] if file.is_file() else []


def assert_ended_alike(straight: Path, killed: Path) -> None:
    """Weights, averages and optimiser bit for bit, and every line of the log."""
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
    """A straight run, and one killed once for each of (place, steps until it holds at the latest, seconds)."""
    recipe: Recipe = tiny_recipe(folder, "plug", ema=0.9, workers=1, picture_objects=1, **training)
    file, straight = (folder / f"{name}.yaml" for name in ("killed", "straight"))
    for path in (file, straight):
        path.write_text(recipe.model_copy(update={"output": str(path.with_suffix(""))}).model_dump_json())
    out = folder / "killed"
    finish(start(straight), straight)  # a process like the others: threads decide the order of sums
    for place, steps, seconds in moments:
        done = newest(out)
        assert done + steps < recipe.training.steps
        kill(file, out, Hold(place, done + 1, done + steps), seconds)
    (process,) = start(file)
    finish([process], file)
    assert_ended_alike(folder / "straight", out)


def test_a_killed_run_ends_as_a_straight_one(tmp_path: Path) -> None:
    moments: list[tuple[Place, int, float | None]] = [("dropping", 3, None), ("filling", 3, None)]
    run_both(tmp_path, moments, steps=6, log_every=3, validate_every=6, checkpoint_every=1)


@pytest.mark.slow
def test_many_kills(tmp_path: Path) -> None:
    """At every place, and at moments that are the clock's choice."""
    generator = random.Random(0)
    moments: list[tuple[Place, int, float | None]] = [
        (place, generator.randrange(2, 8), seconds)
        for place in PLACES * 5
        for seconds in (None if generator.random() < 0.5 else generator.uniform(0, 2.5),)
    ]
    run_both(tmp_path, moments, steps=200, log_every=7, validate_every=10, checkpoint_every=1)
