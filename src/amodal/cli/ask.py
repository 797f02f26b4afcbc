"""`amodal ask`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amodal.errors import InputError
from amodal.io.files import no_file

if TYPE_CHECKING:
    from rich.console import Console

    from amodal.inference.assistant import Chat, Reply
    from amodal.models.aura.prompts import TextPart

LEAVE = ("exit", "quit", ":q")
"""Words that end a conversation, as the end of the input does."""


def ask(
    image: Annotated[Path, typer.Argument(help="Photograph.")],
    question: Annotated[str | None, typer.Argument(help="What to ask; none opens a conversation.")] = None,
    model: Annotated[str, typer.Option(help="Bundled name, folder or hub id.")] = "aura-tiny",
    out: Annotated[Path | None, typer.Option(help="Folder for masks, overlay and scene.json.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer; the model's own.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print scene.json instead of the answer.")] = False,
) -> None:
    """Ask about a photograph: an answer in words, with the whole objects that it names.

    The numbers in the answer are those of the overlay. In a conversation each turn has a folder of
    its own; "exit" or Ctrl-D ends it.

    Example: amodal ask kitchen.jpg "What must I move before I can lift the plate?" --out kitchen
    """
    from amodal.io.images import load_image
    from amodal.models.aura.processing import check_question

    pixels = load_image(image)  # the user's mistakes first: models take a while to load
    if question is not None:
        check_question(question)
    elif as_json:
        raise InputError("--json: expected a question beside it, got none")
    if out is not None:
        no_file(out)
    folder = out or Path(f"{image.stem}-amodal")
    from rich.console import Console

    from amodal.inference.assistant import AmodalAssistant

    chat = AmodalAssistant.from_pretrained(model, device=device).chat(pixels)
    console = Console()
    if question is None:
        _converse(chat, console, folder, max_new_tokens)
        return
    reply = chat.ask(question, max_new_tokens=max_new_tokens, on_part=None if as_json else _printer(console))
    reply.scene.save(folder)
    if as_json:
        typer.echo(json.dumps(reply.scene.to_json()))
    else:
        _finish(console, reply, folder)


def _converse(chat: Chat, console: Console, folder: Path, max_new_tokens: int | None) -> None:
    """Questions from the terminal, or from a pipe, until there are no more."""
    turn = 0
    for question in _questions():
        try:
            reply = chat.ask(question, max_new_tokens=max_new_tokens, on_part=_printer(console))
        except InputError as error:
            console.print(f"amodal: {error}", style="red", markup=False, highlight=False)
            continue
        turn += 1
        place = folder / f"turn_{turn:02d}"
        reply.scene.save(place)
        _finish(console, reply, place)


def _questions() -> Iterator[str]:
    if not sys.stdin.isatty():
        yield from (line for line in map(str.strip, sys.stdin) if line and line not in LEAVE)
        return
    from prompt_toolkit import PromptSession

    session: PromptSession[str] = PromptSession("> ")
    while True:
        try:
            line = session.prompt().strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line in LEAVE:
            return
        if line:
            yield line


def _printer(console: Console) -> Callable[[TextPart], None]:
    """Prints pieces of an answer; objects in the colour and with the number of the overlay."""
    from rich.text import Text

    from amodal.inference.draw import object_colour

    def show(part: TextPart) -> None:
        colours = [f"bold rgb({','.join(map(str, object_colour(number)))})" for number in part.objects]
        shown = Text(part.text, style=colours[0] if colours else "")
        for number, colour in zip(part.objects, colours, strict=True):
            shown.append(f" [{number}]", style=colour)
        console.print(shown, end="", soft_wrap=True)

    return show


def _finish(console: Console, reply: Reply, folder: Path) -> None:
    found = len(reply.scene.objects)
    masks = "no object, no mask" if found == 0 else f"{found} object{'s' if found > 1 else ''}"
    console.print("" if reply.text else "(no words)")
    console.print(f"Written: {folder}/scene.json, overlay.png ({masks})", style="dim", soft_wrap=True, highlight=False)
