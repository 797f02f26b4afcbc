"""`amodal ask`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amodal.cli.options import Device, ModelName, require_no_replaced_input
from amodal.errors import InputError
from amodal.io.files import require_folder
from amodal.io.words import counted
from amodal.models.names import DEFAULT_ASSISTANT

if TYPE_CHECKING:
    from rich.console import Console

    from amodal.inference.assistant import Chat, Reply
    from amodal.models.aura.prompts import TextPart

EXIT_WORDS = ("exit", "quit", ":q")
"""Words that end a conversation; the end of the input ends it too."""


def ask(
    image: Annotated[Path, typer.Argument(help="Image file.")],
    question: Annotated[
        str | None, typer.Argument(help="Question; without one, start an interactive conversation.")
    ] = None,
    model: ModelName = DEFAULT_ASSISTANT,
    out: Annotated[
        Path | None, typer.Option(help="Folder for masks, overlay and scene.json; default: NAME-answer.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of tokens per answer; default: the model's own.")
    ] = None,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print scene.json instead of the answer.")] = False,
) -> None:
    """Ask a question about an image and segment the objects that the answer names.

    The numbers in the answer are those in the overlay. In a conversation each turn is saved in its
    own folder; "exit" or Ctrl-D ends the conversation.

    Example: amodal ask kitchen.jpg "What must I move before I can lift the plate?" --out kitchen
    """
    from amodal.io.images import load_image
    from amodal.models.aura.processing import check_question

    pixels = load_image(image)  # check all inputs before the model is loaded, which takes a while
    if question is not None:
        check_question(question)
    elif as_json:
        raise InputError("--json: expected a question together with --json, got none")
    if out is not None:
        require_folder(out)
    folder = out or Path(f"{image.stem}-answer")
    require_no_replaced_input(folder, [image])
    from rich.console import Console

    from amodal.inference.assistant import AmodalAssistant, Chat

    chat = Chat(AmodalAssistant.from_pretrained(model, device=device), pixels, image)
    console = Console()
    if question is None:
        _converse(chat, console, folder, max_new_tokens)
        return
    reply = chat.ask(question, max_new_tokens=max_new_tokens, on_part=None if as_json else _printer(console))
    reply.scene.save(folder)
    if as_json:
        typer.echo(json.dumps(reply.scene.to_json()))
    else:
        _print_written(console, reply, folder)


def _converse(chat: Chat, console: Console, folder: Path, max_new_tokens: int | None) -> None:
    """Answer questions from the terminal or from a pipe until there are no more."""
    turn = 0
    for question in _questions():
        try:
            reply = chat.ask(question, max_new_tokens=max_new_tokens, on_part=_printer(console))
        except InputError as error:
            console.print(f"amodal: {error}", style="red", markup=False, highlight=False)
            continue
        turn += 1
        turn_folder = folder / f"turn_{turn:02d}"
        reply.scene.save(turn_folder)
        _print_written(console, reply, turn_folder)


def _questions() -> Iterator[str]:
    if not sys.stdin.isatty():
        yield from (line for line in map(str.strip, sys.stdin) if line and line not in EXIT_WORDS)
        return
    from prompt_toolkit import PromptSession

    session: PromptSession[str] = PromptSession("> ")
    while True:
        try:
            line = session.prompt().strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line in EXIT_WORDS:
            return
        if line:
            yield line


def _printer(console: Console) -> Callable[[TextPart], None]:
    """A function that prints a part of an answer; objects have the colour and number of the overlay."""
    from rich.text import Text

    from amodal.inference.draw import object_colour

    def show(part: TextPart) -> None:
        colours = [f"bold rgb({','.join(map(str, object_colour(number)))})" for number in part.objects]
        shown = Text(part.text, style=colours[0] if colours else "")
        for number, colour in zip(part.objects, colours, strict=True):
            shown.append(f" [{number}]", style=colour)
        console.print(shown, end="", soft_wrap=True)

    return show


def _print_written(console: Console, reply: Reply, folder: Path) -> None:
    count = len(reply.scene.objects)
    objects = "no objects" if count == 0 else counted(count, "object")
    console.print("" if reply.text else "(no words)")
    for number, obj in enumerate(reply.scene):
        predicted = "" if obj.predicted_occlusion_rate is None else f", {obj.predicted_occlusion_rate:.0%} predicted"
        rates = f"[{number}] {obj.label}: {obj.occlusion_rate:.0%} occluded by the masks{predicted}"
        console.print(rates, style="dim", soft_wrap=True, highlight=False, markup=False)
    if reply.is_unsure:
        console.print(f"Not sure: confidence {reply.confidence:.2f}", style="yellow", highlight=False)
    written = f"Written: {folder}/scene.json, overlay.png ({objects})"
    console.print(written, style="dim", soft_wrap=True, highlight=False)
