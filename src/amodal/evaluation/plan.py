"""What is asked of an evaluation, and the rows and boxes that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amodal.data.samples import AnnotatedDataset
from amodal.errors import InputError
from amodal.evaluation.answers import AtThreshold, Predictor
from amodal.evaluation.asking import Answerer, Asked, Boxes, LastImage
from amodal.evaluation.baselines import DEFAULT_BASELINES, ROWS, check_names
from amodal.evaluation.boxes import parse_box_source, read_boxes
from amodal.evaluation.predictions import Sizes
from amodal.evaluation.selection import Selection, read_object_list
from amodal.evaluation.summary import PROTOCOLS, Resampling

if TYPE_CHECKING:
    from amodal.evaluation.plug import PlugPredictor


@dataclass(frozen=True)
class Plan:
    """What is asked for besides the model: how, on which objects, with what beside it.

    Attributes:
        protocol: `strict`, `c2f` or `cumulative` (protocols `amodal_ap` and `reason` have
            evaluators of their own).
        objects: file of `imageid_annoid` lines; all annotated objects if None.
        max_objects: stop after so many objects, in file order.
        baselines: names of the registry.
        sam: base of the rows `sam` and `sam_amodal_box`.
        workers: processes that count pixels.
        resampling: of the 95 % intervals; None leaves them out.
        worst: how many of the worst objects the report lists.
        pictures: folder for pictures of those.
        save_predictions: file to write the answers to, in the predictions form.
        progress: show a bar.

    Raises:
        InputError: unknown protocol or baseline, or a number below its least.
    """

    protocol: str = "strict"
    objects: Path | None = None
    max_objects: int | None = None
    baselines: tuple[str, ...] = DEFAULT_BASELINES
    sam: str = "sam-tiny"
    workers: int = 1
    resampling: Resampling | None = field(default_factory=Resampling)
    worst: int = 0
    pictures: Path | None = None
    save_predictions: Path | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise InputError(f"protocol: expected one of {', '.join(PROTOCOLS)}, got {self.protocol!r}")
        object.__setattr__(self, "baselines", check_names(self.baselines))
        for name, least in (("workers", 1), ("worst", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name}: expected {least} or more, got {getattr(self, name)}")

    def selection(self) -> Selection:
        """Of the objects. Raises `InputError` for a list that cannot be read."""
        listed = None if self.objects is None else read_object_list(self.objects)
        return Selection(listed, self.max_objects)


def sizes_of(dataset: AnnotatedDataset) -> Sizes:
    """(H, W) of every image by its id."""
    return {image.id: image.size for image in dataset.images}


def boxes_from(box_source: str, dataset: AnnotatedDataset) -> Boxes:
    """The boxes of a source as the command line names it; see `parse_box_source`.

    Raises:
        InputError: unknown source, or a bad file of boxes.
    """
    source, file = parse_box_source(box_source)
    return Boxes(source, None if file is None else read_boxes(file, sizes_of(dataset)))


def with_threshold(predictor: Predictor, threshold: float | None) -> tuple[Predictor, dict[str, Any]]:
    """A predictor at a threshold, and how its masks are made, for the report.

    Raises:
        InputError: a threshold for a predictor that takes none.
    """
    own = getattr(predictor, "threshold", None)  # a `PlugPredictor` says how it makes masks
    if own is None:
        config = getattr(getattr(predictor, "model", None), "config", None)
        own = getattr(config, "mask_threshold", None)
    if threshold is not None and threshold != own:
        if not callable(predictor):
            kind = type(predictor).__name__
            raise InputError(f"threshold: expected None for a predictor that takes none ({kind}), got {threshold}")
        predictor, own = AtThreshold(predictor, threshold), threshold
    return predictor, {"threshold": own, "union_visible": getattr(predictor, "union_visible", True)}


def sam_rows(names: Sequence[str], base: str, boxes: Boxes, load: LastImage) -> dict[str, Answerer]:
    """Those of the named rows that look at pixels; they share one SAM.

    Raises:
        InputError: no such base.
    """
    wanted = [name for name in names if ROWS[name].shape is None]
    if not wanted:
        return {}
    predictor = sam_predictor(base, None)
    return {name: Asked(predictor, _boxes_of(name, boxes), load) for name in wanted}


def sam_predictor(base: str, threshold: float | None) -> PlugPredictor:
    """SAM without fine-tuning, in float32 on the best device.

    Raises:
        InputError: no such base, or an impossible threshold.
    """
    import torch

    from amodal.evaluation.plug import pretrained_sam

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return pretrained_sam(base, device, torch.float32, threshold)


def lone_row(
    name: str, sam: str, boxes: Boxes, load: LastImage, box_source: str, threshold: float | None
) -> tuple[Answerer | None, dict[str, Any]]:
    """A row of the registry in the place of a model: its answerer (None for a shape) and its options.

    Raises:
        InputError: unknown row, one that needs a model beside it, or a threshold for a shape.
    """
    check_names((name,))
    row = ROWS[name]
    if row.needs_own_visible:
        raise InputError(f"model: expected a row that stands alone, got {name!r}, which needs a model's visible mask")
    options = {"model": name, "box_source": row.box_source or box_source, "threshold": None, "union_visible": False}
    if row.shape is not None:
        if threshold is not None:
            raise InputError(f"threshold: expected None for {name!r}, which takes none, got {threshold}")
        return None, options
    predictor = sam_predictor(sam, threshold)
    return Asked(predictor, _boxes_of(name, boxes), load), options | {"threshold": predictor.threshold, "sam": sam}


def _boxes_of(name: str, boxes: Boxes) -> Boxes:
    own = ROWS[name].box_source
    return boxes if own is None else Boxes(own)
