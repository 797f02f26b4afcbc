"""D2SA: products on a turntable, in COCOA-cls' form (with `iscrowd` as a boolean)."""

from __future__ import annotations

from amodal.data.formats.cocoa_cls import MARKS, TELLING, state
from amodal.data.formats.source import Format

FORMAT = Format(
    name="d2sa",
    title="D2SA (densely segmented supermarket, amodal)",
    files=(
        "D2S_amodal_training_rot0.json",
        "D2S_amodal_augmented.json",
        "D2S_amodal_validation.json",
        "D2S_amodal_test_info.json",
    ),
    masks="visible and amodal",
    order="occl_depth",
    keys=("category_id", "segmentation"),
    state=state,
    any_of=TELLING,
    marks=MARKS,
    may_lack_annotations=True,  # test_info
    foreign=frozenset({"inmodal_seg", "a_segm", "i_segm", "regions"}),
)
