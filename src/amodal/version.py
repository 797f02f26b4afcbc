"""The version of the installed package, and the commit of its source."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

try:
    __version__ = metadata.version("amodal")
except metadata.PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"


@cache
def source_commit(package: Path = Path(__file__).parent) -> str | None:
    """Return the git commit of the checkout that the package runs from.

    Args:
        package: folder of the package.

    Returns:
        The full hash; None for a package that was installed without its checkout (also if the environment itself lies
        in some other repository), and where git is missing or fails.
    """
    root = package.parent.parent
    if package != root / "src" / "amodal" or not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
