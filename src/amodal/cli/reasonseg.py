"""The commands of `amodal reasonseg`: generate, prompt, check, stats and export."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from amodal.cli.options import AsJson, FormatName, MatchBy, format_of, open_dataset, require_no_image
from amodal.cli.reasonseg_facts import facts_app
from amodal.cli.reasonseg_review import Work, agreement_lines, review_app
from amodal.errors import InputError

if TYPE_CHECKING:
    from amodal.datagen.backends.base import Backend
    from amodal.datagen.export.writers import ExportForm
    from amodal.datagen.select import DatasetSource, ImageSelection
    from amodal.datagen.store.records import PairState
    from amodal.datagen.store.work_folder import WorkFolder
    from amodal.io.image_names import Match

reasonseg_app = typer.Typer(no_args_is_help=True)
reasonseg_app.add_typer(facts_app, name="facts", help="Collect facts about categories.")
reasonseg_app.add_typer(review_app, name="review", help="Let people accept, fix or reject pairs.")

_selection = partial(typer.Option, rich_help_panel="Selection of images and objects")
_endpoint = partial(typer.Option, rich_help_panel="Model, with --backend openai")
_limits = partial(typer.Option, rich_help_panel="Requests and limits")

Annotations = Annotated[list[Path] | None, typer.Option(help="Annotation file; may be repeated.")]
Images = Annotated[list[Path] | None, typer.Option(help="Folder of the images per annotation file, in the same order.")]
Pairs = Annotated[
    int | None,
    typer.Option(
        min=1, help="Number of question-answer pairs per image; default: as in the last `generate`, at first 10."
    ),
]
Rounds = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Maximum number of replies per image, retries included; default: as in the last `generate`, at first 3.",
    ),
]
PromptVersion = Annotated[str, typer.Option(help="Version of the prompt file.")]
Outlines = Annotated[bool, typer.Option(help="Draw numbered outlines of the objects on the image.")]
MaxSide = Annotated[int, typer.Option(min=64, help="Maximum side of the image sent, in pixels.")]


@reasonseg_app.callback()
def _group() -> None:
    """Generate, check, review and export question-answer data."""


@reasonseg_app.command()
def generate(
    out: Annotated[Path, typer.Option(help="Work folder to make, or to resume.")],
    format_: FormatName = None,
    annotations: Annotations = None,
    images: Images = None,
    match: MatchBy = "path",
    backend: Annotated[
        str, typer.Option(help="Writer of the pairs: template (offline) or openai (any compatible endpoint).")
    ] = "template",
    pairs: Pairs = None,
    rounds: Rounds = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all draws.")] = 0,
    facts: Annotated[
        Path | None, typer.Option(help="YAML file with further facts about categories, for the template backend.")
    ] = None,
    split: Annotated[
        list[str] | None,
        _selection(help="Side of the split per annotation file: train, test or auto (by file name, or drawn)."),
    ] = None,
    test_share: Annotated[float, _selection(help="Share of test images where the split is drawn.")] = 0.36,
    max_images: Annotated[int | None, _selection(min=1, help="Maximum number of images, drawn at random.")] = None,
    category: Annotated[
        list[str] | None, _selection(help="Keep only objects of this category; may be repeated.")
    ] = None,
    min_area: Annotated[int, _selection(help="Minimum number of visible pixels per object.")] = 64,
    min_occlusion: Annotated[float, _selection(help="Skip images in which no object has this occlusion rate.")] = 0.0,
    max_occlusion: Annotated[float, _selection(help="Skip objects with a higher occlusion rate.")] = 0.95,
    min_objects: Annotated[int, _selection(help="Skip images with fewer objects.")] = 1,
    max_objects: Annotated[int, _selection(help="Skip images with more objects.")] = 40,
    include_stuff: Annotated[bool, _selection("--include-stuff", help="Keep sky, floor and other stuff.")] = False,
    allow_modal: Annotated[
        bool, _selection("--allow-modal", help="Use the visible mask where the amodal mask is unknown.")
    ] = False,
    model: Annotated[str | None, _endpoint(help="Name of the model on the server.")] = None,
    base_url: Annotated[
        str | None, _endpoint(help="Address such as http://127.0.0.1:8000/v1; default: OpenAI.")
    ] = None,
    key_variable: Annotated[str, _endpoint(help="Environment variable with the API key.")] = "OPENAI_API_KEY",
    structured: Annotated[
        str, _endpoint(help="Form that the server must reply in: schema (JSON schema), json or none.")
    ] = "schema",
    token_limit: Annotated[
        str, _endpoint(help="Parameter for the reply's length: auto, max_tokens or max_completion_tokens.")
    ] = "auto",
    system_role: Annotated[bool, _endpoint(help="Send the instructions as a system message.")] = True,
    prompt: Annotated[str, _endpoint(help="Version of the prompt file.")] = "2",
    outlines: Annotated[bool, _endpoint(help="Draw numbered outlines of the objects on the image.")] = True,
    max_side: Annotated[int, _endpoint(min=64, help="Maximum side of the image sent, in pixels.")] = 1024,
    temperature: Annotated[float | None, _endpoint(help="Sampling temperature; default: the server's.")] = None,
    max_tokens: Annotated[int, _endpoint(min=1, help="Maximum number of tokens per reply.")] = 4096,
    timeout: Annotated[float, _endpoint(help="Maximum seconds to wait for a reply.")] = 120.0,
    concurrency: Annotated[int, _limits(min=1, help="Maximum number of requests at a time.")] = 8,
    attempts: Annotated[int, _limits(min=1, help="Maximum number of requests for one reply.")] = 8,
    retry_wait: Annotated[float, _limits(help="Seconds before the second attempt; each further wait doubles.")] = 1.0,
    max_requests: Annotated[int | None, _limits(help="Maximum number of requests over all runs.")] = None,
    max_total_tokens: Annotated[int | None, _limits(help="Maximum number of tokens over all runs.")] = None,
    max_money: Annotated[float | None, _limits(help="Maximum cost over all runs; needs the prices.")] = None,
    price_prompt: Annotated[float, _limits(help="Price of one million prompt tokens.")] = 0.0,
    price_completion: Annotated[float, _limits(help="Price of one million reply tokens.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Select images and write pairs about them; the same command resumes an interrupted run.

    Example: amodal reasonseg generate --format canonical --annotations scenes/annotations.json --out work
    """
    from amodal.datagen.generate import RequestPolicy, TokenPrices, UsageLimits
    from amodal.datagen.generate import generate as run
    from amodal.datagen.select import ImageSelection

    selection = ImageSelection(
        max_images, tuple(category or ()), min_area, max_occlusion, min_occlusion, min_objects, max_objects,
        test_share, seed, include_stuff, allow_modal,
    )  # fmt: skip
    sources = _sources(format_, annotations or [], images or [], split or [], match)
    policy = RequestPolicy(concurrency, attempts, retry_wait)
    limits = UsageLimits(max_requests, max_total_tokens, max_money)
    prices = TokenPrices(price_prompt, price_completion)
    if max_money is not None and prices == TokenPrices():
        raise InputError("max-money: expected prices of tokens with it (--price-prompt, --price-completion), got none")
    writer = _backend(
        backend, seed, facts, model, base_url=base_url, key_variable=key_variable, timeout=timeout,
        structured=structured, max_tokens=max_tokens, temperature=temperature, outlines=outlines,
        max_side=max_side, prompt=prompt, token_limit=token_limit, system_role=system_role,
    )  # fmt: skip
    with _open_or_select(out, sources, selection) as work:
        outcome = run(
            work, writer, pairs=pairs, rounds=rounds, policy=policy, limits=limits, prices=prices, progress=not as_json
        )
        result = _summary(work) | {"run": vars(outcome)}
    if as_json:
        typer.echo(json.dumps(result))
        return
    typer.echo(f"{out}: {result['pairs']} pairs about {result['images']} images ({_listed(result['image_states'])})")
    if outcome.unreadable or outcome.given_up or outcome.refused:
        why = f" ({outcome.error})" if outcome.given_up else ""
        typer.echo(
            f"{outcome.unreadable} replies could not be parsed, {outcome.given_up} images got no reply{why}, "
            f"{outcome.refused} images were refused"
        )
    if outcome.stopped:
        typer.echo(f"Stopped: {outcome.stopped}. Run the same command again to resume.")


