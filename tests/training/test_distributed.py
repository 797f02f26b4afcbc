"""Two processes train as one does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import SamModel

from amodal.training.loop import train
from amodal.training.recipe import Recipe
from tests.training.tiny import tiny_recipe

ROOT = Path(__file__).parents[2]
SCRIPT = "import sys; from amodal.training.recipe import *; from amodal.training.loop import train; "
SCRIPT += "train(load_recipe(sys.argv[1]), progress=False)"


def start(recipe_file: Path, processes: int) -> list[subprocess.Popen[bytes]]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    world = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    quiet = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(recipe_file)],
            stderr=subprocess.PIPE,
            env=os.environ | world | quiet | {"PYTHONPATH": path, "RANK": str(i), "LOCAL_RANK": str(i)},
        )
        for i in range(processes)
    ]


def recipe_of_one_prompt(folder: Path, **training: object) -> Recipe:
    """With one valid prompt a crop, means over the processes' halves are the mean over all."""
    recipe = tiny_recipe(folder, model={"points_share": 0.5}, learning_rate=1e-4, **training)
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"num_prompts": 1})})


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    recipe = recipe_of_one_prompt(tmp_path, validate_every=4)
    one = train(recipe.model_copy(update={"output": str(tmp_path / "one")}), progress=False)
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.model_dump_json())
    running = start(file, 2)
    for process in running:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors.decode()
    pixels, boxes = torch.randn(2, 3, 32, 32), torch.tensor([4.0, 4.0, 20.0, 24.0]).repeat(2, 1, 1)
    with torch.no_grad():
        a, b = (
            SamModel.from_pretrained(folder)(pixel_values=pixels, input_boxes=boxes).pred_masks
            for folder in (one, tmp_path / "run" / "model")
        )
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 5  # four steps, one validation


@pytest.mark.slow
def test_a_batch_that_processes_cannot_share_is_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe_of_one_prompt(tmp_path, batch_size=3).model_dump_json())
    for process in start(file, 2):
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 1
        assert b"training.batch_size: expected a multiple of the 2 processes, got 3" in errors
