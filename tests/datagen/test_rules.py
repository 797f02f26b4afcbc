"""Pairs that satisfy and pairs that violate the rules, about a small scene drawn by hand."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from amodal.data.samples import ImageSample, ObjectSample
from amodal.datagen.rules import (
    RULES,
    RuleContext,
    RuleSettings,
    check_duplicate,
    check_pair,
    object_ids,
    question_sort,
)
from amodal.datagen.store.records import Draft
from amodal.errors import InputError
from amodal.ops.rle import encode_mask, rle_box_xyxy
from amodal.questions.knowledge import CategoryFacts
from tests.drawing import mask

CUP, PLATE, DOG = 7, 8, 9
CATEGORIES = {1: "cup", 2: "plate", 3: "dog"}


def annotated(number: int, category: int, visible: str, amodal: str, *occluders: int) -> ObjectSample:
    visible_rle, amodal_rle = encode_mask(mask(*visible.split())), encode_mask(mask(*amodal.split()))
    boxes = (rle_box_xyxy(visible_rle), rle_box_xyxy(amodal_rle))
    return ObjectSample(number, category, visible_rle, amodal_rle, *boxes, occluders)


SCENE = ImageSample(
    1,
    Path("scene.png"),
    3,
    6,
    (
        annotated(CUP, 1, "##.... ##.... ......", "##.... ##.... ......"),
        annotated(PLATE, 2, "..#... ..#... ###...", ".##... .##... ###...", CUP),
        annotated(DOG, 3, "....## ....## ....##", "....## ....## ....##"),
    ),
)
CONTEXT = RuleContext(SCENE, CATEGORIES)
QUESTION = "What could I drink from, and what is it standing on?"
ANSWER = f"Take <p>the white cup</p> {{seg:{CUP}}}, it stands on <p>the round plate</p> {{seg:{PLATE}}}."


def violations(question: str = QUESTION, answer: str = ANSWER, claims: tuple[tuple[int, int], ...] = ()) -> list[str]:
    return [str(found) for found in check_pair(Draft(question, answer, claims), CONTEXT)]


def test_a_good_pair_passes() -> None:
    assert violations() == []
    assert violations(claims=((CUP, PLATE),)) == []


def test_known_parts_are_no_claims_and_leave_claims_readable() -> None:
    leather = RuleSettings(knowledge={"cup": CategoryFacts(parts=("a hidden base",), materials=("hide",))})
    context = RuleContext(SCENE, CATEGORIES, leather)
    cup, plate, dog = f"<p>the cup</p> {{seg:{CUP}}}", f"<p>the plate</p> {{seg:{PLATE}}}", f"<p>dog</p> {{seg:{DOG}}}"
    for reason in ("it has a hidden base and is made of hide", "it has a handle and a hidden base"):
        assert check_pair(Draft(QUESTION, f"You could take {cup}, because {reason}."), context) == []
    for claim in (f"{dog} hides {plate}", f"{cup} and {dog} hide {plate}"):
        (found,) = check_pair(Draft(QUESTION, f"I would say that {claim} here."), context)
        assert found.rule == "claims"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("It is the white cup on the left side.", "placeholders: expected an answer that mentions objects"),
        (f"It is {{seg:{CUP}}} on the left.", "placeholders: expected <p>words</p> before each placeholder"),
        ("Take <p>the cup</p> on the left of it.", "placeholders: expected {seg:ANNOTATION_ID} for each object"),
        (f"<p>The cup</p> {{seg:{CUP}}} is <p>a cup</p> {{seg:{CUP}}}.", "placeholders: expected one placeholder"),
        ("It is <p>the cup</p> {seg:99} on the left.", "ids: expected numbers of the image's objects, got {seg:99}"),
        (f"You should use <p>the brown dog</p> {{seg:{CUP}}} for it.", "phrase: expected words for [7], a cup"),
        (f"<p>The cup</p> {{seg:{CUP}}}.", "length: expected 4 to 120 words in the answer, got 2"),
        (f"<p>Tasse blanche</p> {{seg:{CUP}}} située près du bord gauche.", "language: expected English"),
    ],
)  # fmt: skip
def test_bad_answers_fail(answer: str, message: str) -> None:
    assert any(found.startswith(message) for found in violations(answer=answer)), violations(answer=answer)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("Which cup could I drink from here?", "giveaway: expected a question that does not name"),
        ("Are there any mugs that I could take?", "giveaway: .* got 'mugs' for \\[7\\]"),
        ("Which Cup's handle is nearest to me?", "giveaway"),
        ("What is this?", "length: expected 4 to 60 words in the question, got 3"),
        ("What is <p>it</p> that I could drink from?", "placeholders: expected a question without placeholders"),
        ("Где стоит большая белая вещь слева на столе?", "language"),
    ],
)  # fmt: skip
def test_bad_questions_fail(question: str, message: str) -> None:
    assert any(re.match(message, found) for found in violations(question=question)), violations(question=question)


@pytest.mark.parametrize(
    ("question", "passes"),
    [("What cupboard could I drink at, if any?", True), ("What could the dog drink from around here?", True)],
)
def test_words_that_resemble_names_pass(question: str, passes: bool) -> None:
    assert (violations(question=question) == []) is passes


C, P, D = f"<p>the cup</p> {{seg:{CUP}}}", f"<p>the plate</p> {{seg:{PLATE}}}", f"<p>the dog</p> {{seg:{DOG}}}"


@pytest.mark.parametrize(
    ("answer", "stated", "message"),
    [
        (
            f"As I see it, {P} hides part of {C} here.",
            (),
            "claims: expected what the masks show, got [8] hides part of [7]",
        ),
        (f"As I see it, {C} is behind {D} in this.", (), "claims: expected what the masks show, got [7] is behind [9]"),
        (f"As I see it, {C} would do for this.", ((DOG, CUP),), "occlusion: .* got that [9] hides part of [7]"),
        (f"As I see it, {C} would do for this.", ((DOG, 55),), "occlusion: .* got one about [55]"),
        (f"As I see it, {P} is fully visible in this.", (), "claims: .* got [8] is fully visible (full)"),
        (f"As I see it, {C} is partly hidden in this.", (), "claims: .* got [7] is partly hidden (hidden)"),
    ],
)
def test_statements_against_the_masks_fail(answer: str, stated: tuple[tuple[int, int], ...], message: str) -> None:
    found = violations("What could I take along from here?", answer, stated)
    assert len(found) == 1, found
    assert re.match(re.escape(message).replace("\\.\\*", ".*"), found[0]), found


def test_very_long_answers_are_rejected_quickly() -> None:
    for filler in (" . " * 100_000, "hidden by " * 50_000, "<p>" * 100_000, "{seg:7}" * 20_000):
        start = time.process_time()
        assert violations(answer=ANSWER + filler)[0].startswith("placeholders: expected an answer of at most 4000")
        assert time.process_time() - start < 0.5
    slow = ANSWER[:-1] + " in front of" + "," * 3_800 + P
    start = time.process_time()
    violations(answer=slow)
    assert time.process_time() - start < 2.0


def test_statements_that_agree_with_the_masks_pass() -> None:
    answer = f"As I see it, nothing hides {C}, and {P} is partly hidden."
    assert violations("What could I take along from here?", answer, ((CUP, PLATE),)) == []


def test_object_ids_of_an_answer() -> None:
    assert object_ids(ANSWER) == [CUP, PLATE]
    assert object_ids("broken {seg") == []


def test_duplicates() -> None:
    first = Draft("What could I drink from right now?", ANSWER)
    settings = RuleSettings()
    again = Draft("What could I drink from now?", f"Use {D} for that.")
    found = check_duplicate(again, [first], settings)
    assert found is not None and found.rule == "duplicate", "most of the words"
    looser = Draft("What could I drink tea from right now, my friend?", ANSWER)
    assert check_duplicate(looser, [first], settings) is not None, "same objects, many of the words"
    assert check_duplicate(Draft(looser.question, f"Use {D} for that."), [first], settings) is None
    assert check_duplicate(Draft("Who barks at the door?", f"Surely {D}."), [first], settings) is None
    assert check_duplicate(first, [first], RuleSettings(skip=frozenset({"duplicate"}))) is None


@pytest.mark.parametrize(
    ("question", "paraphrase"),
    [
        ("Which of these would be the hardest to make out, so little of it is in sight?", True),
        ("Whose outline would I have to guess the most of?", True),
        ("What lies nearest to the lower border?", False),
        ("Where could I put my tea?", False),
    ],
)
def test_paraphrases_about_the_same_objects_are_duplicates(question: str, paraphrase: bool) -> None:
    """They share the sort of question and the set of objects, but hardly a word."""
    first = Draft("What is hidden more than all other shapes?", ANSWER)
    turned = f"That is <p>the plate</p> {{seg:{PLATE}}} with <p>the cup</p> {{seg:{CUP}}}."
    found = check_duplicate(Draft(question, turned), [first], RuleSettings())
    assert (found is not None) is paraphrase
    assert check_duplicate(Draft(question, f"Surely {D}."), [first], RuleSettings()) is None


def test_sorts_of_questions() -> None:
    assert question_sort(Draft("Where could I put my tea?", "")) == set()
    assert question_sort(Draft("What is hidden most?", "")) == {"hidden"}
    assert question_sort(Draft("Which is nearest to the left corner?", "")) == {"distance", "side"}


def test_words_must_name_the_object_or_use_an_adjective_of_its_facts() -> None:
    answer = f"You could drink from <p>the round thing</p> {{seg:{CUP}}} in this place."
    assert violations(answer=answer) == ["phrase: expected words that name [7], a cup, got 'the round thing'"]
    round_cup = RuleSettings(knowledge={"cup": CategoryFacts(looks=("round",))})
    assert check_pair(Draft(QUESTION, answer), RuleContext(SCENE, CATEGORIES, round_cup)) == []


def test_rules_can_be_skipped() -> None:
    draft = Draft("Which cup could I drink from?", ANSWER)
    settings = RuleSettings(skip=frozenset({"giveaway"}))
    assert check_pair(draft, RuleContext(SCENE, CATEGORIES, settings)) == []
    with pytest.raises(InputError, match="skip: expected rules among placeholders, .*, got nonsense"):
        RuleSettings(skip=frozenset({"nonsense"}))


def test_every_rule_has_a_pair_that_violates_it() -> None:
    broken = {
        "placeholders": ("What could I drink from here?", "It is the white cup over there."),
        "ids": ("What could I drink from here?", "It is <p>the cup</p> {seg:99} over there."),
        "phrase": ("What could I drink from here?", f"It is <p>the dog</p> {{seg:{CUP}}} over there."),
        "giveaway": ("Which cup could I drink from?", ANSWER),
        "claims": ("What could I drink from here?", f"It is {P}, it hides part of {C}, it seems."),
        "unclear": ("What could I drink from here?", f"It is {P}, if only one half were not behind the rest."),
        "length": ("What here?", ANSWER),
        "language": ("Was könnte ich hier wohl trinken gehen?", f"Nimm {C}, steht links neben Teller."),
    }
    assert {*broken, "occlusion"} == RULES.keys()
    assert any(found.startswith("occlusion") for found in violations(claims=((DOG, CUP),)))
    for rule, (question, answer) in broken.items():
        assert rule in {found.split(":")[0] for found in violations(question, answer)}
