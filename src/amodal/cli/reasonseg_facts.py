"""The commands of `amodal reasonseg facts`: draft and confirm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from amodal.cli.options import AsJson, FormatName, format_of
from amodal.errors import InputError

facts_app = typer.Typer(no_args_is_help=True)

FactsFile = Annotated[Path, typer.Option("--facts", help="YAML file with facts about categories.")]


@facts_app.callback()
def _group() -> None:
    """Collect facts about categories, from which the offline writer makes questions about their use."""


@facts_app.command()
def draft(
    annotations: Annotated[Path, typer.Option(help="Annotation file whose categories need facts.")],
    facts: FactsFile,
    model: Annotated[str, typer.Option(help="Name of the model on the server.")],
    format_: FormatName = None,
    base_url: Annotated[str | None, typer.Option(help="Address of the server; default: OpenAI.")] = None,
    key_variable: Annotated[str, typer.Option(help="Environment variable with the API key.")] = "OPENAI_API_KEY",
    attempts: Annotated[int, typer.Option(min=1, help="Maximum number of requests per category.")] = 4,
    retry_wait: Annotated[float, typer.Option(help="Seconds before the second attempt.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Ask a language model once about each category without facts, and add what it says as unconfirmed.

    Example: amodal reasonseg facts draft --annotations parts.json --facts facts.yaml --model gpt-4o-mini
    """
    from amodal.data.datasets import read_dataset
    from amodal.datagen.backends.client import Endpoint
    from amodal.datagen.facts_draft import categories_without_facts, draft_facts
    from amodal.datagen.generate import RequestPolicy

    dataset = read_dataset(format_of(annotations, format_), annotations, None)
    names = categories_without_facts(dataset.categories.values(), facts)
    endpoint = Endpoint(model, base_url, key_variable)
    outcome = draft_facts(names, facts, endpoint, RequestPolicy(attempts=attempts, first_wait=retry_wait))
    if as_json:
        typer.echo(json.dumps(vars(outcome)))
    else:
        typer.echo(f"{len(outcome.drafted)} of {len(names)} categories drafted into {facts}; confirm them with:")
        typer.echo(f"  amodal reasonseg facts confirm --facts {facts}")
        for name, reason in outcome.failed.items():
            typer.echo(f"  {name}: {reason}")
    if outcome.failed and not outcome.drafted:
        raise InputError(f"facts: expected facts from the model, got {next(iter(outcome.failed.values()))}")


@facts_app.command()
def confirm(
    facts: FactsFile,
    category: Annotated[
        list[str] | None, typer.Option(help="Confirm this category without a question; may be repeated.")
    ] = None,
) -> None:
    """Show each unconfirmed entry of a file of facts, and mark it as confirmed if you agree.

    Example: amodal reasonseg facts confirm --facts facts.yaml
    """
    from amodal.datagen.facts_draft import FIELDS, confirm_facts
    from amodal.questions.knowledge import read_facts

    open_entries = {name: entry for name, entry in read_facts(facts).items() if not entry.confirmed}
    for name in category or open_entries:
        if not category:
            for field in FIELDS:
                typer.echo(f"{name}: {field}: {getattr(open_entries[name], field)}")
            if not typer.confirm("Are all of these true?", default=False):
                continue
        confirm_facts(facts, name)
        typer.echo(f"{name}: confirmed")
