"""Facts about the objects of one image, from masks drawn as text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from amodal.data.relations import derive_occluders
from amodal.data.samples import ImageSample, ObjectSample
from amodal.ops.rle import encode_mask, rle_box_xyxy
from amodal.questions.facts import Facts, ordinal


def draw(*layers: str, attributes: dict[str, object] | None = None) -> ImageSample:
    """An image of objects from front to back, one drawing of the amodal mask per object."""
    taken, objects = None, []
    for number, layer in enumerate(layers, 1):
        amodal = np.array([[pixel == "#" for pixel in row.strip()] for row in layer.strip().splitlines()])
        taken = np.zeros_like(amodal) if taken is None else taken
        visible, whole = encode_mask(amodal & ~taken), encode_mask(amodal)
        extra = {"depth": number - 1, "truncated": False} if attributes is None else attributes
        objects.append(
            ObjectSample(number, number, visible, whole, rle_box_xyxy(visible), rle_box_xyxy(whole), attributes=extra)
        )
        taken = taken | amodal
    height, width = objects[0].visible_rle["size"]
    return derive_occluders(ImageSample(1, Path("drawn.png"), height, width, tuple(objects)))


def row(count: int) -> ImageSample:
    """An image of single pixels from left to right."""
    return draw(*("." * (2 * i) + "#" + "." * (2 * (count - i)) for i in range(count)))


@pytest.mark.parametrize(
    ("count", "names"),
    [
        (1, ["the mug"]),
        (2, ["the left mug", "the right mug"]),
        (3, ["the left mug", "the middle mug", "the right mug"]),
        (4, [f"the {place} mug from the left" for place in ("first", "second", "third", "fourth")]),
    ],
)
def test_names_distinguish_objects_of_a_kind(count: int, names: list[str]) -> None:
    assert Facts(row(count), dict.fromkeys(range(1, count + 1), "mug")).names == names


def test_names_of_many_objects_and_of_unknown_categories() -> None:
    facts = Facts(row(11), {1: "espresso_cup"})
    assert facts.names[0] == "the espresso cup"
    assert facts.names[1] == "the first object from the left"
    mugs = Facts(row(11), dict.fromkeys(range(1, 12), "mug"))
    assert mugs.names[9:] == ["the tenth mug from the left", "the 11th mug from the left"]
    assert [ordinal(n) for n in (1, 10, 11, 12, 13, 21, 22, 23, 101, 111)] == [
        "first", "tenth", "11th", "12th", "13th", "21st", "22nd", "23rd", "101st", "111th",
    ]  # fmt: skip


def stacked(offset: int) -> ImageSample:
    """Two objects, one above the other, `offset` columns apart."""
    upper = [list("." * 40) for _ in range(40)]
    lower = [list("." * 40) for _ in range(40)]
    upper[5][10], lower[30][10 + offset] = "#", "#"
    return draw(*("\n".join("".join(row) for row in drawing) for drawing in (lower, upper)))


def test_names_of_objects_one_above_the_other() -> None:
    mugs = {1: "mug", 2: "mug"}
    assert Facts(stacked(1), mugs).names == ["the right mug", "the left mug"]
    assert not Facts(stacked(1), mugs).is_distinct(0), "hardly further to the right"
    assert Facts(stacked(1), mugs, stacked_names=True).names == ["the lower mug", "the upper mug"]
    assert Facts(stacked(1), mugs, stacked_names=True).is_distinct(0)
    assert Facts(stacked(20), mugs, stacked_names=True).names == ["the right mug", "the left mug"]


def test_what_is_known_of_the_whole() -> None:
    inside = "......\n.####.\n.####.\n......"
    touching = "......\n####..\n####..\n......"
    known = Facts(draw(inside, touching, attributes={}), {})
    assert [known.is_known(i) for i in (0, 1)] == [True, True]
    assert known.is_full(0) and not known.is_full(1), "more of the second may lie beyond the border"
    assert [known.touches_border(i) for i in (0, 1)] == [False, True]
    unknown = Facts(draw(inside, attributes={"amodal_unknown": True}), {})
    assert not unknown.is_known(0) and not unknown.is_full(0) and not unknown.is_clearly_hidden(0)
    stated = Facts(draw(inside, attributes={"truncated": True}), {})
    assert stated.touches_border(0) and not stated.is_full(0)
    assert not stated.reaches_beyond(0), "no edge of it touches the border"
    tall = "\n".join(["#..."] * 9)
    assert Facts(draw(tall, attributes={}), {}).reaches_beyond(0)
    assert not Facts(draw(tall, attributes={"truncated": False}), {}).reaches_beyond(0)


def test_objects_are_listed_from_left_to_right() -> None:
    facts = Facts(row(3), {1: "mug", 2: "ball", 3: "key"})
    assert facts.listing([]) == ""
    assert facts.listing([1]) == "<p>the ball</p> {seg:2}"
    assert facts.listing([2, 0]) == "<p>the mug</p> {seg:1} and <p>the key</p> {seg:3}"
    assert facts.listing([2, 1, 0], by_name=True) == "the mug, the ball and the key"


COVERED = """
    ##..........
    ##..........
