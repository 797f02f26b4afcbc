"""Amodal segmentation: predict the complete shape of every object, including the parts that other objects hide."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from amodal.version import __version__

if TYPE_CHECKING:
    from amodal.data.datasets import read_dataset
    from amodal.errors import InputError
    from amodal.evaluation.evaluator import evaluate
    from amodal.inference.assistant import AmodalAssistant
    from amodal.inference.scene import Scene
    from amodal.inference.scene_object import SceneObject
    from amodal.inference.segmenter import AmodalSegmenter
    from amodal.training.loop import train

_MODULES = {
    "AmodalAssistant": "amodal.inference.assistant",
    "AmodalSegmenter": "amodal.inference.segmenter",
    "InputError": "amodal.errors",
    "Scene": "amodal.inference.scene",
    "SceneObject": "amodal.inference.scene",
    "evaluate": "amodal.evaluation.evaluator",
    "read_dataset": "amodal.data.datasets",
    "train": "amodal.training.loop",
}

__all__ = [
    "AmodalAssistant",
    "AmodalSegmenter",
    "InputError",
    "Scene",
    "SceneObject",
    "__version__",
    "evaluate",
    "read_dataset",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import amodal` alone is fast."""
    if name not in _MODULES:
        raise AttributeError(f"module 'amodal' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """All public names, imported or not."""
    return sorted({*globals(), *__all__})
