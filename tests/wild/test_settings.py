"""Every documented value of a recipe's keys, and every option, works in a file, with `--set` and in the environment."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import typer
import yaml
from pydantic import BaseModel

from amodal.cli.environment import add_variables
from amodal.cli.main import app, main
from amodal.errors import InputError
from amodal.training.recipe import (
    AURA_MODEL,
    PLUG_MODEL,
    AuraDataRecipe,
    DataRecipe,
    Recipe,
    SamModelRecipe,
    load_recipe,
)

FOLDER = Path(__file__).parents[2] / "recipes"
TASKS: dict[str, dict[str, type[BaseModel]]] = {
    "sam": {"model": SamModelRecipe, "data": DataRecipe},
    "plug": {"model": PLUG_MODEL, "data": DataRecipe},
    "aura": {"model": AURA_MODEL, "data": AuraDataRecipe},
}
OTHERS = ("model.mllm", "model.trunk_mllm", "model.box_source", "model.mask_prompts")
"""Beginnings of keys that depend on others, or whose texts are one of a few; these have their own examples."""
OWN = {
    "plug": ["model.box_source=visible"],
    "aura": ["model.base=vit-h", "data.feature_cache=2026"],
}


def fields(model: type[BaseModel], task: str, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each key of a recipe with one of the types that its value may have; of a list, those of its first entry."""
    for name, field in model.model_fields.items():
        own = TASKS[task].get(name) if not path else None
        for kind in nested(own or field.annotation):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                index = ".0" if get_origin(field.annotation) is list else ""
                yield from fields(kind, task, f"{path}{name}{index}.")
            else:
                yield f"{path}{name}", kind


def nested(kind: Any) -> Iterator[Any]:
    """A type and the types inside it."""
    yield kind
    if get_origin(kind) is not Literal:
        for inner in get_args(kind):
            yield from nested(inner)


def values() -> Iterator[tuple[str, str, Any]]:
    """Each value of a fixed set, and for texts those that YAML reads as something else, by task and key."""
    for task in TASKS:
        for key, kind in fields(Recipe, task):
            if get_origin(kind) is Literal:
                yield from ((task, key, value) for value in get_args(kind) if key != "task")
            elif kind is bool:
                yield from ((task, key, value) for value in (True, False))
            elif kind is str:
                yield from ((task, key, value) for value in ("no", "7", "1e10", "2026-11-28", "12:30", "0x1F"))


VALUES = sorted(set(values()), key=str)


def test_the_values_are_found() -> None:
    keys = {(task, key) for task, key, _ in VALUES}
    assert {("plug", "training.precision"), ("sam", "model.trunk_weights"), ("aura", "data.train.0.split"),
            ("plug", "data.train.0.exclude_categories"), ("aura", "model.base_revision"), ("sam", "output"),
            ("plug", "training.trackers"), ("plug", "training.compile")} <= keys  # fmt: skip


def get(content: Any, key: str) -> Any:
    for part in key.split("."):
        content = content[int(part) if part.isdigit() else part]
    return content


def in_a_file(path: Path, settings: list[str], base: Path) -> Path:
    """The recipe with these keys as people write them: without quotes."""
    content: Any = yaml.safe_load(base.read_text())
    for number, setting in enumerate(settings):
        *parents, last = setting.partition("=")[0].split(".")
        section = content
        for part in parents:
            section = section[int(part)] if part.isdigit() else section.setdefault(part, {})
        section[last] = f"PLACE{number}."
    text = yaml.safe_dump(content, sort_keys=False)
    for number, setting in enumerate(settings):
        text = text.replace(f"PLACE{number}.", setting.partition("=")[2])
    path.write_text(text)
    return path


def is_list(task: str, key: str) -> bool:
    return any(found == key and get_origin(kind) is list for found, kind in fields(Recipe, task))


