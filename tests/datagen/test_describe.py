"""What a model is told and shown."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from amodal.datagen.describe import describe, draw_outlines, hidden_share, picture_url
from amodal.datagen.prompt import Rejected, make_prompt, parse_response, to_response
from amodal.datagen.store.manifest import Manifest
from amodal.datagen.store.records import Draft
from amodal.errors import InputError
from amodal.inference.draw import object_colour
from amodal.ops.rle import encode_mask

Works = Callable[..., Manifest]


def test_summary(toy_work: Works) -> None:
    work = toy_work(1)
    assert describe(work.sample(work.image(1)), work.categories()).splitlines() == [
        "Picture: 32 pixels wide, 32 high. 2 objects:",
        "[1] mug; visible box (4, 4, 20, 20); whole box (4, 4, 20, 20); 25% hidden; hidden by [2]",
        "[2] book; visible box (12, 12, 28, 28); whole box (12, 12, 28, 28); fully visible; hides part of [1]",
    ]


def test_what_spills_over_hides_nothing(toy_work: Works) -> None:
    """Pixels seen outside the whole do not make up for those of it that are hidden."""
    work = toy_work(1)
    mug = work.sample(work.image(1)).objects[0]
    assert hidden_share(mug) == 0.25
    seen = mug.visible_mask()
    seen[:4] = True
    assert hidden_share(replace(mug, visible_rle=encode_mask(seen))) == 0.25
    assert hidden_share(replace(mug, amodal_rle=None)) == 0


def test_picture_with_outlines(toy_work: Works) -> None:
    work = toy_work(1)
    image = work.sample(work.image(1))

    def sent(**settings: object) -> np.ndarray:
        url = picture_url(image, **{"outlines": False, "max_side": 1024, **settings})
        kind, code = url.split(",")
        assert kind == "data:image/jpeg;base64"
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(code))))

    plain, drawn = sent(), sent(outlines=True)
    assert plain.shape == drawn.shape == (32, 32, 3)
    assert np.abs(plain.astype(int) - image.load()).mean() < 12, "the picture, but for JPEG"
    assert np.abs(plain.astype(int) - drawn).mean() > 5
    assert sent(max_side=16).shape == (16, 16, 3)
    pixels = np.zeros((128, 128, 3), np.uint8)
    marked = draw_outlines(pixels, image).any(axis=2)
    assert not pixels.any(), "the picture given is left alone"
    assert marked[16, 16] and marked[80, 111], "corners of both objects, at four times the size"
    assert not marked[124, 4]


def test_labels_stay_inside(toy_work: Works) -> None:
    work = toy_work(1)
    image = work.sample(work.image(1))
    mug, book = image.objects
    far = replace(book, id=704007, visible_rle=encode_mask(np.pad(np.ones((4, 2), bool), ((28, 0), (30, 0)))))
    drawn = draw_outlines(np.zeros((128, 128, 3), np.uint8), replace(image, objects=(mug, far)))
    colour = np.array(object_colour(1))
    columns = np.flatnonzero((drawn == colour).all(axis=2).any(axis=0))
    assert columns.max() <= 127 and columns.min() > 60
    label = (drawn == colour).all(axis=2)[:, columns.min()]
    assert label.sum() > 8, "its left end is in the picture, as its right end is"


def test_prompt_tells_what_went_wrong() -> None:
    first = make_prompt("SUMMARY", 10)
    assert first.user.startswith("SUMMARY\n\nWrite 10 question-answer pairs about this picture.\n\nAnswer with JSON")
    rejected = [Rejected("Which cup?", "This {seg:1}.", "giveaway: names it")]
    again = make_prompt("SUMMARY", 3, rejected, ["Who sits there?"], "format: broken")
    assert "Write 3 question-answer pairs" in again.user
    assert "- Which cup? -> This {seg:1}. (giveaway: names it)" in again.user
    assert "ask for something else:\n- Who sits there?" in again.user
    assert "could not be used: format: broken" in again.user
    assert again.system == first.system
    with pytest.raises(InputError, match="expected a version"):
        make_prompt("", 1, version="no such")


def test_answers_are_read_back() -> None:
    drafts = [Draft("What is it?", "It is <p>that</p> {seg:3}.", ((3, 4),)), Draft("Who?", "Nobody.")]
    assert parse_response(to_response(drafts)) == drafts
    assert parse_response(f"```json\n{to_response(drafts)}\n```") == drafts
    messy = to_response([Draft("What \n is it?", "That\tone.")])
    assert parse_response(messy) == [Draft("What is it?", "That one.")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected JSON of the form asked for"),
        ("Sure! 1. What", "expected JSON of the form asked for"),
        ("[]", "expected JSON of the form asked for"),
        ('{"pairs": []}', "expected pairs, got an empty list"),
        ('{"pairs": [{"question": "q"}]}', "got pairs.0.answer: Field required"),
        ('{"pairs": [{"question": "q", "answer": "a", "occlusion": [{"front": "x", "behind": 1}]}]}', "front"),
        ('{"pairs": [{"question": "q", "answer": "a", "occlusion": []}], "more": 1}', "more: Extra inputs"),
        ("{" * 5000, "expected JSON of the form asked for"),
        ('{"pairs": [{"question": "\\ud800", "answer": "a", "occlusion": []}]}', "expected JSON"),
    ],
)
def test_answers_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_response(text)
