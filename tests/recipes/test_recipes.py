from __future__ import annotations

from pathlib import Path

import pytest
import torch

from amodal.models.bases.families import base_config
from amodal.models.bases.sam2 import new_sam2
from amodal.models.plug import PlugModel
from amodal.training.build import build
from amodal.training.loop import train
from amodal.training.recipe import PlugModelRecipe, Recipe, SamModelRecipe, load_recipe
from tests.models.families import ROWS, small_sam2_config
from tests.training.tiny import SAM, TRAINING, tiny_base, tiny_recipe

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(path for path in FOLDER.rglob("*.yaml") if path.parent.name != "launch")
SAM2_SIZES = ("tiny", "small", "base-plus", "large")
OTHERS = ("aura", "detector")  # see tests/recipes/test_aura.py and tests/training/tasks/test_detector.py
PROMPTED = [path for path in RECIPES if path.parent.name not in OTHERS and path.stem not in OTHERS]


def tiny_sam2(folder: Path) -> Path:
    """Write a small SAM 2 with random weights."""
    new_sam2(small_sam2_config()).save_pretrained(folder / "sam2")
    return folder / "sam2"


def test_the_expected_recipes_exist() -> None:
    names = {str(path.relative_to(FOLDER)) for path in RECIPES}
    papers = {f"plug/{data}-vit-{size}.yaml" for data in ("kins", "cocoa") for size in "blh"}
    sam2 = {f"plug/{data}-sam2.1-{size}.yaml" for data in ("kins", "cocoa") for size in SAM2_SIZES}
    assert names >= papers | sam2 | {"sam/small.yaml", "plug/small.yaml"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_recipe_is_valid_and_has_its_command_in_the_header(path: Path) -> None:
    recipe = load_recipe(path)
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(f"amodal train recipes/{path.relative_to(FOLDER)}" in line for line in header)
    if not isinstance(recipe.model, SamModelRecipe):
        recipe.model.config()


@pytest.mark.parametrize(
    "path", [p for p in PROMPTED if "-vit-" in p.name or "-sam2.1-" in p.name], ids=lambda path: path.stem
)
def test_recipes_of_the_paper_have_its_constants(path: Path) -> None:
    recipe = load_recipe(path)
    assert isinstance(recipe.model, PlugModelRecipe)
    training = recipe.training
    config = recipe.model.config(sam=base_config(recipe.model.base))
    preset = path.stem.split("-", 1)[1]
    assert config.family.hub_ids[recipe.model.base] == preset
    with torch.device("meta"):
        PlugModel(config)
    assert (config.image_size, config.lora_rank, config.crop_scale, config.mask_threshold) == (512, 16, 2.0, 0.3)
    assert (config.epsilon, config.oversample, config.importance, config.num_points) == (3, 4, 0.75, 256)
    assert (config.alpha, config.beta, config.dice_weight) == (0.1, 0.1, 0.0)
    assert (training.learning_rate, training.betas, training.weight_decay) == (1e-3, (0.9, 0.999), 0.1)
    assert (training.warmup_steps, training.epochs) == (250, 50)


@pytest.mark.parametrize("path", PROMPTED, ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_recipe_trains_two_steps_at_small_size(path: Path, tmp_path: Path) -> None:
    """The recipe with small sizes and toy data."""
    recipe, small = load_recipe(path), tiny_recipe(tmp_path, load_recipe(path).task)
    if isinstance(recipe.model, SamModelRecipe):
        sizes = dict(SAM)
    else:
        is_sam2 = "-sam2.1-" in path.name
        base = tiny_sam2(tmp_path) if is_sam2 else tiny_base(tmp_path)
        if getattr(recipe.model, "prompted_encoder", False):
            ROWS["conv_prompt"].model().save_pretrained(base := tmp_path / "conv_prompt")
        sizes = {"base": str(base), "image_size": 64 if is_sam2 else 32, "num_points": 16, "refine_channels": 8}
    sizes |= {"trunk_weights": None}  # those of ImageNet do not fit
    shrunk: Recipe = recipe.model_copy(
        update={
            "output": str(tmp_path / "run"),
            "init": None,  # a saved model would have the recipe's own sizes
            "model": recipe.model.model_copy(update=sizes),
            "data": recipe.data.model_copy(update={"train": small.data.train, "validation": small.data.validation}),
            "training": recipe.training.model_copy(update=TRAINING | {"steps": 2, "epochs": None}),
        }
    )
    build(shrunk)
    assert (train(shrunk, progress=False) / "config.json").is_file()


def test_the_fine_tuning_recipe_has_the_sizes_of_its_initial_model() -> None:
    recipe = load_recipe(FOLDER / "plug" / "finetune.yaml")
    assert isinstance(recipe.model, PlugModelRecipe) and recipe.init == "plug-small"
    start = PlugModel.from_pretrained(recipe.init).config
    ours = recipe.model.config()
    for name in (
        "image_size",
        "refine_channels",
        "refine_blocks",
        "lora_rank",
        "parallel_lora",
        "train_base",
        "mask_prompts",
        "prompted_encoder",
        "mask_threshold",
        "crop_scale",
    ):
        assert getattr(ours, name) == getattr(start, name), name
    assert recipe.model.base == start.base["name_or_path"]
