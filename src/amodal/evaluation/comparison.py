"""Two reports side by side, where that means something."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.table import Table

from amodal.errors import InputError
from amodal.evaluation.report import EvaluationReport, flatten
from amodal.metrics.ranges import range_label

MUST_AGREE = ("box_source", "threshold", "union_visible")
"""Options that change a figure; the set of objects and the protocol must agree in any case."""


@dataclass(frozen=True)
class Comparison:
    """Two reports of one protocol on the same objects.

    Attributes:
        first: one report.
        second: the other.
        different: options that differ and were allowed to.
    """

    first: EvaluationReport
    second: EvaluationReport
    different: tuple[str, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """Each figure of both with its difference; overall, then by range."""
        found = []
        pairs = [("all", self.first.metrics, self.second.metrics)]
        for a, b in zip(self.first.by_occlusion, self.second.by_occlusion, strict=False):
            pairs.append((range_label(a["above"], a["up_to"]), a, b))
        for where, a, b in pairs:
            ours, theirs = flatten(a)[0], flatten(b)[0]
            for name, x in ours.items():
                y = theirs.get(name)
                difference = None if x is None or y is None else y - x
                found.append({"objects": where, "figure": name, "first": x, "second": y, "difference": difference})
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "protocol": self.first.protocol,
            "num_objects": self.first.metrics["num_objects"],
            "models": [self.first.options["model"], self.second.options["model"]],
            "different_options": {n: [r.options.get(n) for r in (self.first, self.second)] for n in self.different},
            "rows": self.rows(),
        }

    def table(self) -> Table:
        """One line a figure."""
        note = "".join(
            f"; {n} {self.first.options.get(n)} against {self.second.options.get(n)}" for n in self.different
        )
        title = f"{self.first.protocol}: {self.first.metrics['num_objects']} objects{note}"
        table = Table(title=title, title_justify="left")
        names = [str(r.options["model"]) for r in (self.first, self.second)]
        for head in ("hidden", "figure"):
            table.add_column(head)
        for head in (*names, "difference"):
            table.add_column(head, justify="right")
        for row in self.rows():
            values = [_cell(row["first"], ".4f"), _cell(row["second"], ".4f"), _cell(row["difference"], "+.4f")]
            table.add_row(row["objects"], row["figure"], *values)
        return table


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def compare(first: EvaluationReport, second: EvaluationReport, allow: tuple[str, ...] = ()) -> Comparison:
    """Put two reports side by side.

    Args:
        first: one report.
        second: the other.
        allow: options of `MUST_AGREE` that may differ; the comparison names them.

    Raises:
        InputError: another protocol, other objects, another option, or an unknown name in `allow`.
    """
    for name in allow:
        if name not in MUST_AGREE:
            raise InputError(f"allow: expected one of {', '.join(MUST_AGREE)}, got {name!r}")
    if first.protocol != second.protocol:
        raise InputError(f"compare: expected one protocol, got {first.protocol!r} and {second.protocol!r}")
    digests = [r.options.get("objects_sha256") for r in (first, second)]
    if None in digests:
        raise InputError("compare: expected reports that name their objects (objects_sha256), got one without")
    if digests[0] != digests[1]:
        a, b = (f"{r.metrics['num_objects']} ({r.options.get('objects')})" for r in (first, second))
        raise InputError(f"compare: expected the same objects in both reports, got {a} and {b}, not the same ones")
    different = tuple(n for n in MUST_AGREE if first.options.get(n) != second.options.get(n))
    for name in different:
        if name not in allow:
            got = " and ".join(repr(r.options.get(name)) for r in (first, second))
            raise InputError(f"compare: expected the same {name} in both reports, got {got} (--allow {name})")
    return Comparison(first, second, different)