def commands(command: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each command with its name."""
    inner = getattr(command, "commands", {})
    if not inner:
        yield names, command
    for name, one in inner.items():
        yield from commands(one, (*names, name))


COMMANDS = dict(commands(add_variables(typer.main.get_command(app))))


def parsed(names: tuple[str, ...], arguments: list[str], **variables: str) -> dict[str, Any]:
    """The values of the options of a command with these arguments and environment variables."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        found: dict[str, Any] = COMMANDS[names].make_context("command", list(arguments)).params
    return found


def rounds(task: str) -> Iterator[dict[str, Any]]:
    """Recipes in which each value of each key stands once: the first values of all keys, then the second ones, ..."""
    by_key: dict[str, list[Any]] = {}
    for of, key, value in VALUES:
        if of == task and not key.startswith(OTHERS):
            by_key.setdefault(key, []).append(value)
    for number in range(max(map(len, by_key.values()))):
        chosen = {key: found[number % len(found)] for key, found in by_key.items()}
        # the recipe of plug-small prompts with the visible masks of the model itself, and starts its trunk anew
        needed = {"data.own_mask_share": 0.0} if chosen.get("model.visible_branch") is False else {}
        yield chosen | needed | ({"model.trunk_weights": None} if chosen.get("model.train_base") is False else {})
    yield {key: value for key, _, value in (setting.partition("=") for setting in OWN.get(task, []))}


@pytest.mark.parametrize("task", TASKS)
def test_every_value_works_in_a_file_with_set_and_in_the_environment(tmp_path: Path, task: str) -> None:
    base = FOLDER / task / "small.yaml"
    for wanted in rounds(task):
        settings, expected = [], {}
        for key, value in wanted.items():
            shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            listed = is_list(task, key)
            settings.append(f"{key}=[{shown}]" if listed else f"{key}={shown}")
            expected[key] = [value] if listed else value
        in_environment = parsed(("train",), [str(base)], AMODAL_TRAIN_SET=shlex.join(settings))
        assert list(in_environment["set_"]) == settings
        for recipe in (
            load_recipe(in_a_file(tmp_path / "recipe.yaml", settings, base)),
            load_recipe(base, in_environment["set_"]),
        ):
            content = recipe.model_dump()
            for key, value in expected.items():
                found = get(content, key)
                assert found == value and type(found) is type(value), key


def given(command: Any) -> list[str]:
    """Words with a value for each argument, and for each option that must be given."""
    words = list[str]()
    for parameter in command.params:
        if parameter.required:
            words += [parameter.opts[0], "9"] if parameter.param_type_name == "option" else ["9"]
    return words


@pytest.mark.parametrize("names", COMMANDS, ids="-".join)
def test_every_option_has_an_environment_variable(names: tuple[str, ...]) -> None:
    command = COMMANDS[names]
    base = given(command)
    for option in command.params:
        if option.param_type_name != "option" or option.is_eager:
            continue
        own = next(name for name in option.opts if name.startswith("--"))
        variable = "_".join(("amodal", *names, own[2:])).replace("-", "_").upper()
        variable = option.envvar if option.show_envvar else variable  # another one, which the help names
        start = [word for i, word in enumerate(base) if own not in (word, base[i - 1])]
        for words, text in samples(option, own):
            expected = parsed(names, [*start, *words])
            assert parsed(names, start, **{variable: text}) == expected, f"{variable}={text}"
            if not option.is_flag:  # the command line counts before the environment
                assert parsed(names, [*start, *words], **{variable: "8"}) == expected
                assert start != base or expected != parsed(names, base), "the value changes something"


def samples(option: Any, name: str) -> list[tuple[list[str], str]]:
    """Values of an option: words of a command line, and the text of the variable that gives the same."""
    if option.is_flag:
        off = [([option.secondary_opts[0]], "no"), ([option.secondary_opts[0]], "0")] if option.secondary_opts else []
        return [([name], "1"), ([name], "true"), *off]
    if option.multiple and "path" in str(option.type_descriptor).lower():
        return [([name, "7", name, "a b"], "7:a b")]
    if option.multiple:
        texts = ["7", "9"] if "int" in str(option.type_descriptor) else ["7", "a b", "c='d e'"]
        return [([word for text in texts for word in (name, text)], shlex.join(texts))]
    text = "7" if name == "--columns" else "70"  # inside the range of each option
    return [([name, text], text)]


def test_the_environment_is_used_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value, line in (
        ("AMODAL_DATA_FORMATS_JSON", "perhaps", "Invalid value for '--json'"),
        ("AMODAL_SEGMENT_BOX", "1,2,3", "box: expected four numbers X0,Y0,X1,Y1, got '1,2,3'"),
        ("AMODAL_SEGMENT_TEXT", "'a", 'expected words as a shell separates them, got "\'a"'),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            command = ["data", "formats"] if "DATA" in name else ["segment", "x.png"]
            assert main(command) == 2
            error = capsys.readouterr().err
            assert line in error and error.count("\n") == 1
    monkeypatch.setenv("AMODAL_DATA_FORMATS_JSON", "yes")
    assert main(["data", "formats"]) == 0 and capsys.readouterr().out.startswith("[{")
    monkeypatch.setenv("AMODAL_DATA_FORMATS_JSON", "")  # as if it were not set
    assert main(["data", "formats"]) == 0 and not capsys.readouterr().out.startswith("[{")


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
        load_recipe(FOLDER / "plug" / "small.yaml", ["training.seed=&a [*a]"])
