from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from amodal.errors import InputError
from amodal.models.plug import PlugConfig
from amodal.training.recipe import (
    MAY_CHANGE,
    NO_VALUE,
    PlugModelRecipe,
    Recipe,
    differences,
    load_recipe,
    parse_recipe,
)  # fmt: skip

SOURCE = {"format": "canonical", "annotations": "a.json"}
SAM = {
    "task": "sam",
    "output": "runs/x",
    "model": {},
    "data": {"train": [SOURCE, SOURCE], "validation": [SOURCE]},
    "training": {"steps": 10},
}
PLUG = SAM | {"task": "plug", "model": {"base": "sam-small"}}


def written(folder: Path, content: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_plug_fields_and_defaults_are_those_of_the_configuration() -> None:
    settings = parse_recipe(PLUG).model
    assert isinstance(settings, PlugModelRecipe)
    fields = settings.model_dump()
    for name, parameter in inspect.signature(PlugConfig.__init__).parameters.items():
        if name not in ("self", "sam", "base", "kwargs"):
            assert fields[name] == parameter.default
    assert settings.config().to_dict() == PlugConfig().to_dict()


def test_overrides_reach_sections_lists_and_new_sections(tmp_path: Path) -> None:
    overrides = [
        "model.lora_rank=4",
        "data.train.1.weight=2.5",
        "training.learning_rate=1e-4",
        "training.betas=[0.9, 0.95]",
        "data.augmentation.flip=0.0",
        "training.steps=null",
        "training.epochs=3",
    ]
    recipe = load_recipe(written(tmp_path, PLUG), overrides)
    assert isinstance(recipe.model, PlugModelRecipe)
    assert recipe.model.config().lora_rank == 4
    assert [source.weight for source in recipe.data.train] == [1.0, 2.5]
    assert recipe.training.learning_rate == 1e-4
    assert recipe.training.betas == (0.9, 0.95)
    assert recipe.data.augmentation.flip == 0.0
    assert (recipe.training.steps, recipe.training.epochs) == (None, 3)


def test_the_recipe_in_a_run_folder_can_be_read_again(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, PLUG), ["model.lora_rank=3"])
    again = load_recipe(written(tmp_path, recipe.model_dump(mode="json")))
    assert again == recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.step=3", r"training\.step: unknown key; did you mean 'steps'"),
        ("model.zzzzzzzz=3", r"model\.zzzzzzzz: unknown key$"),
        ("data.train.0.weigth=3", r"data\.train\.0\.weigth: unknown key; did you mean 'weight'"),
        ("training.steps=many", r"training\.steps: expected a valid integer, got 'many'"),
        ("training.batch_size=0", r"training\.batch_size: expected greater than 0, got 0"),
        ("training.ema=1.0", r"training\.ema: expected less than 1, got 1\.0"),
        ("training.decay=fast", r"training\.decay: expected 'linear' or 'cosine', got 'fast'"),
        ("training.epochs=2", "training: expected either 'steps' or 'epochs', got both or none"),
        ("data.train.0={format: canonical}", r"data\.train\.0\.annotations: expected a value, got none"),
        ("task=dance", "task: expected 'sam', 'plug', 'aura' or 'detector', got 'dance'"),
        ("task=[sam]", "task: expected 'sam', 'plug', 'aura' or 'detector', got"),
        ("model.lora_rank=two", r"model\.lora_rank: expected a valid integer, got 'two'"),
        ("model.epsilon=0", r"model\.epsilon: expected 1 or more, got 0"),
        *(
            (f"model.{name}={value}", rf"model\.{name}: expected 0 or more, got {value.lstrip('.')}")
            for name in ("alpha", "beta", "dice_weight", "occluded_dice_weight", "iou_weight")
            for value in ("-1.0", ".nan")
        ),
        ("data.augmentation.flip=50", r"data\.augmentation\.flip: expected less than or equal to 1, got 50"),
        ("data.augmentation.blur=-0.1", r"data\.augmentation\.blur: expected greater than or equal to 0, got -0\.1"),
        (
            "data.augmentation.scale=[1.3, 0.8]",
            r"scale: expected two numbers above 0 in rising order, got \(1\.3, 0\.8\)",
        ),
        ("data.augmentation.wide_scale=[0.0, 2.0]", r"wide_scale: expected two numbers above 0 in rising order, got"),
        ("data.train=[mine.json]", r"data\.train\.0: expected keys with values, got 'mine\.json'"),
        ("data.mask_prompt_share=1.5", r"data\.mask_prompt_share: expected less than or equal to 1, got 1\.5"),
        (
            "data.mask_prompt_share=0.5",
            r"data\.mask_prompt_share: expected 0 with model\.mask_prompts false, got 0\.5",
        ),
        (
            "model.mask_prompts=true",
            r"data\.mask_prompt_share: expected above 0 with model\.mask_prompts true, got 0\.0",
        ),
        ("training.steps", "--set: expected key=value, got 'training.steps'"),
        ("data.train.7.weight=1", r"--set: expected a number below 2 in 'data\.train\.7\.weight', got '7'"),
        ("seed.x=1", r"--set: expected 'seed\.x' to name a key inside a section, got a part of it that is a value"),
        ("seed=[1", r"--set seed: expected a YAML value, got '\[1'"),
    ],
)
def test_errors_name_the_key_and_the_expected_value(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe(written(tmp_path, PLUG | {"seed": 0}), [override])


def test_overrides_as_one_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"overrides: expected a list such as .*, got the text 'training.steps=10'"):
        load_recipe(written(tmp_path, PLUG), "training.steps=10")


