"""Stage 3: hold every generated pair against the rules, and send back what breaks them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from amodal.datagen.prompt import PAIRS_PER_IMAGE
from amodal.datagen.rules import RULES, Context, Fault, RuleSettings, check_duplicate, check_pair
from amodal.datagen.store.manifest import Manifest
from amodal.datagen.store.records import Draft, Pair, PairState, WorkImage
from amodal.io.progress import bar

EXAMPLES = 3  # of each rule in a report
WHO = "check"
IMAGE_RULES = ("format", "count")

Then = Literal["retry", "people"]


@dataclass
class RuleReport:
    """How often a rule was broken, and by what."""

    failed: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class CheckReport:
    """What `check` found.

    Attributes:
        pairs: looked at.
        checked: of them, without fault.
        failed: with one or more.
        images: looked at.
        images_failed: without a single readable pair.
        again: images that `generate` will ask about once more.
        rules: by name; `format` counts answers of another form, `count` images with too few pairs,
            the others pairs.
    """

    pairs: int = 0
    checked: int = 0
    failed: int = 0
    images: int = 0
    images_failed: int = 0
    again: int = 0
    rules: dict[str, RuleReport] = field(
        default_factory=lambda: {name: RuleReport() for name in (*IMAGE_RULES, *RULES, "duplicate")}
    )

    def to_json(self) -> dict[str, Any]:
        """As printed by `amodal reasonseg check --json`."""
        rules = {name: {"failed": rule.failed, "examples": rule.examples} for name, rule in self.rules.items()}
        counts = {name: getattr(self, name) for name in COUNTS}
        return {**counts, "rules": rules}

    def note(self, rule: str, reason: str, **where: Any) -> None:
        """Count one breach and keep it if it is among the first."""
        report = self.rules[rule]
        report.failed += 1
        if len(report.examples) < EXAMPLES:
            report.examples.append({**where, "reason": reason})


COUNTS = ("pairs", "checked", "failed", "images", "images_failed", "again")


def check(
    manifest: Manifest,
    settings: RuleSettings | None = None,
    *,
    pairs: int = PAIRS_PER_IMAGE,
    rounds: int = 3,
    then: Then = "retry",
    progress: bool = True,
) -> CheckReport:
    """Check what was generated; pairs that people have seen are left alone.

    Failed pairs keep the reason. With `then="retry"` their images are asked about again by the
    next `generate`, which tells the model the reasons, as long as the image has rounds left;
    whatever failed in the last round, and with `then="people"` at once, waits for people.

    Args:
        manifest: the work folder.
        settings: bounds of the rules.
        pairs: wanted for each image.
        rounds: answers about one image at most.
        then: where failed pairs go.
        progress: show a bar on stderr.
    """
    report, settings = CheckReport(), settings or RuleSettings()
    _count_unreadable(manifest, report)
    categories = manifest.categories()
    ((total,),) = manifest.query("SELECT count(*) FROM images WHERE state != 'selected'")
    images = (image for image in manifest.images() if image.state != "selected")
    for image in bar(images, "check", progress, total):
        report.images += 1
        with manifest.transaction():
            context = Context(manifest.sample(image), categories, settings)
            found = list(manifest.pairs(image_id=image.id))
            failed = _check_pairs(manifest, found, context, report)
            missing = pairs - len(found)
            if found and missing > 0:
                report.note("count", f"expected {pairs} pairs, got {len(found)}", image_id=image.id)
            _settle(manifest, image, bool(found), failed + max(missing, 0), then == "retry", rounds, report)
    return report


def draft_of(pair: Pair) -> Draft:
    """What the rules look at."""
    return Draft(pair.question, pair.answer, pair.claims)


def _check_pairs(manifest: Manifest, found: Iterable[Pair], context: Context, report: CheckReport) -> int:
    """Give each pair that no one has seen its state; returns how many failed."""
    kept, failed = list[Draft](), 0
    ordered = sorted(found, key=lambda pair: pair.state in ("generated", "failed"))  # what people kept comes first
    for pair in ordered:
        draft = draft_of(pair)
        if pair.state not in ("generated", "checked", "failed"):
            kept += [] if pair.state == "rejected" else [draft]
            continue
        faults = check_pair(draft, context)
        duplicate = None if faults else check_duplicate(draft, kept, context.settings)
        faults += [duplicate] if duplicate else []
        _report(pair, faults, report)
        if faults:
            failed += 1
        else:
            kept.append(draft)
        _set_state(manifest, pair, faults)
    return failed


def _report(pair: Pair, faults: list[Fault], report: CheckReport) -> None:
    report.pairs += 1
    report.failed += bool(faults)
    report.checked += not faults
    for fault in faults:
        where = {"pair_id": pair.id, "image_id": pair.image_id, "question": pair.question, "answer": pair.answer}
        report.note(fault.rule, fault.reason, **where)


def _set_state(manifest: Manifest, pair: Pair, faults: list[Fault]) -> None:
    state: PairState = "failed" if faults else "checked"
    reason = "; ".join(map(str, faults)) or None
    if (pair.state, pair.reason) != (state, reason):
        if pair.state == state:  # failed before, for another reason
            with manifest.transaction() as connection:
                connection.execute("UPDATE pairs SET reason = ? WHERE id = ?", (reason, pair.id))
            return
        manifest.set_state(pair.id, state, WHO, reason=reason)


def _settle(
    manifest: Manifest, image: WorkImage, answered: bool, wanting: int, retry: bool, rounds: int, report: CheckReport
) -> None:
    """Whether an image is done, is asked about again, or has failed as a whole."""
    if wanting and retry and image.tries < rounds and not (image.reason or "").startswith("refused"):
        manifest.set_image_state(image.id, "again", None if answered else image.reason)
        report.again += 1
    elif answered:
        manifest.set_image_state(image.id, "done")
    else:
        manifest.set_image_state(image.id, "failed", image.reason)
    report.images_failed += not answered


def _count_unreadable(manifest: Manifest, report: CheckReport) -> None:
    sql = "SELECT image_id, detail, response FROM requests WHERE status = 'malformed' ORDER BY id"
    for image_id, detail, response in manifest.query(f"{sql} LIMIT {EXAMPLES}"):
        report.note("format", detail, image_id=image_id, response=(response or "")[:500])
    ((count,),) = manifest.query("SELECT count(*) FROM requests WHERE status = 'malformed'")
    report.rules["format"].failed = count
