"""Objects with an occluded part are predicted again: mirrored, with their visible masks as prompts."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pytest
import torch

from amodal import AmodalSegmenter
from amodal.inference.network_output import MaskOptions
from amodal.inference.prompts import ObjectPrompt
from amodal.inference.second_prediction import AVERAGED, predict_twice
from amodal.models.plug import PlugConfig, PlugOutput
from amodal.nn.uncertainty import uncertainty_map
from amodal.ops.cleaning import CleanSettings
from tests.models.conftest import random_plug

ONCE, AGAIN = CleanSettings(min_confirmed=0), CleanSettings()
IMAGE = np.zeros((128, 160, 3), np.uint8)
BOXES = [[10, 10, 60, 50], [80, 20, 140, 60], [30, 70, 100, 120]]


def left_halves() -> list[np.ndarray]:
    """The visible masks of the objects in `BOXES`: all of them are occluded on the right."""
    masks = [np.zeros(IMAGE.shape[:2], bool) for _ in BOXES]
    for mask, (x0, y0, x1, y1) in zip(masks, BOXES, strict=True):
        mask[y0:y1, x0 : (x0 + x1) // 2] = True
    return masks


class DrawnPredictions:
    """Replaces what a model predicts by rectangles, and keeps what it is asked.

    Visible masks are the prompts, or otherwise the left halves of the boxes. Amodal masks are the whole boxes for the
    objects of `first` in the first call and for those of `second` in the second one, and the visible masks for others.
    """

    def __init__(
        self,
        segmenter: AmodalSegmenter,
        monkeypatch: pytest.MonkeyPatch,
        first: Collection[int],
        second: Collection[int] = (),
        not_found: Collection[int] = (),
    ) -> None:
        self.calls: list[dict[str, torch.Tensor]] = []
        self.encoded: list[torch.Tensor] = []
        encode = segmenter.model.encode

        def counted(pixels: torch.Tensor) -> Any:
            self.encoded.append(pixels)
            return encode(pixels)

        def predict(pixels: torch.Tensor, _v: Any, _a: Any, boxes: torch.Tensor, **given: torch.Tensor) -> PlugOutput:
            self.calls.append({"input_boxes": boxes, **given})
            is_first, num_objects = len(self.calls) == 1, boxes.shape[0] * boxes.shape[1]
            shown = range(num_objects) if is_first else sorted(first)[:num_objects]
            masks = torch.zeros(2, *boxes.shape[:2], *pixels.shape[-2:], dtype=torch.bool)
            flat, visible_prompts = masks.flatten(1, 2), given.get("input_masks")
            for place, number in enumerate(shown):
                x0, y0, x1, y1 = boxes.flatten(0, 1)[place].round().int().tolist()
                flat[0, place, y0:y1, x0 : (x0 + x1) // 2] = number not in not_found
                if visible_prompts is not None and given["mask_given"].flatten()[place]:
                    flat[0, place] = visible_prompts.flatten(0, 1)[place]
                flat[1, place] = flat[0, place]
                if number in (first if is_first else second):
                    flat[1, place, y0:y1, x0:x1] = True
            visible, amodal = torch.where(masks, 9.0, -9.0)
            return PlugOutput(
                pred_masks=amodal,
                visible_logits=visible if segmenter.model.config.visible_branch else None,
                amodal_uncertainty=uncertainty_map(amodal.sigmoid(), 3),
                iou_scores=torch.full(boxes.shape[:2], 0.5),
            )

        monkeypatch.setattr(segmenter.model, "encode", counted)
        monkeypatch.setattr(segmenter.model, "predict", predict)


def segmenter_of(mode: str = "crop", *, mask_prompts: bool = True, **settings: Any) -> AmodalSegmenter:
    return AmodalSegmenter(random_plug(mask_prompts=mask_prompts, **settings), mode=mode)


@pytest.mark.parametrize("mode", ["crop", "image"])
@pytest.mark.parametrize("with_masks", [False, True])
def test_an_occluded_part_must_be_in_both_predictions(
    mode: str, with_masks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Object 0 has none in the first prediction, object 1 in the first one only, and object 2 in both."""
    segmenter = segmenter_of(mode)
    drawn = DrawnPredictions(segmenter, monkeypatch, first=(1, 2), second=(2,))
    masks = left_halves() if with_masks else None
    scene = segmenter(IMAGE, BOXES, masks=masks)
    assert [obj.occlusion_rate for obj in scene] == [0, 0, pytest.approx(0.5, abs=0.06)]
    if masks is not None:
        for obj, mask in zip(scene, masks, strict=True):
            np.testing.assert_array_equal(obj.visible_mask, mask)
    first, second = drawn.calls
    again = (slice(None), [1, 2]) if mode == "image" else [1, 2]
    x0, y0, x1, y1 = first["input_boxes"][again].unbind(-1)
    torch.testing.assert_close(second["input_boxes"], torch.stack([64 - x1, y0, 64 - x0, y1], -1))
    assert second["mask_given"].all() and second["input_masks"].flatten(2).any(-1).all()
    if with_masks:
        assert torch.equal(second["input_masks"], first["input_masks"][again].flip(-1))
    upright, mirrored = drawn.encoded
    assert torch.equal(mirrored, (upright if mode == "image" else upright[[1, 2]]).flip(-1))


