"""`amodal reasonseg`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from amodal.cli.data_source import AsJson, FormatName, format_of
from amodal.cli.reasonseg_review import Work, agreement_lines, review_app
from amodal.errors import InputError

if TYPE_CHECKING:
    from amodal.datagen.backends.base import Backend
    from amodal.datagen.export.dataset import Form
    from amodal.datagen.select import Selection, Source
    from amodal.datagen.store.manifest import Manifest
    from amodal.datagen.store.records import PairState

reasonseg_app = typer.Typer(no_args_is_help=True)
reasonseg_app.add_typer(review_app, name="review", help="People accept, fix or reject pairs.")

Annotations = Annotated[list[Path] | None, typer.Option(help="Annotation file; repeat for more.")]
Images = Annotated[list[Path] | None, typer.Option(help="Folder of its images, in the same order.")]
Pairs = Annotated[int, typer.Option(min=1, help="Question-answer pairs an image.")]
Rounds = Annotated[int, typer.Option(min=1, help="Answers about one image at most: one and further tries.")]


@reasonseg_app.callback()
def _group() -> None:
    """Make question-answer data for amodal reasoning segmentation."""


@reasonseg_app.command()
def generate(
    out: Annotated[Path, typer.Option(help="Work folder: new, or one to go on with.")],
    format_: FormatName = None,
    annotations: Annotations = None,
    images: Images = None,
    backend: Annotated[str, typer.Option(help="template (offline) or openai (any compatible endpoint).")] = "template",
    split: Annotated[
        list[str] | None, typer.Option(help="train, test or auto (by file name or drawn) for each file, in order.")
    ] = None,
    test_share: Annotated[float, typer.Option(help="Share of images for testing where the split is drawn.")] = 0.36,
    seed: Annotated[int, typer.Option(min=0, help="Of all draws.")] = 0,
    max_images: Annotated[int | None, typer.Option(min=1, help="Take so many images, drawn at random.")] = None,
    category: Annotated[list[str] | None, typer.Option(help="Only objects of this kind; repeat for more.")] = None,
    min_area: Annotated[int, typer.Option(help="Visible pixels an object needs.")] = 64,
    min_occlusion: Annotated[float, typer.Option(help="Leave out images with nothing hidden that much.")] = 0.0,
    max_occlusion: Annotated[float, typer.Option(help="Leave out objects hidden more than that.")] = 0.95,
    min_objects: Annotated[int, typer.Option(help="Leave out images with fewer objects.")] = 1,
    max_objects: Annotated[int, typer.Option(help="Leave out images with more objects.")] = 40,
    include_stuff: Annotated[bool, typer.Option("--include-stuff", help="Keep sky, floor and the like.")] = False,
    allow_modal: Annotated[
        bool, typer.Option("--allow-modal", help="Where the whole shape is unknown, take the visible one for it.")
    ] = False,
    pairs: Pairs = 10,
    rounds: Rounds = 3,
    model: Annotated[str | None, typer.Option(help="Model to ask (openai).")] = None,
    base_url: Annotated[str | None, typer.Option(help="Endpoint, such as http://127.0.0.1:8000/v1 (openai).")] = None,
    key_variable: Annotated[str, typer.Option(help="Environment variable with the key (openai).")] = "OPENAI_API_KEY",
    structured: Annotated[str, typer.Option(help="Answers by JSON schema, any json, or none (openai).")] = "schema",
    prompt: Annotated[str, typer.Option(help="Version of the prompt file (openai).")] = "1",
    outlines: Annotated[bool, typer.Option(help="Draw numbered outlines on the picture (openai).")] = True,
    max_side: Annotated[int, typer.Option(min=64, help="Pixels of the picture's longer side (openai).")] = 1024,
    temperature: Annotated[float | None, typer.Option(help="The server's own by default (openai).")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of one answer (openai).")] = 4096,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for an answer (openai).")] = 120.0,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 8,
    attempts: Annotated[int, typer.Option(min=1, help="Requests for one answer before it is left for later.")] = 8,
    retry_wait: Annotated[float, typer.Option(help="Seconds before the second attempt; then twice as long.")] = 1.0,
    max_requests: Annotated[int | None, typer.Option(help="Stop before more requests, over all runs.")] = None,
    max_total_tokens: Annotated[int | None, typer.Option(help="Stop before more tokens, over all runs.")] = None,
    max_money: Annotated[float | None, typer.Option(help="Stop before more money, over all runs.")] = None,
    price_prompt: Annotated[float, typer.Option(help="Money for a million prompt tokens.")] = 0.0,
    price_completion: Annotated[float, typer.Option(help="Money for a million answer tokens.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Select images and write pairs about them; the same command again goes on where it stopped.

    Example: amodal reasonseg generate --format canonical --annotations scenes/annotations.json --out work
    """
    from amodal.datagen.budget import Limits
    from amodal.datagen.generate import Pace
    from amodal.datagen.generate import generate as run
    from amodal.datagen.select import Selection
    from amodal.datagen.store.requests_log import Prices

    selection = Selection(
        max_images, tuple(category or ()), min_area, max_occlusion, min_occlusion, min_objects, max_objects,
        test_share, seed, include_stuff, allow_modal,
    )  # fmt: skip
    sources = _sources(format_, annotations or [], images or [], split or [])
    pace = Pace(concurrency, attempts, retry_wait, rounds=rounds)
    limits, prices = Limits(max_requests, max_total_tokens, max_money), Prices(price_prompt, price_completion)
    if max_money is not None and prices == Prices():
        raise InputError("max_money: expected prices of tokens with it (--price-prompt, --price-completion), got none")
    writer = _backend(
        backend, seed, model=model, base_url=base_url, key_variable=key_variable, timeout=timeout,
        structured=structured, max_tokens=max_tokens, temperature=temperature, outlines=outlines,
        max_side=max_side, prompt=prompt,
    )  # fmt: skip
    with _open_or_select(out, sources, selection) as manifest:
        outcome = run(manifest, writer, pairs=pairs, pace=pace, limits=limits, prices=prices, progress=not as_json)
        result = _summary(manifest, out) | {"run": vars(outcome)}
    if as_json:
        typer.echo(json.dumps(result))
        return
    typer.echo(f"{out}: {result['pairs']} pairs about {result['images']} images ({_listed(result['image_states'])})")
    if outcome.unreadable or outcome.given_up or outcome.refused:
        why = f" ({outcome.error})" if outcome.given_up else ""
        typer.echo(
            f"{outcome.unreadable} answers of another form, {outcome.given_up} images without an answer{why}, "
            f"{outcome.refused} refused"
        )
    if outcome.stopped:
        typer.echo(f"Stopped: {outcome.stopped}. The same command goes on from here.")


