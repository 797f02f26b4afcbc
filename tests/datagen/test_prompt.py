"""The request to a model: summary, image with outlines, prompt text, parsing of the reply."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amodal.cli.main import main
from amodal.datagen.prompt import (
    RejectedPair,
    describe,
    draw_outlines,
    image_url,
    make_prompt,
    parse_response,
    to_response,
)
from amodal.datagen.store.records import Draft
from amodal.datagen.store.work_folder import WorkFolder
from amodal.errors import InputError
from amodal.inference.draw import object_colour
from amodal.ops.rle import encode_mask

Works = Callable[..., WorkFolder]


def test_summary(toy_work: Works) -> None:
    work = toy_work(1)
    assert describe(work.sample(work.image(1)), work.categories()).splitlines() == [
        "Image: 32 pixels wide, 32 high. 2 objects:",
        "[1] mug; visible box (4, 4, 20, 20); whole box (4, 4, 20, 20); 25% hidden; hidden by [2]",
        "[2] book; visible box (12, 12, 28, 28); whole box (12, 12, 28, 28); fully visible; hides part of [1]",
    ]


def test_summary_says_what_is_unknown_and_what_the_frame_cuts_off(toy_work: Works) -> None:
    """Nobody is told that such an object is fully visible."""
    work = toy_work(1)
    image = work.sample(work.image(1))
    mug, book = image.objects
    cut = encode_mask(np.pad(np.ones((12, 12), bool), ((20, 0), (20, 0))))
    unknown = replace(mug, occluders=(), attributes={"amodal_unknown": True})
    edge = replace(book, visible_rle=cut, amodal_rle=cut)
    lines = describe(replace(image, objects=(unknown, edge)), work.categories()).splitlines()
    assert lines[1] == "[1] mug; visible box (4, 4, 20, 20); whole unknown"
    assert lines[2].endswith("whole box (12, 12, 28, 28); reaches beyond the image")


def test_visible_pixels_outside_the_amodal_mask_do_not_count(toy_work: Works) -> None:
    """They do not lower the occlusion rate."""
    work = toy_work(1)
    mug = work.sample(work.image(1)).objects[0]
    assert mug.occlusion_rate() == 0.25
    spilled = mug.visible_mask()
    spilled[:4] = True
    assert replace(mug, visible_rle=encode_mask(spilled)).occlusion_rate() == 0.25
    assert replace(mug, amodal_rle=None).occlusion_rate() == 0


def test_image_with_outlines(toy_work: Works) -> None:
    work = toy_work(1)
    image = work.sample(work.image(1))

    def sent(**settings: object) -> np.ndarray:
        url = image_url(image, **{"outlines": False, "max_side": 1024, **settings})
        kind, code = url.split(",")
        assert kind == "data:image/jpeg;base64"
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(code))))

    plain, drawn = sent(), sent(outlines=True)
    assert plain.shape == drawn.shape == (32, 32, 3)
    assert np.abs(plain.astype(int) - image.load()).mean() < 12, "the image, except for JPEG errors"
    assert np.abs(plain.astype(int) - drawn).mean() > 5
    assert sent(max_side=16).shape == (16, 16, 3)
    pixels = np.zeros((128, 128, 3), np.uint8)
    marked = draw_outlines(pixels, image).any(axis=2)
    assert not pixels.any(), "the given array is not changed"
    assert marked[16, 16] and marked[80, 111], "corners of both objects, at four times the size"
    assert not marked[124, 4]


def test_labels_stay_inside_the_image(toy_work: Works) -> None:
    work = toy_work(1)
    image = work.sample(work.image(1))
    mug, book = image.objects
    far = replace(book, id=704007, visible_rle=encode_mask(np.pad(np.ones((4, 2), bool), ((28, 0), (30, 0)))))
    drawn = draw_outlines(np.zeros((128, 128, 3), np.uint8), replace(image, objects=(mug, far)))
    colour = np.array(object_colour(1))
    columns = np.flatnonzero((drawn == colour).all(axis=2).any(axis=0))
    assert columns.max() <= 127 and columns.min() > 60
    label = (drawn == colour).all(axis=2)[:, columns.min()]
    assert label.sum() > 8, "both ends of the label are inside the image"


def test_prompt_states_what_went_wrong() -> None:
    first = make_prompt("SUMMARY", 10)
    assert first.user.startswith("SUMMARY\n\nWrite 10 question-answer pairs about this image.\n\nAnswer with JSON")
    rejected = [RejectedPair("Which cup?", "This {seg:1}.", "giveaway: names it")]
    again = make_prompt("SUMMARY", 3, rejected, ["Who sits there?"], "format: broken")
    assert "Write 3 question-answer pairs" in again.user
    assert "- Which cup? -> This {seg:1}. (giveaway: names it)" in again.user
    assert "ask for something else:\n- Who sits there?" in again.user
    assert "could not be used: format: broken" in again.user
    assert again.system == first.system
    with pytest.raises(InputError, match="expected a version"):
        make_prompt("", 1, version="no such")


def test_replies_are_parsed() -> None:
    drafts = [Draft("What is it?", "It is <p>that</p> {seg:3}.", ((3, 4),)), Draft("Who?", "Nobody.")]
    assert parse_response(to_response(drafts)) == drafts
    assert parse_response(f"```json\n{to_response(drafts)}\n```") == drafts
    for around in (
        '<think>So {a} or {"pairs": []}?</think>\n%s',
        "Here it is:\n```json\n%s\n```\nMore?",
        "%s Done {now}.",
    ):
        assert parse_response(around % to_response(drafts)) == drafts, around
    sketch = to_response([Draft("A sketch?", "No.")])
    assert parse_response(f"<think>{sketch}</think>{to_response(drafts)}") == drafts, "the last word counts"
    assert parse_response(f"{sketch} or rather {to_response(drafts)}") == drafts
    assert parse_response(json.dumps(json.loads(to_response(drafts))["pairs"])) == drafts, "a bare list of pairs"
    assert parse_response('{"pairs": []}', allow_none=True) == []
    messy = to_response([Draft("What \n is it?", "That\tone.")])
    assert parse_response(messy) == [Draft("What is it?", "That one.")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected JSON of the form asked for"),
        ("Sure! 1. What", "expected JSON of the form asked for"),
        ("[]", "expected pairs, got an empty list"),
        ("[3]", "expected JSON of the form asked for"),
        ('{"pairs": []}', "expected pairs, got an empty list"),
        ('{"pairs": [{"question": "q"}]}', "got pairs.0.answer: Field required"),
        ('{"pairs": [{"question": "q", "answer": "a", "occlusion": [{"front": "x", "behind": 1}]}]}', "front"),
        ('{"pairs": [{"question": "q", "answer": "a", "occlusion": []}], "more": 1}', "more: Extra inputs"),
        ("{" * 5000, "expected JSON of the form asked for"),
        ('{"pairs": [{"question": "\\ud800", "answer": "a", "occlusion": []}]}', "expected JSON"),
    ],
)
def test_malformed_replies_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_response(text)


ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("AMODAL_SAMPLE_DATA", ROOT / "data" / "photos")) / "cocoa"


@pytest.mark.skipif(not FOLDER.is_dir(), reason="no sample data")
def test_prompt_of_a_genuine_record(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["reasonseg", "prompt", "--format", "cocoa", "--annotations", str(FOLDER), "--image-id", "343254"]
    assert main(arguments) == 0
    document = (ROOT / "docs" / "reasonseg.md").read_text()
    assert document.split("````text\n")[1].split("\n````")[0] == capsys.readouterr().out.strip()