@pytest.mark.parametrize("visible_branch", [True, False])
@pytest.mark.parametrize("one_image", [True, False])
def test_outputs_of_two_predictions_are_averaged(one_image: bool, visible_branch: bool) -> None:
    """Of the objects that were predicted twice, also if the second prediction says that they are complete."""
    visible = torch.full((3, 32, 32), -8.0)
    visible[:, 4:28, 4:16] = 8
    amodal, again = visible.clone(), visible[1:].clone()
    amodal[1:, 4:28, 16:24] = 6
    again[1, 4:28, 16:30] = 2

    def grid(x: torch.Tensor) -> torch.Tensor:
        return x[None] if one_image else x[:, None]

    answers = [
        PlugOutput(
            pred_masks=grid(masks if number == 0 else masks.flip(-1)),
            visible_logits=grid(torch.full_like(masks, 1.0 + number)) if visible_branch else None,
            amodal_uncertainty=grid(torch.full_like(masks, 0.25 + number)),
            iou_scores=grid(torch.full((len(masks),), 0.5 + number)),
        )
        for number, masks in enumerate((amodal, again))
    ]
    first = {name: answers[0][name].clone() for name in AVERAGED if answers[0].get(name) is not None}

    class FixedNetwork:
        config = PlugConfig(mask_prompts=True)

        def predict(self, *_: Any, **__: Any) -> PlugOutput:
            return answers.pop(0)

    model: Any = FixedNetwork()
    nothing: Any = (None, None)
    prompt = ObjectPrompt(visible={"size": [32, 32], "counts": b""})
    output, complete = predict_twice(
        model,
        torch.zeros(1 if one_image else 3, 3, 32, 32),
        grid(torch.tensor([4.0, 4, 16, 28]).repeat(3, 1)),
        {"input_masks": grid(visible > 0), "mask_given": grid(torch.ones(3, dtype=torch.bool))},
        lambda *_: nothing,
        prompts=[prompt] * 3,
        options=MaskOptions(0.5, union_visible=True, clean=AGAIN, side=32),
    )
    assert complete.tolist() == [True, True, False] and not answers
    expected = {"pred_masks": again, "visible_logits": 2.0, "amodal_uncertainty": 1.25, "iou_scores": 1.5}
    for name, before in first.items():
        after, before = (x.flatten(0, 1) for x in (output[name], before))
        assert torch.equal(after[0], before[0])
        assert torch.equal(after[1:], (before[1:] + expected[name]) / 2)


@pytest.mark.parametrize(
    ("clean", "mask_prompts"), [(False, True), (ONCE, True), (AGAIN, False)], ids=["raw", "once", "no mask prompts"]
)
@pytest.mark.parametrize("with_masks", [False, True])
def test_one_prediction(
    clean: bool | CleanSettings, mask_prompts: bool, with_masks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = segmenter_of(mask_prompts=mask_prompts)
    drawn = DrawnPredictions(segmenter, monkeypatch, first=(0, 1, 2))
    scene = segmenter(IMAGE, BOXES, masks=left_halves() if with_masks else None, clean=clean)
    assert len(drawn.calls) == len(drawn.encoded) == 1 and all(obj.occlusion_rate > 0.4 for obj in scene)


def test_complete_objects_are_predicted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = segmenter_of()
    drawn = DrawnPredictions(segmenter, monkeypatch, first=())
    scene = segmenter(IMAGE, BOXES)
    assert len(drawn.calls) == len(drawn.encoded) == 1
    assert all(obj.visible_mask.any() and obj.occlusion_rate == 0 for obj in scene)


def test_without_visible_branch_only_given_masks_are_predicted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = segmenter_of(visible_branch=False, refine=False)
    drawn = DrawnPredictions(segmenter, monkeypatch, first=(0, 1, 2), second=(0, 1, 2))
    segmenter(IMAGE, BOXES, masks=[None, left_halves()[1], None])
    assert [call["input_boxes"].shape[0] for call in drawn.calls] == [3, 1]


def test_an_object_of_which_nothing_is_found_is_not_prompted_by_an_empty_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = segmenter_of()
    drawn = DrawnPredictions(segmenter, monkeypatch, first=(0, 1, 2), second=(0, 1, 2), not_found=(1,))
    scene = segmenter(IMAGE, BOXES)
    assert drawn.calls[1]["mask_given"].flatten().tolist() == [True, False, True]
    assert not scene[1].visible_mask.any()


def test_a_mask_that_is_too_small_for_the_input_is_no_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """In both predictions alike."""
    large, mask = np.zeros((1280, 1600, 3), np.uint8), np.zeros((1280, 1600), bool)
    mask[100, 100] = True
    segmenter = segmenter_of("image")
    drawn = DrawnPredictions(segmenter, monkeypatch, first=(0, 1), second=(0, 1))
    scene = segmenter(large, [[90, 90, 400, 400], [500, 500, 900, 900]], masks=[mask, None])
    assert not drawn.calls[0]["mask_given"].any()
    assert [call["input_boxes"].shape[1] for call in drawn.calls] == [2, 1]
    np.testing.assert_array_equal(scene[0].visible_mask, mask)


def test_pieces_of_a_given_mask_are_joined_although_the_object_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces, between = np.zeros(IMAGE.shape[:2], bool), np.zeros(IMAGE.shape[:2], bool)
    pieces[20:60, 20:40] = pieces[20:60, 44:60] = True
    between[20:60, 40:44] = True
    segmenter = segmenter_of()
    DrawnPredictions(segmenter, monkeypatch, first=(0,))
    (obj,) = segmenter(IMAGE, masks=[pieces])
    assert obj.amodal_mask[between].any() and obj.occlusion_rate < 0.2


@pytest.mark.parametrize(("max_entries", "num_encoded"), [(2, 2), (0, 6)])
def test_mirrored_crops_are_kept_too(max_entries: int, num_encoded: int, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = segmenter_of()
    segmenter.features.max_entries = max_entries
    drawn = DrawnPredictions(segmenter, monkeypatch, first=(0,), second=(0,))
    for _ in range(3):
        drawn.calls.clear()
        segmenter(IMAGE, BOXES[:1])
    assert len(drawn.encoded) == num_encoded