@reasonseg_app.command("prompt")
def show_prompt(
    annotations: Annotated[Path, typer.Option(help="Annotation file.")],
    format_: FormatName = None,
    images: Annotated[Path | None, typer.Option(help="Folder of its images.")] = None,
    image_id: Annotated[int | None, typer.Option(help="Image to show; the first by default.")] = None,
    pairs: Pairs = 10,
    prompt: Annotated[str, typer.Option(help="Version of the prompt file.")] = "1",
    picture: Annotated[Path | None, typer.Option(help="JPEG to write: the picture as it would be sent.")] = None,
    outlines: Annotated[bool, typer.Option(help="Draw numbered outlines on it.")] = True,
    max_side: Annotated[int, typer.Option(min=64, help="Pixels of its longer side.")] = 1024,
    as_json: AsJson = False,
) -> None:
    """Print the exact text that would be sent about an image, and send nothing.

    Example: amodal reasonseg prompt --format cocoa --annotations COCO_amodal_val2014.json --image-id 343254
    """
    import base64

    from amodal.data.readers import read_dataset
    from amodal.datagen.describe import describe, picture_url
    from amodal.datagen.prompt import make_prompt, response_format
    from amodal.datagen.select import Selection, preview
    from amodal.io.files import write_whole

    (source,) = _sources(format_, [annotations], [] if images is None else [images], [])
    dataset = read_dataset(source.format, annotations, images)
    sample = preview(dataset, image_id, Selection(allow_modal=True))
    text = make_prompt(describe(sample, dataset.categories), pairs, version=prompt)
    if picture is not None:
        url = picture_url(sample, outlines=outlines, max_side=max_side)
        write_whole(picture, base64.b64decode(url.partition(",")[2]), "picture")
    if as_json:
        typer.echo(json.dumps({"system": text.system, "user": text.user, "response_format": response_format()}))
    else:
        typer.echo(f"--- system\n{text.system}\n--- user, with the picture\n{text.user}")


