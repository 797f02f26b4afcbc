"""What an evaluation says, as JSON and as a table."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

import amodal


@dataclass
class EvaluationReport:
    """Figures with everything needed to compare them.

    Attributes:
        protocol: name of the protocol.
        options: box source, threshold, objects scored and left out.
        metrics: figures of the model.
        by_occlusion: figures by range of the true occlusion rate.
        baselines: figures of each baseline on the same objects.
        version: package version.
    """

    protocol: str
    options: dict[str, Any]
    metrics: dict[str, float]
    by_occlusion: list[dict[str, float]] = field(default_factory=list)
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    version: str = amodal.__version__

    def to_json(self) -> dict[str, Any]:
        """Plain values, in the form other programs read."""
        return asdict(self)

    def save(self, path: str | Path) -> Path:
        """Write the report, complete or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".writing")
        temporary.write_text(json.dumps(self.to_json(), indent=1))
        os.replace(temporary, path)
        return path

    def table(self) -> Table:
        """Model and baselines, one row each."""
        counts = f"{self.metrics['num_objects']} objects, {self.metrics['num_occluded']} occluded"
        table = Table(title=f"{self.protocol}: {counts}, box {self.options['box_source']}")
        table.add_column("answer")
        names = ("mIoU_full", "mIoU_occ", "mIoU_visible")
        for name in names:
            table.add_column(name, justify="right")
        rows = {str(self.options["model"]): self.metrics, **self.baselines}
        for label, figures in rows.items():
            table.add_row(label, *(f"{figures[n]:.4f}" if n in figures else "" for n in names))
        return table
