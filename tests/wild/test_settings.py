"""Every documented value of a recipe's keys works as it is written, in a file and with `--set`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

from amodal.errors import InputError
from amodal.training.recipe import Recipe, load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))


def choices(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, Any]]:
    """Each key with a fixed set of values, and each of its values."""
    for name, field in model.model_fields.items():
        for kind in nested(field.annotation):
            if get_origin(kind) is Literal:
                yield from ((f"{path}{name}", value) for value in get_args(kind))
            elif isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from choices(kind, f"{path}{name}.")
            elif kind is bool:
                yield from ((f"{path}{name}", value) for value in (True, False))


def nested(kind: Any) -> Iterator[Any]:
    """A type and the types inside it."""
    yield kind
    if get_origin(kind) is not Literal:
        for inner in get_args(kind):
            yield from nested(inner)


CHOICES = sorted({(path, value) for path, value in choices(Recipe) if path.startswith("training.")}, key=str)


def test_the_choices_are_found() -> None:
    keys = {key for key, _ in CHOICES}
    assert {"training.precision", "training.optimizer", "training.decay", "training.trackers"} <= keys


def shown(key: str, value: Any) -> str:
    """A value as people write it: without quotes."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"[{text}]" if key == "training.trackers" else text


@pytest.mark.parametrize(("key", "value"), CHOICES)
def test_every_choice_works_in_a_file_and_with_set(tmp_path: Path, key: str, value: Any) -> None:
    plain = next(path for path in RECIPES if path.parts[-2:] == ("plug", "tiny.yaml"))
    name = key.removeprefix("training.")
    lines = [line for line in plain.read_text().splitlines() if not line.startswith(f"  {name}:")]
    lines.insert(lines.index("training:") + 1, f"  {name}: {shown(key, value)}")
    (tmp_path / "recipe.yaml").write_text("\n".join(lines))
    for recipe in (load_recipe(tmp_path / "recipe.yaml"), load_recipe(plain, [f"{key}={shown(key, value)}"])):
        found = getattr(recipe.training, name)
        assert found == ([value] if name == "trackers" else value) and type(found) is not int


def test_aliases_that_expand_without_end_are_refused(tmp_path: Path) -> None:
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    hostile = {
        "bomb": "\n".join(["a0: &a0 [x]", *levels]),
        "mappings": "\n".join(
            ["a0: &a0 {x: 1}", *(f"a{i}: &a{i} {{a: *a{i - 1}, b: *a{i - 1}}}" for i in range(1, 40))]
        ),
        "itself": "a: &a [*a]",
        "deep": "a: " + "[" * 5000 + "]" * 5000,
    }
    for name, text in hostile.items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        with pytest.raises(InputError, match="expected YAML, got (more than|sections nested)") as error:
            load_recipe(path)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="expected a YAML value"):
        load_recipe(RECIPES[0], ["training.seed=&a [*a]"])
