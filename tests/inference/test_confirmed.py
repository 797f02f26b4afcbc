"""Objects that the network calls occluded are asked about again, with its own visible masks as prompts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from amodal import AmodalSegmenter
from amodal.models.plug import PlugOutput
from amodal.ops.boxes import mask_to_box
from amodal.ops.cleaning import CleanSettings
from amodal.synthetic.scenes import SyntheticImage, render_scene
from tests.models.conftest import random_plug

ONCE = CleanSettings(min_confirmed=0)
AGAIN = CleanSettings()


@pytest.fixture(scope="module")
def drawn() -> SyntheticImage:
    return render_scene(40_001)


class Recorded:
    """Counts the calls of a segmenter's model; what it answers to masks can be replaced."""

    def __init__(self, segmenter: AmodalSegmenter, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prompts: list[dict[str, torch.Tensor]] = []
        self.num_encoded = 0
        self.hidden: float | None = None
        """Amodal logit of all pixels in answers to masks of the network's own; None for its own answer."""
        self.first: dict[str, tuple[int, float]] = {}
        """Name of an output to (object, logit of all its pixels) in first answers."""
        encode, predict = segmenter.model.encode, segmenter.model.predict

        def counted(*args: Any) -> Any:
            self.num_encoded += 1
            return encode(*args)

        def recorded(*args: Any, **given: torch.Tensor) -> PlugOutput:
            output: PlugOutput = predict(*args, **given)
            self.prompts.append(given)
            if self.hidden is not None and len(self.prompts) % 2 == 0:
                return replace(output, pred_masks=torch.full_like(output.pred_masks, self.hidden))
            if len(self.prompts) == 1:
                for kind, (index, logit) in self.first.items():
                    getattr(output, kind)[index] = logit
            return output

        monkeypatch.setattr(segmenter.model, "encode", counted)
        monkeypatch.setattr(segmenter.model, "predict", recorded)


def segmenter_of(name: str, mode: str = "crop") -> AmodalSegmenter:
    return AmodalSegmenter.from_pretrained(name, device="cpu", dtype="float32", mode=mode)


def boxes_of(drawn: SyntheticImage) -> np.ndarray:
    return np.array([mask_to_box(shape.visible_mask) for shape in drawn.objects])


@pytest.mark.parametrize("mode", ["crop", "image"])
def test_an_object_without_a_hidden_part_in_the_second_answer_is_complete(
    drawn: SyntheticImage, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter, boxes = segmenter_of("plug-small", mode), boxes_of(drawn)
    once = segmenter(drawn.image, boxes, clean=ONCE)
    assert any(obj.occlusion_rate > ONCE.min_occlusion for obj in once)
    recorded = Recorded(segmenter, monkeypatch)
    recorded.hidden = -9.0
    complete = segmenter(drawn.image, boxes, clean=AGAIN)
    assert len(recorded.prompts) == 2 and recorded.num_encoded == 1
    assert all(obj.occlusion_rate == 0 for obj in complete), "also of a visible mask in pieces"
    for one, other in zip(once, complete, strict=True):
        assert not (other.visible_mask & ~one.visible_mask).any()
    recorded.hidden = 9.0
    confirmed = segmenter(drawn.image, boxes, clean=AGAIN)
    for one, other in zip(once, confirmed, strict=True):
        if 0 < one.occlusion_rate < ONCE.min_occlusion:  # complete at once, but for a bridge between its pieces
            np.testing.assert_array_equal(other.amodal_mask, one.visible_mask)
        else:
            np.testing.assert_array_equal(other.amodal_mask, one.amodal_mask)


def test_the_second_prompt_is_the_networks_own_visible_mask(
    drawn: SyntheticImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = segmenter_of("plug-small")
    recorded = Recorded(segmenter, monkeypatch)
    masks = [drawn.objects[0].visible_mask, None, None]
    segmenter(drawn.image, [None, *boxes_of(drawn)[1:3].tolist()], masks=masks, clean=AGAIN)
    first, second = recorded.prompts
    assert first["mask_given"].flatten().tolist() == [True, False, False]
    assert second["mask_given"].flatten().tolist() == [True, True, True]
    assert torch.equal(second["input_masks"][0], first["input_masks"][0]), "a given mask stays as it is"
    assert second["input_masks"][1:].flatten(1).any(1).all()


@pytest.mark.parametrize(
    ("name", "with_masks", "clean"),
    [
        ("plug-small", False, False),
        ("plug-small", False, ONCE),
        ("plug-small", True, AGAIN),
        ("random", False, AGAIN),
    ],
)
def test_the_network_runs_once_where_a_second_answer_is_not_needed(
    drawn: SyntheticImage,
    name: str,
    with_masks: bool,
    clean: bool | CleanSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Raw masks, `min_confirmed` 0, given masks, and a model that takes no masks."""
    segmenter = AmodalSegmenter(random_plug()) if name == "random" else segmenter_of(name)
    recorded = Recorded(segmenter, monkeypatch)
    masks = [shape.visible_mask for shape in drawn.objects]
    prompts: dict[str, Any] = {"masks": masks} if with_masks else {"boxes_xyxy": boxes_of(drawn)}
    segmenter(drawn.image, **prompts, clean=clean)
    assert len(recorded.prompts) == 1


def test_objects_that_are_complete_in_the_first_answer_are_not_asked_about_again(
    drawn: SyntheticImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = segmenter_of("plug-small")
    recorded = Recorded(segmenter, monkeypatch)
    recorded.first = {"pred_masks": (0, -9.0)}
    (complete,) = segmenter(drawn.image, boxes_of(drawn)[:1], clean=AGAIN)
    assert len(recorded.prompts) == 1 and recorded.num_encoded == 1
    assert complete.visible_mask.any() and complete.occlusion_rate == 0


def test_an_object_of_which_nothing_is_found_is_not_prompted_by_an_empty_mask(
    drawn: SyntheticImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = segmenter_of("plug-small")
    recorded = Recorded(segmenter, monkeypatch)
    recorded.first = {"visible_logits": (1, -9.0), "pred_masks": (1, 9.0)}
    found = segmenter(drawn.image, boxes_of(drawn)[:3], clean=AGAIN)
    assert recorded.prompts[1]["mask_given"].flatten().tolist() == [True, False, True]
    assert not found[1].visible_mask.any()
    assert not any(obj.visible_mask.any() for obj in segmenter(drawn.image, boxes_of(drawn)[:1], threshold=1 - 1e-7))
