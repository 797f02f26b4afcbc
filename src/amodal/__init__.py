"""amodal: see whole objects behind what hides them."""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amodal.inference.assistant import AmodalAssistant
    from amodal.inference.scene import Scene, SceneObject
    from amodal.inference.segmenter import AmodalSegmenter

try:
    __version__ = metadata.version("amodal")
except metadata.PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0.0.0"

_HOMES = {
    "AmodalAssistant": "amodal.inference.assistant",
    "AmodalSegmenter": "amodal.inference.segmenter",
    "Scene": "amodal.inference.scene",
    "SceneObject": "amodal.inference.scene",
}

__all__ = ["AmodalAssistant", "AmodalSegmenter", "Scene", "SceneObject", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use: `import amodal` alone stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'amodal' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *__all__})
