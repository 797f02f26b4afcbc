"""Every row of PLUG's tables 1-3 is a command that parses, builds and says what it needs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

from amodal.models.bases.sam import sam_config_for
from amodal.models.plug import PlugModel
from amodal.training.plan import plan
from amodal.training.recipe import PlugModelRecipe, Recipe, load_recipe

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "reproduce.md").read_text()
PAPERS = sorted((ROOT / "recipes" / "plug").glob("*-vit-*.yaml"))

# (point loss, refine, parallel LoRA, visible branch) of table 2's rows
PARTS = {
    "1": (False, False, False, False),
    "2": (False, False, False, False),
    "3": (True, False, False, False),
    "4": (True, True, False, True),
    "5": (True, True, True, True),
}


def rows() -> list[tuple[str, str, list[str]]]:
    """(dataset, row, arguments) of the commands that stand under a `# dataset, row` line."""
    found = re.findall(r"^# (kins|cocoa), (row \d|rank \d+)\namodal train (.+)$", DOCUMENT, re.M)
    return [(data, row, shlex.split(command)) for data, row, command in found]


def loaded(arguments: list[str]) -> Recipe:
    path, *rest = arguments
    assert rest[::2] == ["--set"] * (len(rest) // 2)
    return load_recipe(ROOT / path, rest[1::2])


def test_all_rows_are_there() -> None:
    wanted = {(data, f"row {i}") for data in ("kins", "cocoa") for i in range(1, 6)}
    wanted |= {(data, f"rank {r}") for data in ("kins", "cocoa") for r in (4, 8, 16, 32)}
    assert {(data, row) for data, row, _ in rows()} == wanted


@pytest.mark.parametrize(("data", "row", "arguments"), rows())
def test_a_row_is_what_the_table_says(data: str, row: str, arguments: list[str]) -> None:
    recipe = loaded(arguments)
    assert arguments[0] == f"recipes/plug/{data}-vit-h.yaml"
    assert isinstance(recipe.model, PlugModelRecipe)
    config = recipe.model.config(sam=sam_config_for(recipe.model.base))
    kind, number = row.split()
    parts = PARTS[number if kind == "row" else "5"]
    assert (config.point_loss, config.refine, config.parallel_lora, config.visible_branch) == parts
    rank = int(number) if kind == "rank" else 0 if number == "1" else 16
    assert config.lora_rank == rank
    assert config.box_source == ("amodal" if row == "row 1" else "visible")
    assert recipe.training.steps == (0 if row == "row 1" else None)
    with torch.device("meta"):
        PlugModel(config)


def test_rows_do_not_write_over_each_other() -> None:
    outputs = {(data, row): loaded(arguments).output for data, row, arguments in rows()}
    same = {("row 5", "rank 16")}
    for one in outputs:
        for two in outputs:
            if one < two and outputs[one] == outputs[two]:
                assert one[0] == two[0] and (two[1], one[1]) in same


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[] if "kins" in p.stem else pytest.mark.slow) for p in PAPERS],
    ids=lambda path: path.stem,
)
def test_the_header_states_the_computed_plan(path: Path) -> None:
    header = " ".join(line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#"))
    for part in (
        "Row: ",
        "Command: ",
        "Hardware: ",
        "Expected hours: ",
        "Expected figure: ",
        "Protocol: c2f",
        "Steps: ",
    ):
        assert part in header
    guessed = re.search(r"test list: ([\d,]+) objects, ([\d,]+) steps, ([\d,.]+) an epoch", header)
    assert guessed is not None
    objects, steps, an_epoch = (float(number.replace(",", "")) for number in guessed.groups())
    found = plan(load_recipe(path), processes=8, objects=int(objects))
    assert (found["iterations"], found["iterations_per_epoch"]) == (steps, an_epoch)
    assert f"of {found['crops_per_process']} crops" in header
    for name in ("weights", "gradients", "optimizer", "activations_per_crop", "total"):
        stated = re.search(rf"\b{name} (\d+\.\d+)", header)
        assert stated is not None
        assert float(stated[1]) == pytest.approx(found[name], rel=0.1, abs=0.011)
    again = re.search(r"\(([\d.]+) with gradient_checkpointing", header)
    assert again is not None
    assert float(again[1]) == pytest.approx(found["activations_per_crop_checkpointed"], rel=0.15)
