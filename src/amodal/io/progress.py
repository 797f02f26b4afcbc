"""A bar on stderr that leaves nothing behind: what is printed is the result, or one line of error."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")


def bar(items: Iterable[Item], what: str, shown: bool, total: int | None = None) -> Iterable[Item]:
    """The items, with a bar if it is to be shown and somebody is there to see it."""
    console = Console(stderr=True)
    hidden = not (shown and console.is_terminal)
    return track(items, what, total, console=console, transient=True, disable=hidden)
