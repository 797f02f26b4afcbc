"""Models that ship inside the package."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"


def bundled_models() -> dict[str, Path]:
    """Names and folders of the bundled models, in alphabetical order."""
    if not WEIGHTS.is_dir():
        return {}
    folders = sorted(p for p in WEIGHTS.iterdir() if (p / "config.json").is_file())
    return {folder.name: folder for folder in folders}
