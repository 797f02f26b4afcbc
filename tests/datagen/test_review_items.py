"""The editable form of answers: conversion there and back loses nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amodal.datagen.review.items import from_editable, reason_for_people, to_editable
from amodal.errors import InputError

IDS = [11, 205, 7]


@pytest.mark.parametrize(
    ("answer", "short"),
    [
        ("Use <p>the mug</p> {seg:205}, please.", "Use [the mug #2], please."),
        ("<p>Two mugs</p> {seg:11} {seg:7} and {seg:205}.", "[Two mugs #1 #3] and [#2]."),
        ("Nothing here.", "Nothing here."),
        ("A list [of things] and room #5.", "A list [of things] and room #5."),
        ("<p>mug [blue]</p> {seg:7}", "<p>mug [blue]</p> {seg:7}"),
        ("[<p>#1]</p> {seg:11}", "[<p>#1]</p> {seg:11}"),
        ("<p>[#1]</p> {seg:7}", "<p>[#1]</p> {seg:7}"),
        ("<p>an elsewhere</p> {seg:99}", "<p>an elsewhere</p> {seg:99}"),
        ("<script>alert(1)</script> <p>it</p> {seg:7}", "<script>alert(1)</script> [it #3]"),
    ],
)
def test_conversion_there_and_back(answer: str, short: str) -> None:
    assert to_editable(answer, IDS) == short
    assert from_editable(short, IDS) == answer


def test_reasons_use_the_numbers_of_the_page() -> None:
    reason = "expected what the masks show, got that [205] hides part of [7], not [99], in '[a] <p>it</p> {seg:11}'"
    expected = "expected what the masks show, got that #2 hides part of #3, not [99], in '[a] [it #1]'"
    assert reason_for_people(reason, IDS) == expected


@given(
    st.lists(
        st.tuples(
            st.text("abc <>[]#{}1", max_size=8),
            st.none() | st.text("abc []#12", max_size=6),
            st.lists(st.sampled_from([*IDS, 99]), min_size=1, max_size=3),
        ),
        max_size=4,
    )
)
def test_no_mention_is_lost(parts: list[tuple[str, str | None, list[int]]]) -> None:
    """Only white space may differ; the words between mentions must not look like the editable form."""
    text = ""
    for between, words, ids in parts:
        text += between.replace("#", "").replace("{", "").replace("}", "").replace("<", "")
        text += (f"<p>{words}</p> " if words is not None and words.strip() else "") + " ".join(
            f"{{seg:{i}}}" for i in ids
        )
    back = from_editable(to_editable(text, IDS), IDS)
    assert back.replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("number", [0, 4, 123456789])
def test_numbers_without_an_object(number: int) -> None:
    with pytest.raises(InputError, match=f"answer: expected objects #1 to #3, got #{number}"):
        from_editable(f"It is [the mug #{number}].", IDS)


def test_long_hostile_text_is_fast() -> None:
    for text in ("[" * 50_000, "[a " * 20_000, "[" + "#1 " * 20_000, "<p>" * 20_000, "[" + " " * 50_000 + "#"):
        assert from_editable(text, IDS) == " ".join(text.split())
        to_editable(text, IDS)


def test_spaces_before_numbers_are_optional() -> None:
    assert (
        from_editable("[mugs#1#3] [ #2 ] [C# #2]", IDS) == "<p>mugs</p> {seg:11} {seg:7} {seg:205} <p>C#</p> {seg:205}"
    )