def test_mask_prompts_are_for_both_promptable_models(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, PLUG), ["model.mask_prompts=true", "data.mask_prompt_share=0.5"])
    assert isinstance(recipe.model, PlugModelRecipe) and recipe.model.config().mask_prompts
    assert load_recipe(written(tmp_path, SAM), ["data.mask_prompt_share=0.5"])


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        (SAM, ["data.mask_prompt_share=0.5"]),
        (PLUG, []),
        (
            PLUG | {"model": {"base": "sam-small", "mask_prompts": True, "visible_branch": False, "refine": False}},
            ["data.mask_prompt_share=0.5"],
        ),
    ],
)
def test_the_models_own_masks_need_a_plug_with_mask_prompts_that_predicts_visible_masks(
    tmp_path: Path, recipe: Any, overrides: list[str]
) -> None:
    with pytest.raises(InputError, match=r"data\.own_mask_share: expected 0 unless task is plug and .*, got 0\.5"):
        load_recipe(written(tmp_path, recipe), [*overrides, "data.own_mask_share=0.5"])


@pytest.mark.parametrize(
    ("key", "value", "least"),
    [("frozen_blocks", "-1", 0), ("dice_weight", "-0.5", 0), ("quality_weight", "-0.5", 0), ("crop_scale", "0.5", 1)],
)
def test_sizes_and_weights_of_a_segmenter_have_a_least_value(tmp_path: Path, key: str, value: str, least: int) -> None:
    with pytest.raises(InputError, match=rf"model\.{key}: expected greater than or equal to {least}, got {value}"):
        load_recipe(written(tmp_path, SAM), [f"model.{key}={value}"])


def test_files_that_are_not_recipes_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="recipe: expected a file, got .* does not exist"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="expected YAML, got"):
        load_recipe(written(tmp_path, "a: [1"))
    with pytest.raises(InputError, match="expected a mapping, got list"):
        load_recipe(written(tmp_path, "[1, 2]"))


def changed(*overrides: str, folder: Path) -> Recipe:
    return load_recipe(written(folder, PLUG), list(overrides))


def test_differences_are_named_by_dotted_keys_with_both_values(tmp_path: Path) -> None:
    begun = changed(folder=tmp_path)
    assert differences(begun, changed(folder=tmp_path)) == {}
    given = changed(
        "seed=2",
        "model.lora_rank=4",
        "data.train.1.weight=2",
        "training.betas=[0.9, 0.95]",
        "training.steps=null",
        "training.epochs=3",
        folder=tmp_path,
    )
    assert differences(begun, given) == {
        "seed": (0, 2),
        "model.lora_rank": (16, 4),
        "data.train.1.weight": (1.0, 2.0),
        "training.steps": (10, None),
        "training.epochs": (None, 3),
        "training.betas": ([0.9, 0.999], [0.9, 0.95]),
    }


def test_an_entry_that_only_one_recipe_has_is_one_difference(tmp_path: Path) -> None:
    two, one = (
        changed(folder=tmp_path),
        changed("data.train=[{format: canonical, annotations: a.json}]", folder=tmp_path),
    )
    entry = two.data.train[1].model_dump(mode="json")
    assert differences(two, one) == {"data.train.1": (entry, NO_VALUE)}
    assert differences(one, two) == {"data.train.1": (NO_VALUE, entry)}


def test_a_key_that_an_older_recipe_lacks_equals_its_default(tmp_path: Path) -> None:
    recipe = changed(folder=tmp_path)
    content = recipe.model_dump(mode="json")
    for section, key in (("data", "mask_prompt_share"), ("data", "mask_prompt_noise"), ("model", "mask_prompts")):
        del content[section][key]
    older = load_recipe(written(tmp_path, content))
    assert differences(older, recipe) == {}
    assert differences(older, changed("data.mask_prompt_noise=0.1", folder=tmp_path)) == {
        "data.mask_prompt_noise": (0.05, 0.1)
    }


def test_keys_without_influence_on_the_weights_are_no_differences_and_stand_in_the_documentation(
    tmp_path: Path,
) -> None:
    values = {
        "output": "runs/y", "training.checkpoint_every": 7, "training.compile": True,
        "training.gradient_checkpointing": True, "training.log_every": 7, "training.max_minutes": 5.0,
        "training.picture_objects": 0, "training.trackers": [], "training.workers": 3,
    }  # fmt: skip
    assert values.keys() == MAY_CHANGE
    given = changed(*(f"{key}={json.dumps(value)}" for key, value in values.items()), folder=tmp_path)
    assert differences(changed(folder=tmp_path), given) == {}
    assert given.training.workers == 3 and given.output == "runs/y"
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `") and line.endswith("| may change |")]
    assert {key for row in rows for key in re.findall(r"`([a-z_.]+)`", row.split("|")[1])} == MAY_CHANGE
