"""Stage 3: check every generated pair against the rules, and send back the pairs that fail.

Pairs with a sentence that no rule can read are neither passed nor sent back: they wait for people.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from amodal.datagen.policy import Policy, max_pairs, to_replace
from amodal.datagen.rules import RULES, RuleContext, RuleSettings, RuleViolation, check_duplicate, check_pair
from amodal.datagen.store.records import EXHAUSTED, REFUSED, Draft, Pair, PairState, WorkImage
from amodal.datagen.store.work_folder import WorkFolder
from amodal.datagen.wanted import wanted_pairs
from amodal.io.progress import progress_bar

MAX_EXAMPLES = 3  # per rule in a report
WHO = "check"  # name in the history of pairs
IMAGE_RULES = ("format", "count")

FailureRoute = Literal["retry", "people"]


@dataclass
class RuleReport:
    """How often a rule was violated, with examples."""

    failed: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class CheckReport:
    """The result of `check`.

    Attributes:
        pairs: number of pairs checked.
        checked: number of pairs without a violation.
        failed: number of pairs with a violation.
        unclear: number of pairs that only people can judge.
        images: number of images checked.
        images_failed: number of images without a single readable pair.
        again: number of images that `generate` will ask about again.
        rules: report by rule. `format` counts replies that could not be parsed, `count` images with
            too few pairs, and each other rule pairs; `policy` counts pairs that the policy replaces.
    """

    pairs: int = 0
    checked: int = 0
    failed: int = 0
    unclear: int = 0
    images: int = 0
    images_failed: int = 0
    again: int = 0
    rules: dict[str, RuleReport] = field(
        default_factory=lambda: {name: RuleReport() for name in (*IMAGE_RULES, *RULES, "duplicate", "policy")}
    )

    def to_json(self) -> dict[str, Any]:
        """The output of `amodal reasonseg check --json`."""
        rules = {name: {"failed": rule.failed, "examples": rule.examples} for name, rule in self.rules.items()}
        counts = ("pairs", "checked", "failed", "unclear", "images", "images_failed", "again")
        return {**{name: getattr(self, name) for name in counts}, "rules": rules}

    def add_violation(self, rule: str, reason: str, **location: Any) -> None:
        """Count one violation, and keep it if it is among the first."""
        report = self.rules[rule]
        report.failed += 1
        if len(report.examples) < MAX_EXAMPLES:
            report.examples.append({**location, "reason": reason})


def check(
    work: WorkFolder,
    settings: RuleSettings | None = None,
    *,
    pairs: int | None = None,
    rounds: int | None = None,
    failure_route: FailureRoute = "retry",
    policy: Policy = "none",
    progress: bool = True,
) -> CheckReport:
    """Check the generated pairs; pairs that people have reviewed do not change.

    A failed pair stores the reason. With `failure_route="retry"`, the next `generate` asks about
    its image again and tells the model the reason, as long as the image has rounds left. Pairs that
    fail in the last round, and all failed pairs with `failure_route="people"`, wait for people.

    Args:
        work: work folder.
        settings: settings of the rules.
        pairs: number of pairs wanted per image; that of the last `generate` in this folder if None.
        rounds: maximum number of replies per image; likewise.
        failure_route: where failed pairs go.
        policy: "paper" also fails pairs that keep an image from the shares of `policy.py`, the fewest that do.
        progress: show a progress bar on stderr.

    Raises:
        InputError: a number below 1.
    """
    report, settings = CheckReport(), settings or RuleSettings()
    wanted = wanted_pairs(work, pairs, rounds)
    _report_malformed(work, report)
    categories, counts = work.categories(), work.image_state_counts()
    total = sum(counts.values()) - counts.get("selected", 0)
    images = (image for image in work.images() if image.state != "selected")
    for image in progress_bar(images, "check", progress, total):
        report.images += 1
        with work.atomic():
            context = RuleContext(work.sample(image), categories, settings)
            found = list(work.pairs.find(image_id=image.id))
            num_failed = _check_pairs(work, found, context, report, policy)
            count = max_pairs(len(context.image.objects), wanted.pairs) if policy == "paper" else wanted.pairs
            num_missing = max(count - len(found), 0)
            if found and num_missing:
                report.add_violation("count", f"expected {count} pairs, got {len(found)}", image_id=image.id)
            wanting = num_failed + (0 if image.reason == EXHAUSTED else num_missing)
            retry = failure_route == "retry" and image.tries < wanted.rounds and wanting > 0
            _set_image_state(work, image, bool(found), retry, report)
    return report


def _check_pairs(
    work: WorkFolder, pairs: Iterable[Pair], context: RuleContext, report: CheckReport, policy: Policy
) -> int:
    """Check each pair that nobody has reviewed and set its state; returns how many failed."""
    reviewed, kept, found = list[Draft](), list[Draft](), list[tuple[Pair, list[RuleViolation]]]()
    # Reviewed pairs come first, so that of two duplicates the reviewed one stays.
    for pair in sorted(pairs, key=lambda pair: pair.state in ("generated", "failed")):
        draft = Draft(pair.question, pair.answer, pair.claims)
        if pair.state not in ("generated", "checked", "unclear", "failed"):
            reviewed += [] if pair.state == "rejected" else [draft]
            continue
        violations = check_pair(draft, context)
        if _state_after(violations) != "failed":
            duplicate = check_duplicate(draft, reviewed + kept, context.settings)
            violations += [duplicate] if duplicate else []
        kept += [] if _state_after(violations) == "failed" else [draft]
        found.append((pair, violations))
    if policy == "paper" and kept:
        surplus = to_replace(reviewed, kept, context)
        passed = (violations for _, violations in found if _state_after(violations) != "failed")
        for position, violations in enumerate(passed):
            violations += [RuleViolation("policy", surplus[position])] if position in surplus else []
    for pair, violations in found:
        _report_pair(pair, violations, report)
        _set_pair_state(work, pair, violations)
    return sum(_state_after(violations) == "failed" for _, violations in found)


def _state_after(violations: list[RuleViolation]) -> PairState:
    """Failed, unless all that is wrong is a sentence that only people can read."""
    if any(violation.rule != "unclear" for violation in violations):
        return "failed"
    return "unclear" if violations else "checked"


def _report_pair(pair: Pair, violations: list[RuleViolation], report: CheckReport) -> None:
    state = _state_after(violations)
    report.pairs += 1
    report.failed += state == "failed"
    report.unclear += state == "unclear"
    report.checked += state == "checked"
    for violation in violations:
        location = {"pair_id": pair.id, "image_id": pair.image_id, "question": pair.question, "answer": pair.answer}
        report.add_violation(violation.rule, violation.reason, **location)


def _set_pair_state(work: WorkFolder, pair: Pair, violations: list[RuleViolation]) -> None:
    state = _state_after(violations)
    reason = "; ".join(map(str, violations)) or None
    if pair.state != state:
        work.pairs.set_state(pair.id, state, WHO, reason=reason)
    elif pair.reason != reason:  # failed before for another reason
        work.pairs.set_reason(pair.id, reason)


def _set_image_state(work: WorkFolder, image: WorkImage, has_pairs: bool, retry: bool, report: CheckReport) -> None:
    """Decide whether an image is done, is asked about again, or has failed as a whole."""
    if retry and not (image.reason or "").startswith(REFUSED):
        work.set_image_state(image.id, "again", None if has_pairs else image.reason)
        report.again += 1
    elif has_pairs:
        work.set_image_state(image.id, "done", image.reason if image.reason == EXHAUSTED else None)
    else:
        work.set_image_state(image.id, "failed", image.reason)
    report.images_failed += not has_pairs


def _report_malformed(work: WorkFolder, report: CheckReport) -> None:
    for reply in work.requests.malformed(limit=MAX_EXAMPLES):
        report.add_violation("format", reply.reason, image_id=reply.image_id, response=reply.response[:500])
    report.rules["format"].failed = work.requests.counts().get("malformed", 0)