@reasonseg_app.command()
def check(
    work: Work,
    then: Annotated[
        str, typer.Option("--failed", help="Where failed pairs go: retry (by the next generate) or people.")
    ] = "retry",
    synonyms: Annotated[Path | None, typer.Option(help="JSON of further words by category that give it away.")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Rule to leave out; repeat for more.")] = None,
    english: Annotated[bool, typer.Option(help="Expect English.")] = True,
    pairs: Pairs = 10,
    rounds: Rounds = 3,
    as_json: AsJson = False,
) -> None:
    """Hold the pairs against the rules.

    Example: amodal reasonseg check work
    """
    from amodal.datagen.check import Then
    from amodal.datagen.check import check as run
    from amodal.datagen.rules import RuleSettings
    from amodal.datagen.store.manifest import open_work
    from amodal.questions.synonyms import read_synonyms

    ways: tuple[Then, ...] = get_args(Then)
    if then not in ways:
        raise InputError(f"failed: expected {' or '.join(ways)}, got {then!r}")
    settings = RuleSettings(
        english_share=RuleSettings.english_share if english else 0.0,
        synonyms={} if synonyms is None else read_synonyms(synonyms),
        skip=frozenset(skip or ()),
    )
    with open_work(work) as manifest:
        report = run(manifest, settings, pairs=pairs, rounds=rounds, then=then, progress=not as_json)
    if as_json:
        typer.echo(json.dumps(report.to_json()))
        return
    typer.echo(f"{report.pairs} pairs: {report.checked} checked, {report.failed} failed")
    for name, rule in report.rules.items():
        if rule.failed:
            typer.echo(f"  {name}: {rule.failed}")
            for example in rule.examples:
                where = f"pair {example['pair_id']}" if "pair_id" in example else f"image {example['image_id']}"
                typer.echo(f"    {where}: {example['reason']}")
    if report.images_failed:
        typer.echo(f"{report.images_failed} images have no pair that could be read")
    if report.again:
        typer.echo(f"{report.again} images wait for another try by `amodal reasonseg generate --out {work}`")


@reasonseg_app.command()
def stats(work: Work, as_json: AsJson = False) -> None:
    """Print how much there is and how far it is.

    Example: amodal reasonseg stats work --json
    """
    from amodal.datagen.stats import work_statistics
    from amodal.datagen.store.manifest import open_work

    with open_work(work) as manifest:
        figures = work_statistics(manifest)
    typer.echo(json.dumps(figures) if as_json else _readable(figures))


@reasonseg_app.command()
def export(
    work: Work,
    out: Annotated[Path, typer.Option(help="New folder.")],
    to: Annotated[
        str, typer.Option(help="canonical, parquet (Hugging Face datasets), muse or reasonseg.")
    ] = "canonical",
    states: Annotated[str, typer.Option(help="States of the pairs to take, with commas.")] = "accepted,rewritten",
    as_json: AsJson = False,
) -> None:
    """Write a dataset with its card.

    Example: amodal reasonseg export work --to canonical --out dataset
    """
    from amodal.datagen.export.dataset import export as run
    from amodal.datagen.store.manifest import open_work

    with open_work(work) as manifest:
        wanted = cast("list[PairState]", [state.strip() for state in states.split(",")])
        figures = run(manifest, cast("Form", to), out, wanted)  # which checks both
    if as_json:
        typer.echo(json.dumps({"out": str(out), **figures}))
    else:
        typer.echo(f"Written: {figures['pairs']} pairs about {figures['images']} images, {out}/README.md")


def _sources(format_: str | None, files: list[Path], folders: list[Path], splits: list[str]) -> list[Source]:
    from amodal.datagen.select import Source, parse_split

    for name, given in (("images", folders), ("split", splits)):
        if given and len(given) != len(files):
            raise InputError(f"{name}: expected one for each of {len(files)} annotation files, got {len(given)}")
    sources = []
    for index, file in enumerate(files):
        folder = folders[index] if folders else None
        sources.append(Source(format_of(file, format_), file, folder, parse_split(splits[index] if splits else None)))
    return sources


def _open_or_select(out: Path, sources: list[Source], selection: Selection) -> Manifest:
    """The work folder: a new one of these sources, or an earlier one of the same."""
    from amodal.datagen.select import select, source_settings
    from amodal.datagen.store.manifest import STATE_FILE, open_work

    if not (out / STATE_FILE).is_file():
        if not sources:
            raise InputError(f"annotations: expected a file to start {str(out)!r} from, got none")
        return select(sources, selection, out)
    manifest = open_work(out)
    if sources:
        made, wanted = manifest.settings().get("source"), json.loads(json.dumps(source_settings(sources, selection)))
        if made != wanted:
            manifest.close()
            raise InputError(f"work {out}: expected the sources and selection it was made of, got others")
    return manifest


def _backend(name: str, seed: int, **endpoint: Any) -> Backend:
    if name == "template":
        from amodal.datagen.backends.template import TemplateBackend

        return TemplateBackend(seed)
    if name != "openai":
        raise InputError(f"backend: expected template or openai, got {name!r}")
    from amodal.datagen.backends.endpoint import Endpoint, OpenAIBackend

    if endpoint["model"] is None:
        raise InputError("model: expected the name of a model with --backend openai, got none")
    if endpoint["structured"] not in ("schema", "json", "none"):
        raise InputError(f"structured: expected schema, json or none, got {endpoint['structured']!r}")
    return OpenAIBackend(Endpoint(**endpoint))


def _summary(manifest: Manifest, out: Path) -> dict[str, Any]:
    from amodal.datagen.store.requests_log import request_counts, spent

    states = dict(manifest.query("SELECT state, count(*) FROM images GROUP BY state"))
    return {
        "work": str(out),
        "images": sum(states.values()),
        "image_states": states,
        "pairs": sum(manifest.pair_counts().values()),
        "requests": request_counts(manifest),
        "spent": vars(spent(manifest)),
    }


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', '-')}" for name, count in counts.items() if count) or "none"


def _readable(figures: dict[str, Any]) -> str:
    sides = "; ".join(
        f"{name} {side['images']} images, {side['pairs']} pairs" for name, side in figures["splits"].items()
    )
    answer, occlusion = figures["objects_per_answer"], figures["occlusion"]
    return "\n".join(
        [
            f"{figures['images']} images, {figures['pairs']} pairs, {figures['pairs_per_image']:.1f} an image",
            f"splits: {sides}",
            f"pairs: {_listed(figures['states'])}",
            f"images: {_listed(figures['image_states'])}",
            f"objects an answer: {answer['mean']:.2f} ({_listed(answer['counts'])})",
            f"hidden share of the objects mentioned, in tenths: {' '.join(map(str, occlusion['histogram']))}; "
            f"{occlusion['whole']} of {occlusion['objects']} whole",
            f"requests: {_listed(figures['requests'])}; {figures['spent']['tokens']} tokens, "
            f"{figures['spent']['money']:g} money",
            f"reviews: {_listed(figures['reviews'])} by {len(figures['reviewers'])} people",
            *agreement_lines(figures["agreement"]),
        ]
    )
