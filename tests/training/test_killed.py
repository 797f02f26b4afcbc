"""A run that is killed, at any moment, ends as one that was not."""

from __future__ import annotations

import json
import random
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from amodal.training.loop import train
from amodal.training.recipe import Recipe
from tests.training.processes import error_of, start
from tests.training.tiny import tiny_recipe


def kill_until_done(file: Path, out: Path, kills: int, seed: int) -> int:
    """Start, kill, start again, ... and let it end after `kills` kills; returns the kills that hit."""
    generator, hits = random.Random(seed), 0
    while hits < kills:
        (process,) = start(file)
        wait_for(out, process, generator)
        children = children_of(process.pid or 0)
        process.kill()
        process.join()
        wait_until_gone(children)
        if process.exitcode == 0:
            break
        assert process.exitcode == -9, error_of(file)
        hits += 1
    (process,) = start(file)
    process.join(300)
    assert process.exitcode == 0, error_of(file)
    return hits


def wait_for(out: Path, process: BaseProcess, generator: random.Random) -> None:
    """One of: a moment of any phase, or the middle of writing a checkpoint or a model."""
    if generator.random() < 0.5:
        process.join(generator.uniform(0, 2.5))
        return
    before, until = newest(out), time.monotonic() + 30
    steps = generator.randrange(1, 4)  # let it get ahead, or kills before the first step go on forever
    while process.is_alive() and time.monotonic() < until:
        if newest(out) >= before + steps and (any(out.glob("checkpoints/.writing_*")) or any(out.glob(".writing_*"))):
            return
        time.sleep(0.0005)


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


def run_both(folder: Path, kills: int, **training: object) -> int:
    recipe: Recipe = tiny_recipe(folder, "plug", ema=0.9, workers=1, picture_objects=1, **training)
    train(recipe.model_copy(update={"output": str(folder / "straight")}), progress=False)
    file = folder / "recipe.yaml"
    file.write_text(recipe.model_copy(update={"output": str(folder / "killed")}).model_dump_json())
    hits = kill_until_done(file, folder / "killed", kills, seed=kills)
    assert_ended_alike(folder / "straight", folder / "killed")
    return hits


def test_a_killed_run_ends_as_a_straight_one(tmp_path: Path) -> None:
    assert run_both(tmp_path, 1, steps=8, log_every=3, validate_every=8, checkpoint_every=1) == 1


@pytest.mark.slow
def test_many_kills(tmp_path: Path) -> None:
    assert run_both(tmp_path, 24, steps=200, log_every=7, validate_every=10, checkpoint_every=1) >= 20
