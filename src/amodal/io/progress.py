"""A progress bar on stderr that disappears at the end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")


def progress_bar(items: Iterable[Item], what: str, shown: bool, total: int | None = None) -> Iterable[Item]:
    """Yield the items and show a progress bar if `shown` is set and stderr is a terminal.

    Args:
        items: items to iterate over.
        what: label of the bar.
        shown: show the bar.
        total: number of items, if `items` has no length.
    """
    console = Console(stderr=True)
    hidden = not (shown and console.is_terminal)
    return track(items, what, total, console=console, transient=True, disable=hidden)