"""
BEHIND = """
    .#########..
    .#########..
"""


def test_occluders_rates_and_areas() -> None:
    facts = Facts(draw(COVERED, BEHIND), {1: "mug", 2: "ball"})
    assert facts.in_front_of(1) == [0] and facts.behind(0) == [1]
    assert facts.in_front_of(0) == [] and facts.behind(1) == []
    assert facts.areas.tolist() == [4, 18]
    assert facts.rates.tolist() == [0, pytest.approx(2 / 18)]
    assert facts.occluded() == facts.clearly_occluded() == [1]
    assert facts.cover.tolist() == [[0, 1], [0, 0]]
    assert facts.revealed_without(0) == [1] and facts.revealed_without(1) == []


def test_a_sliver_puts_occluders_in_doubt() -> None:
    large = "#" * 30 + "." * 30
    speck = "." * 30 + "#" + "." * 29
    behind = "#" * 60
    facts = Facts(draw(large, speck, behind), {1: "mug", 2: "ball", 3: "table"})
    assert facts.cover[1, 2] == pytest.approx(1 / 31)
    assert facts.in_front_of(2) == [0]
    assert facts.clearly_in_front_of(2) is None and facts.clearly_behind(1) is None
    assert facts.clearly_in_front_of(0) == [] and facts.clearly_behind(0) == [2]


def test_a_small_rate_puts_occlusion_in_doubt() -> None:
    facts = Facts(draw("#" + "." * 49, "#" * 50), {1: "mug", 2: "table"})
    assert facts.occluded() == [1]
    assert facts.clearly_occluded() is None and facts.revealed_without(0) is None


def test_what_the_annotation_does_not_state_is_unknown() -> None:
    facts = Facts(draw(COVERED, BEHIND, attributes={}), {1: "mug", 2: "ball"})
    assert facts.revealed_without(0) is None and facts.cut_by_border() is None


@pytest.mark.parametrize(
    ("truncated", "cut"),
    [(True, [0]), (False, None)],  # it touches the border, so the statement that it is not cut off is doubtful
)
def test_objects_cut_by_the_border(truncated: bool, cut: list[int] | None) -> None:
    tall = "\n".join(["#..."] * 9)
    assert Facts(draw(tall, attributes={"truncated": truncated}), {1: "mug"}).cut_by_border() == cut


def test_places_and_distances() -> None:
    layers = ("#......../........./.........", "........./....#..../.........", "........./........./.......#.")
    facts = Facts(draw(*(layer.replace("/", "\n") for layer in layers)), {})
    assert [facts.place(i, range(3)) for i in range(3)] == [
        "at the upper left",
        "in the very middle",
        "at the lower right",
    ]
    assert facts.distance(1, 0.0, 0.0) == np.hypot(1, 4)
    close = Facts(row(3), {})
    assert close.place(1, [0, 1]) == "in the very middle"
    assert close.place(1, range(3)) is None, "another object reaches into the middle"


def test_the_largest_must_lead_clearly() -> None:
    facts = Facts(row(3), {})
    values = np.array([1.0, 5.0, 4.5])
    assert facts.largest(values, margin=0.5) == 1
    assert facts.largest(values, margin=0.6) is None
    assert facts.largest(values, [0, 2], margin=0.6) == 2
