"""What sentences claim about the masks: one table of kinds, each with true and false examples."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from amodal.data.relations import derive_occluders
from amodal.data.samples import ImageSample, ObjectSample
from amodal.datagen.claim_kinds import CLAIM_KINDS
from amodal.datagen.claims import judge_claims
from amodal.datagen.rules import RuleContext, check_pair
from amodal.datagen.store.records import Draft
from amodal.ops.rle import encode_mask, rle_box_xyxy
from amodal.questions.facts import Facts

NAMES = {1: "mug", 2: "book", 3: "lamp", 4: "ball", 5: "chair", 6: "cat"}
MUG, BOOK, LAMP, BALL, CHAIR, CAT = (
    f"<p>the {name}</p> {{seg:{10 * number}}}" for number, name in NAMES.items()
)  # fmt: skip


def box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((100, 200), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def scene() -> ImageSample:
    """The mug hides half of the book, the book a tenth of the lamp; the chair leaves the image on the right.

    From left to right: mug, book, lamp, ball, chair. Nothing is known of the whole of the cat below the lamp.
    """
    wholes = [
        box(10, 40, 40, 80), box(25, 40, 55, 80), box(52, 10, 82, 90), box(110, 45, 130, 65), box(160, 5, 200, 95),
        box(90, 75, 104, 97),
    ]  # fmt: skip
    objects, taken = [], np.zeros((100, 200), bool)
    for number, whole in enumerate(wholes, 1):
        visible = encode_mask(whole & ~taken)
        amodal = None if number == 6 else encode_mask(whole)
        boxes = rle_box_xyxy(visible), None if amodal is None else rle_box_xyxy(amodal)
        attributes = {} if number == 6 else {"truncated": number == 5}
        objects.append(ObjectSample(10 * number, number, visible, amodal, *boxes, attributes=attributes))
        taken |= whole
    return derive_occluders(ImageSample(1, Path("scene.png"), 100, 200, tuple(objects)))


SCENE = scene()
KNOWN = replace(SCENE, objects=SCENE.objects[:5])
FACTS, ALL_FACTS = Facts(KNOWN, NAMES), Facts(SCENE, NAMES)

# Kind of claim, a sentence that is true of the scene, and its twin that is false.
TWINS = [
    ("in front", f"As I see it, {MUG} hides part of {BOOK}.", f"As I see it, {BOOK} hides part of {MUG}."),
    ("in front", f"You need {BOOK}, which {MUG} partly covers.", f"You need {MUG}, which {BOOK} partly covers."),
    ("in front", f"{MUG} stands in front of {BOOK}.", f"{MUG} stands in front of {LAMP}."),
    ("in front", f"{LAMP} does not cover {BOOK}.", f"{MUG} does not cover {BOOK}."),
    ("behind", f"{BOOK} is partly hidden behind {MUG}.", f"{BALL} is partly hidden behind {MUG}."),
    ("behind", f"Behind {BOOK} is {LAMP}.", f"Behind {LAMP} is {BOOK}."),
    ("behind", f"{LAMP} is not behind {MUG}.", f"{LAMP} is not behind {BOOK}."),
    ("full", f"{MUG} is fully visible.", f"{BOOK} is fully visible."),
    ("full", f"{MUG} and {BALL} are fully visible.", f"{MUG} and {CHAIR} are fully visible."),
    ("full", f"All of {BALL} can be seen.", f"All of {CHAIR} can be seen."),
    ("full", f"{BOOK} is not fully visible.", f"{MUG} is not fully visible."),
    ("hidden", f"{BOOK} is partly hidden.", f"{MUG} is partly hidden."),
    ("hidden", f"Part of {LAMP} is out of sight.", f"Part of {BALL} is out of sight."),
    ("hidden", f"{BALL} is not hidden.", f"{BOOK} is not hidden."),
    ("nothing in front", f"Nothing hides {CHAIR}.", f"Nothing hides {BOOK}."),
    ("nothing behind", f"Nothing is behind {LAMP}.", f"Nothing is behind {MUG}."),
    ("hides something", f"{MUG} hides part of something.", f"{BALL} hides part of something."),
    ("amount hidden", f"{BOOK} is half hidden.", f"{LAMP} is half hidden."),
    ("amount hidden", f"About 50% of {BOOK} is hidden.", f"About 90% of {BOOK} is hidden."),
    ("amount visible", f"Most of {LAMP} can be seen.", f"Only a third of {LAMP} can be seen."),
    ("count", f"Two objects are partly hidden, {BOOK} and {LAMP}.", f"Three objects are hidden, such as {BOOK}."),
    ("count in front", f"One object hides {BOOK}.", f"Two objects hide {BOOK}."),
    ("count behind", f"{MUG} hides one other object.", f"{MUG} hides three other objects."),
    ("count of a kind", f"There is one lamp, {LAMP}, in here.", f"There are two lamps, like {LAMP}, in here."),
    ("only", f"{CHAIR} is the only object that reaches beyond the image.", f"{BOOK} is the only one that is hidden."),
    ("only", f"Only {MUG} hides {BOOK}.", f"Only {BALL} hides {BOOK}."),
    ("side of", f"{MUG} is to the left of {BALL}.", f"{MUG} is to the right of {BALL}."),
    ("side of", f"{BALL} is right of {LAMP}.", f"{LAMP} is right of {BALL}."),
    ("at", f"{MUG} stands on the left side of the image.", f"{MUG} stands on the right side of the image."),
    ("at", f"{MUG} faces {BALL} in the centre.", f"{MUG} faces {CHAIR} in the centre."),
    ("at", f"{CHAIR} is at the right.", f"{CHAIR} is at the left."),
    ("in half", f"All that can be seen of {MUG} lies in the left half.", f"{MUG} lies entirely in the right half."),
    ("between", f"{LAMP} stands between {MUG} and {BALL}.", f"{MUG} stands between {BOOK} and {BALL}."),
    ("beyond", f"{CHAIR} reaches beyond the edge of the image.", f"{BALL} reaches beyond the edge of the image."),
    (
        "order",
        f"First {MUG}, then {LAMP}, because they follow each other from left to right.",
        f"First {LAMP}, then {MUG}, because they follow each other from left to right.",
    ),
    (
        "ends",
        f"{MUG} and {CHAIR}, because they are at the two ends of the row.",
        f"{MUG} and {BALL}, because they are at the two ends of the row.",
    ),
    (
        "distance",
        f"{MUG} and {CHAIR}, because no two centres are farther apart.",
        f"{MUG} and {BALL}, because no two centres are farther apart.",
    ),
    (
        "middle of the row",
        f"{LAMP}, because as many stand to the left of it as to the right.",
        f"{BOOK}, because as many stand to the left of it as to the right.",
    ),
    (
        "superlative",
        f"{BOOK}, because it is hidden more than anything else.",
        f"{LAMP}, because it is hidden more than anything else.",
    ),
    (
        "superlative",
        f"{CHAIR}, because it fills more of the image than anything else, and next comes {LAMP}.",
        f"{CHAIR}, because it fills more of the image than anything else, and next comes {MUG}.",
    ),
    (
        "superlative",
        f"{MUG}, because it hides more of the other objects than anything else.",
        f"{BOOK}, because it hides more of the other objects than anything else.",
    ),
    ("superlative", f"{BOOK} is the most hidden of all.", f"{BALL} is the most hidden of all."),
    ("comparison", f"More of {BOOK} is hidden than of {LAMP}.", f"More of {LAMP} is hidden than of {BOOK}."),
    ("comparison", f"{LAMP} is larger than {BALL}.", f"{BALL} is larger than {LAMP}."),
]  # fmt: skip


def verdicts(answer: str, facts: Facts = FACTS) -> set[tuple[str, str]]:
    return {(one.kind, one.verdict) for one in judge_claims(answer, facts)}


@pytest.mark.parametrize(("kind", "true", "false"), TWINS)
def test_true_sentences_pass_and_their_false_twins_fail(kind: str, true: str, false: str) -> None:
    assert verdicts(true) == {(kind, "true")}
    assert (kind, "false") in verdicts(false)
    assert "unclear" not in {verdict for _, verdict in verdicts(false)}


def test_every_kind_of_claim_has_twins() -> None:
    assert {kind for kind, _, _ in TWINS} == CLAIM_KINDS.keys() - {"nothing hidden"}
    assert len(CLAIM_KINDS) >= 20
    free = Facts(replace(KNOWN, objects=[KNOWN.objects[0], KNOWN.objects[3]]), NAMES)
    assert verdicts(f"Nothing here is hidden, take {MUG}.", free) == {("nothing hidden", "true")}
    assert verdicts(f"Nothing here is hidden, take {MUG}.") == {("nothing hidden", "false")}


def test_planted_false_sentences_fail_the_check_and_their_twins_pass() -> None:
    """The same sentences through all rules, as pairs."""
    context = RuleContext(KNOWN, NAMES)
    question = "What would somebody notice about this place?"
    for kind, true, false in TWINS:
        passed = check_pair(Draft(question, f"I would say that: {true}"), context)
        failed = check_pair(Draft(question, f"I would say that: {false}"), context)
        assert [str(found) for found in passed] == [], kind
        assert [found.rule for found in failed] == ["claims"], (kind, failed)


@pytest.mark.parametrize(
    "claim",
    [
        f"{CAT} is fully visible.",
        f"{CAT} is partly hidden.",
        f"{CAT} is half hidden.",
        f"Nothing hides {CAT}.",
        f"{LAMP} stands in front of {CAT}.",
        f"{CAT} is not hidden.",
        f"Most of {CAT} can be seen.",
        f"{CHAIR}, because it has a larger whole outline than anything else.",
        f"Only {MUG} hides {BOOK}.",
        f"Nothing is hidden behind {BALL}.",
    ],
)
def test_nothing_is_said_about_a_whole_that_is_unknown(claim: str) -> None:
    assert "false" in {verdict for _, verdict in verdicts(claim, ALL_FACTS)}


def test_objects_that_the_frame_cuts_off_are_never_full_and_have_no_amounts() -> None:
    assert verdicts(f"{CHAIR} is fully visible.") == {("full", "false")}
    assert verdicts(f"All of {CHAIR} can be seen.") == {("full", "false")}
    assert verdicts(f"Half of {CHAIR} is hidden.") == {("amount hidden", "false")}
    assert verdicts(f"{CHAIR} is cut off by the edge.") == {("beyond", "true")}
    touching = Facts(replace(KNOWN, objects=[replace(KNOWN.objects[4], attributes={})]), NAMES)
    assert verdicts(f"{CHAIR} is fully visible.", touching) == {("full", "false")}, "the masks alone tell it"


@pytest.mark.parametrize(
    "sentence",
    [
        f"Without {MUG} one would see {BOOK} better from the left.",
        f"{MUG} hides almost as much as the light.",
        f"{LAMP} peeps out behind all the clutter.",
        f"{BALL} would be hidden if someone moved {MUG}.",
        f"You would never guess how little of {LAMP} is left visible.",
        f"Not every part of {BOOK} is in view.",
        f"If {MUG} were gone, {BOOK} is fully visible.",
        f"{LAMP} is partly hidden until {BOOK} is taken away.",
        f"Neither {MUG} nor {BOOK} is partly hidden.",
        f"No part of {BOOK} is hidden.",
        f"Not all of {BALL} can be seen.",
        f"It is not true that {MUG} hides {BOOK}.",
        f"{BOOK} is hidden neither by {MUG} nor by {BALL}.",
        f"{BOOK} is half hidden by {BALL}.",
        f"Not more of {BOOK} is hidden than of {LAMP}.",
        f"Not only {MUG} hides {BOOK}.",
        f"{BALL} instead of {MUG} hides {BOOK}.",
        f"{MUG} and {CHAIR} are not at the two ends of the row.",
        f"First {MUG}, then {LAMP}, as they don't follow each other from left to right.",
        f"First {MUG}, then {LAMP}, because they follow each other from left to left.",
        f"{LAMP}, because twice as many stand to the left of it as to the right.",
        f"{MUG} lies under {BOOK}.",
        f"{BALL} cannot be seen.",
        f"{MUG} is in the background.",
        f"{BALL} is right beside {MUG}.",
        f"{BALL} is as large as {LAMP}.",
        f"{MUG} is higher than {LAMP}.",
        f"{MUG} faces the ball in the centre.",
        f"{MUG} faces the ball in the middle of the picture.",
        f"{MUG} and {CHAIR} are centred.",
        f"{CHAIR} is the central one.",
        f"{BALL} rolls towards the center.",
    ],
)
def test_what_no_pattern_reads_is_for_people(sentence: str) -> None:
    assert "unclear" in {verdict for _, verdict in verdicts(sentence)}
    draft = Draft("What would somebody notice about this place?", f"I think so. {sentence}")
    assert "unclear" in {found.rule for found in check_pair(draft, RuleContext(KNOWN, NAMES))}


@pytest.mark.parametrize(
    "sentence",
    [
        f"You could drink from {MUG} while you read {BOOK}.",
        f"{CHAIR} would do, because it has a seat and a backrest.",
        f"The friends could throw {BALL} to each other all day long.",
    ],
)
def test_sentences_without_claims_pass(sentence: str) -> None:
    assert verdicts(sentence) == set()


@pytest.mark.parametrize(
    ("sentence", "kinds"),
    [
        (f"You could not read {BOOK}, because {MUG} covers part of it.", {"in front"}),
        (f"You could not read {BOOK} because {MUG} covers part of it.", {"in front"}),
        (f"{BALL} is not hidden and {MUG} stands in front of {BOOK}.", {"hidden", "in front"}),
        (f"Not {BALL} but {MUG} hides {BOOK}.", {"in front"}),
    ],
)
def test_negations_of_another_clause_change_nothing(sentence: str, kinds: set[str]) -> None:
    assert verdicts(sentence) == {(kind, "true") for kind in kinds}


def test_pronouns_stand_for_objects_that_were_mentioned_before() -> None:
    assert verdicts(f"Take {BOOK}, because {MUG} stands in front of it.") == {("in front", "true")}
    assert verdicts(f"Take {LAMP}, because {MUG} stands in front of it.") == {("in front", "false")}
    assert verdicts(f"{BOOK} and {LAMP} come to mind. They are partly hidden.") == {("hidden", "true")}
    assert verdicts(f"{BOOK} or {BALL} would do. It is partly hidden.") == {("hidden", "unclear")}
    assert verdicts(f"I like {MUG}, yet {BOOK} less, as it is partly hidden.") == {("hidden", "unclear")}


def test_a_list_ends_where_the_next_clause_begins() -> None:
    assert verdicts(f"{MUG} stands in front of {BOOK}, and {BALL} is fully visible.") == {
        ("in front", "true"),
        ("full", "true"),
    }


@pytest.mark.parametrize(
    ("phrase", "number", "verdict"),
    [
        ("the mug on the left", 10, "true"),
        ("the mug on the right", 10, "false"),
        ("the chair at the right", 50, "true"),
        ("the partly hidden book", 20, "true"),
        ("the partly hidden ball", 40, "false"),
        ("the mug behind everything", 10, "unclear"),
        ("two mugs", 10, "false"),
        ("the ball in the centre", 40, "true"),
        ("the ball in the center of the picture", 40, "true"),
        ("the central ball", 40, "true"),
        ("the chair in the centre", 50, "false"),
        ("the central chair", 50, "false"),
    ],
)
def test_phrases_are_claims_too(phrase: str, number: int, verdict: str) -> None:
    found = verdicts(f"Take <p>{phrase}</p> {{seg:{number}}} with you.")
    assert {one for _, one in found} == {verdict}, found


def test_order_within_a_kind() -> None:
    balls = Facts(KNOWN, dict.fromkeys(NAMES, "ball"))

    def verdict(phrase: str, number: int) -> set[str]:
        return {one for _, one in verdicts(f"It is <p>{phrase}</p> {{seg:{number}}} here.", balls)}

    assert verdict("the first ball from the left", 10) == {"true"}
    assert verdict("the second ball from the left", 10) == {"false"}
    assert verdict("the second ball from the right", 40) == {"true"}
    assert verdict("the left ball", 10) == {"true"}
    assert verdict("the left ball", 20) == {"false"}
    assert verdict("the middle ball", 30) == {"true"}


def test_several_objects_in_one_phrase() -> None:
    assert verdicts("<p>Both books</p> {seg:20} {seg:30} are partly hidden.") >= {("hidden", "true")}
    assert ("hidden", "false") in verdicts("<p>Both books</p> {seg:20} {seg:10} are partly hidden.")


def test_near_ties_are_not_comparisons() -> None:
    """The margins are relative and in pixels."""
    pair = [box(10, 10, 40, 40), box(60, 10, 93, 40)]  # 900 and 990 pixels
    objects = [
        ObjectSample(10 * n, n, rle := encode_mask(m), rle, rle_box_xyxy(rle), rle_box_xyxy(rle))
        for n, m in enumerate(pair, 1)
    ]
    facts = Facts(ImageSample(1, Path("pair.png"), 100, 200, tuple(objects)), NAMES)
    for answer in (f"{BOOK} is larger than {MUG}.", f"{BOOK} is the largest of all.", f"{MUG} is smaller than {BOOK}."):
        assert {verdict for _, verdict in verdicts(answer, facts)} == {"false"}, answer
    assert verdicts(f"{MUG} is above {BOOK}.", facts) == {("side of", "false")}


@pytest.mark.parametrize("text", [f"{MUG}9 hides {BOOK}.", f"{MUG}\u0663 hides {BOOK}.", f"Meet {MUG} @7, @1 and @0."])
def test_text_that_looks_like_a_mention_is_none(text: str) -> None:
    """Digits right behind a mention, and signs that the reader uses itself."""
    assert "true" not in {verdict for _, verdict in verdicts(text)}


def test_a_sign_of_the_reader_names_no_object() -> None:
    assert verdicts(f"@0 hides @1. Take {MUG} and {BOOK}.") == {("unread", "unclear")}


def test_reading_a_long_answer_is_fast() -> None:
    import time

    start = time.process_time()
    for filler in (
        " in front of" + "," * 3_000,
        " and" * 900,
        f" {MUG}," * 120,
        " hidden by the" * 250,
        "it is " * 600,
        " not" * 500 + f", {BOOK} is hidden" * 70,
    ):
        judge_claims(f"{MUG}{filler} {BOOK}", FACTS)
    assert time.process_time() - start < 3.0


def test_texts_of_verdicts_name_annotation_ids() -> None:
    (found,) = judge_claims(f"{BOOK} hides part of {MUG}.", FACTS)
    assert re.fullmatch(r"\[20\] hides part of \[10\]", found.text)
