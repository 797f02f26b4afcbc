"""`amodal reasonseg review`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from amodal.cli.data_source import AsJson
from amodal.errors import InputError

review_app = typer.Typer(no_args_is_help=True)

Work = Annotated[Path, typer.Argument(help="Work folder of `amodal reasonseg generate`.")]
Reviewers = Annotated[
    int | None, typer.Option(help="People who judge each pair; kept in the work folder (2 at first).")
]
IncludeFailed = Annotated[bool, typer.Option("--include-failed", help="Also pairs that failed the automatic check.")]


@review_app.callback()
def _group() -> None:
    """People accept, fix or reject question-answer pairs."""


@review_app.command()
def serve(
    work: Work,
    reviewers: Reviewers = None,
    include_failed: IncludeFailed = False,
    host: Annotated[str, typer.Option(help="Address to bind to; other than loopback asks visitors for a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Its port; 0 takes a free one.")] = 8765,
    token: Annotated[
        str | None,
        typer.Option(envvar="AMODAL_REVIEW_TOKEN", help="What visitors must show; random if needed and not given."),
    ] = None,
    lease: Annotated[float, typer.Option(help="Minutes a pair is kept for the person who got it.")] = 15.0,
) -> None:
    """Serve a web page on which people review, until stopped by Ctrl+C.

    Example: amodal reasonseg review serve work --reviewers 2
    """
    from dataclasses import replace

    try:
        from amodal.app.review import serve as run
    except ImportError as error:
        raise InputError(f"review: expected FastAPI, got no {error.name} (pip install 'amodal[reasonseg]')") from error
    from amodal.datagen.review.review import work_policy
    from amodal.datagen.store.manifest import open_work

    with open_work(work) as manifest:
        policy = replace(work_policy(manifest, reviewers, include_failed), lease_seconds=60 * lease)
        try:
            run(manifest, policy, host=host, port=port, token=token, announce=_announce)
        except KeyboardInterrupt:
            typer.echo("Stopped.")


@review_app.command("export")
def export_tasks(
    work: Work,
    out: Annotated[Path, typer.Option(help="New folder for tasks, labeling configuration and pictures.")],
    to: Annotated[str, typer.Option(help="Tool to review in: label-studio.")] = "label-studio",
    reviewers: Reviewers = None,
    include_failed: IncludeFailed = False,
    picture_url: Annotated[
        str, typer.Option(help="What stands before a picture's name in the tasks.")
    ] = "/data/local-files/?d=images/",
    mentioned_only: Annotated[
        bool, typer.Option("--mentioned-only", help="Leave out masks of objects that the answer does not mention.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the pairs that wait for people as tasks of another tool.

    Example: amodal reasonseg review export work --to label-studio --out tasks
    """
    _known(to)
    from amodal.datagen.review.label_studio import export_label_studio
    from amodal.datagen.review.review import work_policy
    from amodal.datagen.store.manifest import open_work

    with open_work(work) as manifest:
        policy = work_policy(manifest, reviewers, include_failed)
        result = export_label_studio(
            manifest, policy, out, picture_url=picture_url, mentioned_only=mentioned_only, progress=not as_json
        )
    counts = f"{result['tasks']} tasks on {result['images']} pictures"
    typer.echo(json.dumps(result) if as_json else f"Written: {out}/tasks-*.json, config.xml and images/ ({counts})")


@review_app.command("import")
def import_tasks(
    work: Work,
    annotated: Annotated[Path, typer.Argument(help="JSON export of the tool, with people's annotations.")],
    source: Annotated[str, typer.Option("--from", "--to", help="Tool it comes from: label-studio.")] = "label-studio",
    reviewers: Reviewers = None,
    as_json: AsJson = False,
) -> None:
    """Take over people's verdicts; what was taken over before is left alone.

    Example: amodal reasonseg review import work annotated.json --from label-studio
    """
    _known(source)
    from amodal.datagen.review.label_studio import import_label_studio
    from amodal.datagen.review.review import work_policy
    from amodal.datagen.store.manifest import open_work

    with open_work(work) as manifest:
        result = import_label_studio(manifest, work_policy(manifest, reviewers, include_failed=True), annotated)
    if as_json:
        typer.echo(json.dumps(result))
        return
    typer.echo(f"Taken over: {result['taken']} verdicts; {result['known']} were known, {result['empty']} are empty.")
    for line in result["refused"]:
        typer.echo(f"Not taken over: {line}")
    if result["masks_changed"]:
        typer.echo(f"Masks drawn over, which is not taken over: pairs {', '.join(map(str, result['masks_changed']))}")


@review_app.command()
def agreement(work: Work, as_json: AsJson = False) -> None:
    """Print how well people agree: Cohen's kappa of each two, Fleiss' kappa of all.

    Example: amodal reasonseg review agreement work --json
    """
    from amodal.datagen.review.agreement import agreement as measure
    from amodal.datagen.store.manifest import open_work

    with open_work(work) as manifest:
        result = measure(manifest.reviews())
    typer.echo(json.dumps(result) if as_json else "\n".join(agreement_lines(result)))


def agreement_lines(result: dict[str, Any]) -> list[str]:
    """What `amodal.datagen.review.agreement` measured, for people."""
    fleiss = result["fleiss"]
    if not result["pairs"]:
        return ["agreement: no pair was judged by two people"]
    return [
        f"{result['pairs']} pairs judged by two people or more, {_figure(result['observed'])} of verdicts equal",
        f"Fleiss' kappa: {_figure(fleiss['kappa'])} ({fleiss['pairs']} pairs, {fleiss['verdicts']} verdicts each)",
        *(
            f"Cohen's kappa of {' and '.join(row['reviewers'])}: {_figure(row['kappa'])} ({row['pairs']} pairs)"
            for row in result["cohen"]
        ),
    ]


def _announce(link: str) -> None:
    typer.echo(f"Review: {link}")
    if "?token=" in link:
        typer.echo("Whoever has this link may review; it is not encrypted. Ctrl+C stops.")


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _known(tool: str) -> None:
    if tool != "label-studio":
        raise InputError(f"tool: expected label-studio, got {tool!r}")
