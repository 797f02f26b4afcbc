"""Every row of PLUG's tables 1-3 has a command that can be parsed and built, and a recipe that states what it needs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

from amodal.models.bases.families import FAMILIES, base_config
from amodal.models.plug import PlugConfig, PlugModel
from amodal.models.plug.modeling import parameter_counts
from amodal.training.plan import plan
from amodal.training.recipe import PlugModelRecipe, Recipe, load_recipe

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "reproduce.md").read_text()
FULL_SIZE = sorted(p for kind in ("vit", "sam2.1") for p in (ROOT / "recipes" / "plug").glob(f"*-{kind}-*.yaml"))

LAUNCH = "accelerate launch --config_file recipes/launch/ddp.yaml -m"

# (point loss, refine, parallel LoRA, visible branch) of table 2's rows
PARTS = {
    "1": (False, False, False, False),
    "2": (False, False, False, False),
    "3": (True, False, False, False),
    "4": (True, True, False, True),
    "5": (True, True, True, True),
}


def rows() -> list[tuple[str, str, list[str]]]:
    """(dataset, row, arguments) of each command that follows a `# dataset, row` line."""
    commands = re.findall(rf"^# (kins|cocoa), (row \d|rank \d+)\n(?:{LAUNCH} )?amodal train (.+)$", DOCUMENT, re.M)
    return [(data, row, shlex.split(command)) for data, row, command in commands]


def loaded(arguments: list[str]) -> Recipe:
    path, *rest = arguments
    assert rest[::2] == ["--set"] * (len(rest) // 2)
    return load_recipe(ROOT / path, rest[1::2])


def test_all_rows_have_a_command() -> None:
    expected = {(data, f"row {i}") for data in ("kins", "cocoa") for i in range(1, 6)}
    expected |= {(data, f"rank {r}") for data in ("kins", "cocoa") for r in (4, 8, 16, 32)}
    assert {(data, row) for data, row, _ in rows()} == expected


@pytest.mark.parametrize(("data", "row", "arguments"), rows())
def test_a_row_has_the_parts_that_the_table_names(data: str, row: str, arguments: list[str]) -> None:
    recipe = loaded(arguments)
    assert arguments[0] == f"recipes/plug/{data}-vit-h.yaml"
    assert isinstance(recipe.model, PlugModelRecipe)
    config = recipe.model.config(sam=base_config(recipe.model.base))
    kind, number = row.split()
    parts = PARTS[number if kind == "row" else "5"]
    assert (config.point_loss, config.refine, config.parallel_lora, config.visible_branch) == parts
    rank = int(number) if kind == "rank" else 0 if number == "1" else 16
    assert config.lora_rank == rank
    assert config.box_source == ("amodal" if row == "row 1" else "visible")
    assert recipe.training.steps == (0 if row == "row 1" else None)
    with torch.device("meta"):
        PlugModel(config)


def test_the_table_of_bases_states_the_counted_parameters() -> None:
    names = ("lora", "mask_decoders", "refine", "incremental", "base", "total")
    table = re.findall(r"^\| SAM[\d. ]* `([\w.-]+)` \| ([\d,| ]+) \|$", DOCUMENT, re.M)
    assert [preset for preset, _ in table] == [name for kind in ("sam", "sam2") for name in FAMILIES[kind].presets]
    for preset, cells in table:
        counts = parameter_counts(PlugConfig(sam=base_config(preset)))
        assert [int(cell.replace(",", "")) for cell in cells.split("|")] == [counts[name] for name in names], preset


@pytest.mark.parametrize(
    "rank", [4, pytest.param(8, marks=pytest.mark.slow), 16, pytest.param(32, marks=pytest.mark.slow)]
)
def test_the_table_of_ranks_states_the_counted_parameters(rank: int) -> None:
    cells = re.search(rf"^\| {rank} \| [\d.]+ M \| ([\d,]+) \| ([\d,]+) \|", DOCUMENT, re.M)
    assert cells is not None
    counts = parameter_counts(PlugConfig(sam=base_config("vit-h"), lora_rank=rank))
    assert [int(cell.replace(",", "")) for cell in cells.groups()] == [counts["incremental"], counts["trainable"]]


def planned(first: str) -> list[float]:
    """The sizes in GiB in the last cell of the lines of the page whose first cell is this one."""
    lines = re.findall(rf"^\| {re.escape(first)} \|.*\| ([^|]+) \|$", DOCUMENT, re.M)
    return [float(size) for line in lines for size in re.findall(r"([\d.]+) GiB", line)]


@pytest.mark.slow
def test_the_page_states_the_planned_memory() -> None:
    for base in ("B", "L", "H"):
        totals = [
            plan(load_recipe(ROOT / "recipes" / "plug" / f"{data}-vit-{base.lower()}.yaml"), processes=8)["total"]
            for data in ("kins", "cocoa")
        ]
        assert planned(f"Ours (ViT-{base})") == pytest.approx(totals, rel=0.02)
    named = {"row 2": "2 fine-tuning", "row 3": "3 + point loss", "row 4": "4 + refine module"}
    named |= {f"rank {rank}": str(rank) for rank in (4, 8, 32)}
    for data, row, arguments in rows():
        if data == "kins" and row in named:
            total = plan(loaded(arguments), processes=8)["total"]
            assert planned(named[row])[0] == pytest.approx(total, rel=0.02), row
    for gpus, memory in ((8, 80), (8, 40), (8, 32), (1, 80), (1, 24)):
        line = re.search(rf"^\| {gpus} with {memory} GB \| (.*?) \| (\d+) \| ([\d.]+) \|$", DOCUMENT, re.M)
        assert line is not None
        settings = re.findall(r"`(training\.\w+=\d+)`", line[1])
        counted = plan(load_recipe(ROOT / "recipes/plug/kins-vit-h.yaml", settings), processes=gpus)
        assert counted["crops_per_process"] == int(line[2])
        assert counted["total"] == pytest.approx(float(line[3]), rel=0.02) and counted["total"] < memory / 1.074


def test_rows_do_not_overwrite_each_other() -> None:
    outputs = {(data, row): loaded(arguments).output for data, row, arguments in rows()}
    same = {("row 5", "rank 16")}
    for one in outputs:
        for two in outputs:
            if one < two and outputs[one] == outputs[two]:
                assert one[0] == two[0] and (two[1], one[1]) in same


FAST = ("kins-vit-b", "kins-sam2.1-tiny")


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[] if p.stem in FAST else pytest.mark.slow) for p in FULL_SIZE],
    ids=lambda path: path.stem,
)
def test_the_header_states_the_computed_plan(path: Path) -> None:
    header = " ".join(line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#"))
    parts = ("Paper", "Command", "Hardware", "Expected time", "Expected result", "Evaluation: protocol c2f", "Steps")
    for part in parts:
        assert f"{part} " in header or f"{part}: " in header
    estimate = re.search(r"test list: ([\d,]+) objects, ([\d,]+) steps, ([\d,.]+) steps per epoch", header)
    assert estimate is not None
    objects, steps, steps_per_epoch = (float(number.replace(",", "")) for number in estimate.groups())
    computed = plan(load_recipe(path), processes=8, objects=int(objects))
    assert (computed["iterations"], computed["iterations_per_epoch"]) == (steps, steps_per_epoch)
    assert f"of {computed['crops_per_process']} crops" in header
    for name in ("weights", "gradients", "optimizer", "activations_per_crop", "total"):
        stated = re.search(rf"\b{name} (\d+\.\d+)", header)
        assert stated is not None
        assert float(stated[1]) == pytest.approx(computed[name], rel=0.1, abs=0.011)
    checkpointed = re.search(r"\(([\d.]+) with gradient_checkpointing", header)
    assert checkpointed is not None
    assert float(checkpointed[1]) == pytest.approx(computed["activations_per_crop_checkpointed"], rel=0.15)
