"""The commands of `amodal reasonseg review`: serve, export, import and agreement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from amodal.cli.options import AsJson
from amodal.errors import InputError

review_app = typer.Typer(no_args_is_help=True)

Work = Annotated[Path, typer.Argument(help="Work folder made by `amodal reasonseg generate`.")]
Reviewers = Annotated[
    int | None, typer.Option(help="Number of people who review each pair; stored in the work folder (2 at first).")
]
IncludeFailed = Annotated[bool, typer.Option("--include-failed", help="Include pairs that failed the automatic check.")]


@review_app.callback()
def _group() -> None:
    """Let people accept, fix or reject question-answer pairs."""


@review_app.command()
def serve(
    work: Work,
    reviewers: Reviewers = None,
    include_failed: IncludeFailed = False,
    host: Annotated[str, typer.Option(help="Address to bind to; any other than loopback requires a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to bind to; 0 takes a free one.")] = 8765,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="AMODAL_REVIEW_TOKEN",
            help="Token that visitors must show; random if required and not given.",
        ),
    ] = None,
    lease: Annotated[float, typer.Option(help="Minutes that a pair stays reserved for one person.")] = 15.0,
) -> None:
    """Serve a web page for reviewing pairs until stopped by Ctrl+C.

    Example: amodal reasonseg review serve work --reviewers 2
    """
    from dataclasses import replace

    try:
        from amodal.app.review import serve as run
    except ImportError as error:
        raise InputError(f"review: expected FastAPI, got no {error.name} (pip install 'amodal[reasonseg]')") from error
    from amodal.datagen.review.review import work_policy
    from amodal.datagen.store.work_folder import open_work

    with open_work(work) as opened:
        policy = replace(work_policy(opened, reviewers, include_failed), lease_seconds=60 * lease)
        try:
            run(opened, policy, host=host, port=port, token=token, announce=_announce)
        except KeyboardInterrupt:
            typer.echo("Stopped.")


@review_app.command("export")
def export_tasks(
    work: Work,
    out: Annotated[Path, typer.Option(help="Folder to make for tasks, labeling configuration and images.")],
    to: Annotated[str, typer.Option(help="Tool for the review: label-studio.")] = "label-studio",
    reviewers: Reviewers = None,
    include_failed: IncludeFailed = False,
    image_url: Annotated[
        str, typer.Option("--image-url", help="URL prefix of the images in the tasks.")
    ] = "/data/local-files/?d=images/",
    mentioned_only: Annotated[
        bool, typer.Option("--mentioned-only", help="Leave out masks of objects that the answer does not mention.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the pairs that wait for people as tasks of another tool.

    Example: amodal reasonseg review export work --to label-studio --out tasks
    """
    _check_tool(to)
    from amodal.datagen.review.label_studio import export_label_studio
    from amodal.datagen.review.review import work_policy
    from amodal.datagen.store.work_folder import open_work

    with open_work(work) as opened:
        policy = work_policy(opened, reviewers, include_failed)
        result = export_label_studio(
            opened, policy, out, image_url=image_url, mentioned_only=mentioned_only, progress=not as_json
        )
    counts = f"{result['tasks']} tasks about {result['images']} images"
    typer.echo(json.dumps(result) if as_json else f"Written: {out}/tasks-*.json, config.xml and images/ ({counts})")


@review_app.command("import")
def import_tasks(
    work: Work,
    annotated: Annotated[Path, typer.Argument(help="JSON export of the tool with people's annotations.")],
    source: Annotated[str, typer.Option("--from", help="Tool that made the file: label-studio.")] = "label-studio",
    reviewers: Reviewers = None,
    as_json: AsJson = False,
) -> None:
    """Import people's verdicts, except those imported before.

    Example: amodal reasonseg review import work annotated.json --from label-studio
    """
    _check_tool(source)
    from amodal.datagen.review.label_studio import import_label_studio
    from amodal.datagen.review.review import work_policy
    from amodal.datagen.store.work_folder import open_work

    with open_work(work) as opened:
        result = import_label_studio(opened, work_policy(opened, reviewers, include_failed=True), annotated)
    if as_json:
        typer.echo(json.dumps(result))
        return
    typer.echo(f"Imported: {result['taken']} verdicts; {result['known']} known before, {result['empty']} empty.")
    for line in result["refused"]:
        typer.echo(f"Not imported: {line}")
    if result["masks_changed"]:
        typer.echo(f"Changed masks, not imported: pairs {', '.join(map(str, result['masks_changed']))}")


@review_app.command()
def agreement(work: Work, as_json: AsJson = False) -> None:
    """Print how well people agree: Cohen's kappa per pair of people, Fleiss' kappa of all.

    Example: amodal reasonseg review agreement work --json
    """
    from amodal.datagen.stats import agreement as measure
    from amodal.datagen.store.work_folder import open_work

    with open_work(work) as opened:
        result = measure(opened.reviews.all())
    typer.echo(json.dumps(result) if as_json else "\n".join(agreement_lines(result)))


def agreement_lines(result: dict[str, Any]) -> list[str]:
    """The result of `amodal.datagen.stats.agreement` as lines of text."""
    fleiss = result["fleiss"]
    if not result["pairs"]:
        return ["agreement: no pair was reviewed by two people"]
    return [
        f"{result['pairs']} pairs reviewed by two people or more, {_number(result['observed'])} of verdicts equal",
        f"Fleiss' kappa: {_number(fleiss['kappa'])} ({fleiss['pairs']} pairs, {fleiss['verdicts']} verdicts each)",
        *(
            f"Cohen's kappa of {' and '.join(row['reviewers'])}: {_number(row['kappa'])} ({row['pairs']} pairs)"
            for row in result["cohen"]
        ),
    ]


def _announce(link: str) -> None:
    typer.echo(f"Review: {link}")
    if "?token=" in link:
        typer.echo("Everybody with this link may review; the connection is not encrypted. Stop with Ctrl+C.")


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _check_tool(tool: str) -> None:
    if tool != "label-studio":
        raise InputError(f"tool: expected label-studio, got {tool!r}")
