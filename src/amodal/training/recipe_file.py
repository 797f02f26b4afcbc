"""The YAML of recipes: what a file contains before it is checked, with the overrides of the command line."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from amodal.errors import InputError

MAX_VALUES = 100_000
"""Values of a recipe, where each alias counts as what it stands for: a few lines of nested aliases may be billions."""


def read_recipe_file(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Read a recipe without checking its keys, and apply `key.inner=value` overrides, whose values are YAML.

    Numbers that YAML reads have an attribute `text`, the text that they were written as.

    Raises:
        InputError: the file does not exist or is not a YAML mapping, or an override names no key.
    """
    if not path.is_file():
        raise InputError(f"recipe: expected a file, got {str(path)!r}, which does not exist")
    try:
        content = _load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {path}: expected YAML, got {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"recipe {path}: expected a mapping, got {type(content).__name__}")
    for override in overrides:
        _override(content, override)
    return content


def _override(content: dict[str, Any], override: str) -> None:
    """Apply one `key.inner=value`; a number addresses an entry of a list, as in `data.train.0.weight`."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"--set: expected key=value, got {override!r}")
    try:
        value = _load_yaml(text)
    except yaml.YAMLError as error:
        raise InputError(f"--set {key}: expected a YAML value, got {text!r:.200}") from error
    *parents, last = key.split(".")
    section: Any = content
    for parent in parents:
        name = _name_in(section, parent, key)
        if isinstance(section, dict) and section.get(name) is None:
            section[name] = {}
        section = section[name]
    section[_name_in(section, last, key)] = value


def _name_in(section: Any, name: str, key: str) -> Any:
    """`name` as the key of a mapping or the index of a list."""
    if isinstance(section, dict):
        return name
    if not isinstance(section, list):
        raise InputError(f"--set: expected {key!r} to name a key inside a section, got a part of it that is a value")
    if not name.isdecimal() or int(name) >= len(section):
        raise InputError(f"--set: expected a number below {len(section)} in {key!r}, got {name!r}")
    return int(name)


class _Loader(yaml.SafeLoader):
    """Loader with the floats and booleans of YAML 1.2: PyYAML reads `1e-3` as a string and `no` as a boolean.

    Dates are texts, and numbers know the text that they were written as.
    """


class _Integer(int):
    text: str


class _Float(float):
    text: str


def _number_of(loader: _Loader, node: yaml.ScalarNode) -> _Integer | _Float:
    number: _Integer | _Float
    number = (
        _Float(loader.construct_yaml_float(node))
        if node.tag.endswith("float")
        else _Integer(loader.construct_yaml_int(node))
    )
    number.text = node.value
    return number


_Loader.add_constructor("tag:yaml.org,2002:int", _number_of)
_Loader.add_constructor("tag:yaml.org,2002:float", _number_of)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":timestamp"))]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _load_yaml(text: str) -> Any:
    """The content of a YAML text, in which sections shared by an alias are separate: overrides change only one.

    Raises:
        yaml.YAMLError: the text is not YAML, is nested too deeply, or its aliases stand for more than `MAX_VALUES`.
    """
    try:
        return _without_aliases(yaml.load(text, _Loader), itertools.count(1))
    except RecursionError as error:
        raise yaml.YAMLError("sections nested too deeply, or an alias inside itself") from error


def _without_aliases(value: Any, counter: Iterator[int]) -> Any:
    """A deep copy of at most `MAX_VALUES` values."""
    if next(counter) > MAX_VALUES:
        raise yaml.YAMLError(f"more than {MAX_VALUES} values")
    if isinstance(value, dict):
        return {k: _without_aliases(v, counter) for k, v in value.items()}
    return [_without_aliases(v, counter) for v in value] if isinstance(value, list) else value