@reasonseg_app.command("prompt")
def show_prompt(
    annotations: Annotated[Path, typer.Option(help="Annotation file.")],
    format_: FormatName = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images.")] = None,
    match: MatchBy = "path",
    image_id: Annotated[int | None, typer.Option(help="Id of the image; default: the first.")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Number of question-answer pairs to ask for.")] = 10,
    prompt: PromptVersion = "2",
    image_file: Annotated[
        Path | None, typer.Option("--image-out", help="JPEG file to write: the image as it would be sent.")
    ] = None,
    outlines: Outlines = True,
    max_side: MaxSide = 1024,
    as_json: AsJson = False,
) -> None:
    """Print the exact text that would be sent about an image, without sending it.

    Example: amodal reasonseg prompt --format cocoa --annotations COCO_amodal_val2014.json --image-id 343254
    """
    import base64

    from amodal.datagen.prompt import describe, image_url, make_prompt, response_format
    from amodal.datagen.select import ImageSelection, preview
    from amodal.io.files import write_atomic

    if image_file is not None and image_file.suffix.lower() not in (".jpg", ".jpeg"):
        raise InputError(f"image-out: expected a .jpg file, got {str(image_file)!r}")
    dataset = open_dataset(annotations, format_, images, match)
    sample = preview(dataset, image_id, ImageSelection(allow_modal=True))
    text = make_prompt(describe(sample, dataset.categories), pairs, version=prompt)
    if image_file is not None:
        url = image_url(sample, outlines=outlines, max_side=max_side)
        require_no_image(image_file, dataset, "image-out", annotations)
        write_atomic(image_file, base64.b64decode(url.partition(",")[2]), "image-out")
    if as_json:
        typer.echo(json.dumps({"system": text.system, "user": text.user, "response_format": response_format()}))
    else:
        typer.echo(f"--- system\n{text.system}\n--- user, with the image\n{text.user}")


@reasonseg_app.command()
def check(
    work: Work,
    failed: Annotated[str, typer.Option(help="Where failed pairs go: retry (by the next generate) or people.")] = (
        "retry"
    ),
    synonyms: Annotated[
        Path | None, typer.Option(help="JSON file with further words per category that give the answer away.")
    ] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Rule to skip; may be repeated.")] = None,
    english: Annotated[bool, typer.Option(help="Require English.")] = True,
    policy: Annotated[
        str, typer.Option(help="What the pairs of an image must be like together: none, or paper (the paper's shares).")
    ] = "none",
    facts: Annotated[Path | None, typer.Option(help="YAML file with further facts about categories.")] = None,
    pairs: Pairs = None,
    rounds: Rounds = None,
    as_json: AsJson = False,
) -> None:
    """Check the pairs against the rules.

    Example: amodal reasonseg check work
    """
    from amodal.datagen.check import FailureRoute
    from amodal.datagen.check import check as run
    from amodal.datagen.policy import Policy
    from amodal.datagen.rules import RuleSettings
    from amodal.datagen.store.work_folder import open_work
    from amodal.questions.knowledge import all_facts
    from amodal.questions.wording import read_synonyms

    routes: tuple[FailureRoute, ...] = get_args(FailureRoute)
    if failed not in routes:
        raise InputError(f"failed: expected {' or '.join(routes)}, got {failed!r}")
    if policy not in get_args(Policy):
        raise InputError(f"policy: expected {' or '.join(get_args(Policy))}, got {policy!r}")
    settings = RuleSettings(
        english_share=RuleSettings.english_share if english else 0.0,
        synonyms={} if synonyms is None else read_synonyms(synonyms),
        knowledge=all_facts(facts),
        skip=frozenset(skip or ()),
    )
    with open_work(work) as opened:
        report = run(
            opened, settings, pairs=pairs, rounds=rounds, failure_route=failed, policy=cast("Policy", policy),
            progress=not as_json,
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(report.to_json()))
        return
    typer.echo(
        f"{report.pairs} pairs: {report.checked} checked, {report.failed} failed, {report.unclear} unclear (for people)"
    )
    for name, rule in report.rules.items():
        if rule.failed:
            typer.echo(f"  {name}: {rule.failed}")
            for example in rule.examples:
                where = f"pair {example['pair_id']}" if "pair_id" in example else f"image {example['image_id']}"
                typer.echo(f"    {where}: {example['reason']}")
    if report.images_failed:
        typer.echo(f"{report.images_failed} images have no readable pair")
    if report.again:
        typer.echo(f"{report.again} images wait for a retry by `amodal reasonseg generate --out {work}`")


@reasonseg_app.command()
def stats(work: Work, as_json: AsJson = False) -> None:
    """Print statistics of the pairs and the progress of the work.

    Example: amodal reasonseg stats work --json
    """
    from amodal.datagen.stats import work_statistics
    from amodal.datagen.store.work_folder import open_work

    with open_work(work) as opened:
        numbers = work_statistics(opened)
    typer.echo(json.dumps(numbers) if as_json else _readable(numbers))


@reasonseg_app.command()
def export(
    work: Work,
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    to: Annotated[
        str, typer.Option(help="Form of the dataset: canonical, parquet (Hugging Face datasets), muse or reasonseg.")
    ] = "canonical",
    states: Annotated[str, typer.Option(help="States of the pairs to export, separated by commas.")] = (
        "accepted,rewritten"
    ),
    as_json: AsJson = False,
) -> None:
    """Write the finished pairs as a dataset with a dataset card.

    Example: amodal reasonseg export work --to canonical --out dataset
    """
    from amodal.datagen.export.dataset import export as run
    from amodal.datagen.store.work_folder import open_work

    with open_work(work) as opened:
        wanted = cast("list[PairState]", [state.strip() for state in states.split(",")])
        numbers = run(opened, cast("ExportForm", to), out, wanted)  # which checks both
    if as_json:
        typer.echo(json.dumps({"out": str(out), **numbers}))
    else:
        typer.echo(f"Written: {numbers['pairs']} pairs about {numbers['images']} images, {out}/README.md")


def _sources(
    format_: str | None, files: list[Path], folders: list[Path], splits: list[str], match: str
) -> list[DatasetSource]:
    from amodal.datagen.select import DatasetSource, parse_split

    for name, given in (("images", folders), ("split", splits)):
        if given and len(given) != len(files):
            raise InputError(f"{name}: expected one for each of {len(files)} annotation files, got {len(given)}")
    sources = []
    for index, file in enumerate(files):
        folder = folders[index] if folders else None
        split = parse_split(splits[index] if splits else None)
        sources.append(DatasetSource(format_of(file, format_), file, folder, split, cast("Match", match)))
    return sources


def _open_or_select(out: Path, sources: list[DatasetSource], selection: ImageSelection) -> WorkFolder:
    """Make a work folder of these sources, or open an existing one that was made of the same sources."""
    from amodal.datagen.select import select, source_settings
    from amodal.datagen.store.work_folder import STATE_FILE, open_work

    if not (out / STATE_FILE).is_file():
        if not sources:
            raise InputError(f"annotations: expected a file to start {str(out)!r} from, got none")
        return select(sources, selection, out)
    work = open_work(out)
    if sources:
        made, wanted = work.settings().get("source"), json.loads(json.dumps(source_settings(sources, selection)))
        if made != wanted:
            work.close()
            raise InputError(f"work {out}: expected the sources and selection it was made of, got others")
    return work


def _backend(name: str, seed: int, facts: Path | None, model: str | None, **settings: Any) -> Backend:
    if name == "template":
        if model is not None or settings["base_url"] is not None:
            raise InputError("model, base-url: expected with --backend openai only, got the backend template")
        from amodal.datagen.backends.template import TemplateBackend
        from amodal.questions.knowledge import all_facts

        return TemplateBackend(seed, all_facts(facts))
    if name != "openai":
        raise InputError(f"backend: expected template or openai, got {name!r}")
    from amodal.datagen.backends.client import Endpoint, Structured, TokenLimit
    from amodal.datagen.backends.endpoint import OpenAIBackend

    if model is None:
        raise InputError("model: expected the name of a model with --backend openai, got none")
    for option, allowed in (("structured", get_args(Structured)), ("token_limit", get_args(TokenLimit))):
        if settings[option] not in allowed:
            raise InputError(f"{option}: expected one of {', '.join(allowed)}, got {settings[option]!r}")
    return OpenAIBackend(Endpoint(model, **settings))


def _summary(work: WorkFolder) -> dict[str, Any]:
    states = work.image_state_counts()
    return {
        "work": str(work.folder),
        "images": sum(states.values()),
        "image_states": states,
        "pairs": sum(work.pairs.counts().values()),
        "requests": work.requests.counts(),
        "spent": vars(work.requests.usage()),
    }


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', '-')}" for name, count in counts.items() if count) or "none"


def _readable(numbers: dict[str, Any]) -> str:
    sides = "; ".join(
        f"{name} {side['images']} images, {side['pairs']} pairs" for name, side in numbers["splits"].items()
    )
    answer, occlusion = numbers["objects_per_answer"], numbers["occlusion"]
    shares = numbers["shares"]
    lengths = ", ".join(f"{count} with {length}" for length, count in answer["counts"].items()) or "none"
    return "\n".join(
        [
            f"{numbers['images']} images, {numbers['pairs']} pairs, {numbers['pairs_per_image']:.1f} per image",
            f"splits: {sides}",
            f"pairs: {_listed(numbers['states'])}",
            f"images: {_listed(numbers['image_states'])}",
            f"objects per answer: {answer['mean']:.2f} ({lengths})",
            f"shares of the pairs: {shares['several']:.0%} with two objects or more, {shares['implicit']:.0%} implicit "
            f"questions, {shares['reasons']:.0%} with a reason, {shares['repeated']:.0%} about the same objects again",
            f"occlusion rates of the objects mentioned, in tenths: {' '.join(map(str, occlusion['histogram']))}; "
            f"{occlusion['whole']} of {occlusion['objects']} not occluded, {occlusion['unknown']} unknown",
            f"requests: {_listed(numbers['requests'])}; {numbers['spent']['tokens']} tokens, "
            f"cost {numbers['spent']['money']:g}",
            f"reviews: {_listed(numbers['reviews'])} by {len(numbers['reviewers'])} people",
            *agreement_lines(numbers["agreement"]),
        ]
    )
