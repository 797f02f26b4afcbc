"""The kinds of claims about masks that the check understands: how each is worded, and when it is true.

A pattern reads a sentence in lower case in which `@0`, `@1`, ... stand for mentions of objects. Its group `s` holds the
objects that something is said about, `o` the objects they are related to, and `neg` a negation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from amodal.ops.occlusion import is_occluded
from amodal.questions import measures
from amodal.questions.facts import Facts
from amodal.questions.wording import naming_words, words_in

MENTION = r"@\d+(?:\+@\d+)*"
GROUP = rf"{MENTION}(?:(?:, (?:and |or )?| and | or | as well as ){MENTION})*"
PRONOUN = r"\b(?:each of (?:them|these)|both of them|all of them|it|they|them|he|she|him|her|each)\b"
_S = rf"(?P<s>{GROUP}|{PRONOUN})(?:,? (?:which|that|who))?(?: and)?(?: each| all| both)?"
_NO_VERB = r"(?! (?:is|are|has|have|stands?|lies?|can|would|could|hides?|covers?|blocks?|comes?|serves?)\b)"
_O = rf"(?P<o>{GROUP}|{PRONOUN}){_NO_VERB}"  # the next clause may start with "and @1 is ..."
_LAST = rf"(?P<s>{GROUP}|{PRONOUN}){_NO_VERB}"
_BE = r"(?:is|are|be|stays?|remains?|stands?|lies?|sits?|can be|seems?|appears?)(?P<neg> not|n't)?"
_BE_FREE = r"(?: (?:is|are|stays?|remains?|stands?|lies?|sits?|seems?|appears?))?(?: right| directly| just| partly)*"
_HIDES = r"(?:hides?|hiding|covers?|covering|blocks?|blocking|obscures?|occludes?|conceals?)"
_HIDDEN = r"(?:hidden|covered|blocked|obscured|occluded|concealed)"
_PARTLY = r"(?: (?:also|still|clearly|partly|partially|in part))*"
_PART_OF = r"(?:(?:a |some )?(?:parts?|bits?|pieces?) of |some of )?"
_OBJECT = r"(?:objects?|things?)"
_SOMETHING = rf"(?:something(?: else)?|(?:another|other) {_OBJECT})"
IMAGE = r"(?:image|picture|frame|photo|photograph|scene|view)"
_FRAME = rf"(?:(?:edge|border) of the )?(?:edge|border|{IMAGE})"
_NUMBER = r"(?:one|two|three|four|five|six|seven|eight|nine|ten|\d+)"
_AMOUNT = (
    r"(?:(?:about |roughly |nearly |more than )?(?:half|(?:a|one) third|two thirds|(?:a|one) quarter|three quarters|"
    r"\d+(?:\.\d+)? ?(?:%|percent))|most|mostly|largely|slightly|a little|barely|almost (?:completely|entirely)|"
    r"nearly (?:completely|entirely)|completely|entirely|fully|totally)"
)

AMOUNTS: dict[str, tuple[float, float]] = {
    "more than half": (0.5, 1.0), "half": (0.35, 0.65), "two thirds": (0.58, 0.75), "third": (0.25, 0.42),
    "three quarters": (0.68, 0.82), "quarter": (0.18, 0.32), "most": (0.5, 1.0), "largely": (0.5, 1.0),
    "slightly": (0.005, 0.25), "little": (0.005, 0.25), "barely": (0.005, 0.25), "almost": (0.8, 1.0),
    "nearly": (0.8, 1.0), "completely": (0.95, 1.0), "entirely": (0.95, 1.0), "fully": (0.95, 1.0),
    "totally": (0.95, 1.0),
}  # fmt: skip
"""Smallest and largest share that a word may stand for."""
PERCENT_MARGIN = 0.05
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Claim:
    """One claim as a pattern found it.

    Attributes:
        facts: facts about the image.
        s: positions of the objects that something is said about.
        o: positions of the objects they are related to.
        words: the groups of the pattern.
        mentioned: positions of all objects in the sentence, in order.
    """

    facts: Facts
    s: tuple[int, ...]
    o: tuple[int, ...]
    words: dict[str, str]
    mentioned: tuple[int, ...]


Test = Callable[[Claim], "bool | None"]


@dataclass(frozen=True)
class ClaimKind:
    """A kind of claims.

    Attributes:
        patterns: how it is worded.
        holds: whether it is true; None where the annotation does not tell, so that nobody may claim it.
        each: it is said of every object in `s` and `o`, one by one, also if it is negated.
    """

    patterns: tuple[re.Pattern[str], ...]
    holds: Test
    each: bool = True


def _kind(holds: Test, *patterns: str, each: bool = True) -> ClaimKind:
    return ClaimKind(tuple(re.compile(rf"(?<![\w@]){pattern}(?!\w)") for pattern in patterns), holds, each)


# Occlusion


def _in_front(claim: Claim) -> bool | None:
    (front,), (behind,) = claim.s, claim.o
    return front in claim.facts.in_front_of(behind) if claim.facts.is_known(behind) else None


def _behind(claim: Claim) -> bool | None:
    (behind,), (front,) = claim.s, claim.o
    return front in claim.facts.in_front_of(behind) if claim.facts.is_known(behind) else None


def _hidden(claim: Claim) -> bool | None:
    return is_occluded(claim.facts.rates[claim.s[0]]) if claim.facts.is_known(claim.s[0]) else None


def _unhidden(claim: Claim) -> bool | None:
    hidden = _hidden(claim)
    return None if hidden is None else not hidden and not claim.facts.in_front_of(claim.s[0])


def _full(claim: Claim) -> bool | None:
    return claim.facts.is_full(claim.s[0]) if claim.facts.is_known(claim.s[0]) else None


def _hides_something(claim: Claim) -> bool | None:
    return bool(claim.facts.behind(claim.s[0]))


def _nothing_behind(claim: Claim) -> bool | None:
    return not claim.facts.behind(claim.s[0]) if _all_known(claim.facts) else None


def _amount_hidden(claim: Claim) -> bool | None:
    return _is_amount(claim, float(claim.facts.rates[claim.s[0]]))


def _amount_visible(claim: Claim) -> bool | None:
    return _is_amount(claim, 1 - float(claim.facts.rates[claim.s[0]]))


def _is_amount(claim: Claim, share: float) -> bool | None:
    index, words = claim.s[0], claim.words["amount"]
    if not claim.facts.is_known(index) or claim.facts.touches_border(index):
        return None
    percent = re.search(r"\d+(?:\.\d+)?", words)
    if percent:
        return abs(share - float(percent[0]) / 100) <= PERCENT_MARGIN
    low, high = next(limits for word, limits in AMOUNTS.items() if word in words)
    return low <= share <= high


def _all_known(facts: Facts) -> bool:
    return all(facts.is_known(i) for i in range(len(facts)))


# Counts


def _number(words: str) -> int:
    return int(words) if words.isdecimal() else NUMBERS.index(words)


def _count_hidden(claim: Claim) -> bool | None:
    return len(claim.facts.occluded()) == _number(claim.words["n"]) if _all_known(claim.facts) else None


def _count_in_front(claim: Claim) -> bool | None:
    known = claim.facts.is_known(claim.o[0])
    return len(claim.facts.in_front_of(claim.o[0])) == _number(claim.words["n"]) if known else None


def _count_behind(claim: Claim) -> bool | None:
    return len(claim.facts.behind(claim.s[0])) == _number(claim.words["n"]) if _all_known(claim.facts) else None


def _count_of_kind(claim: Claim) -> bool | None:
    found = [kind for kind in claim.facts.kinds if tuple(words_in(claim.words["noun"])) in naming_words(kind)]
    return len(found) == _number(claim.words["n"]) if found else None


def _only(claim: Claim) -> bool | None:
    facts, words = claim.facts, claim.words
    if not _all_known(facts):
        return None
    if claim.o:
        return all(set(facts.in_front_of(o)) == set(claim.s) for o in claim.o)
    state = words["state"]
    if re.search(rf"{_HIDDEN}", state):
        matching = facts.occluded()
    elif "visible" in state:
        matching = [i for i in range(len(facts)) if facts.is_full(i)]
    else:
        matching = [i for i in range(len(facts)) if facts.touches_border(i)]
    return set(matching) == set(claim.s)


def _nothing_hidden(claim: Claim) -> bool | None:
    return not claim.facts.occluded() if _all_known(claim.facts) else None


# Places


def _side_of(claim: Claim) -> bool | None:
    (one,), (other,) = claim.s, claim.o
    side = claim.words["side"]
    axis = 0 if side in ("left", "right") else 1
    difference = claim.facts.centres[one][axis] - claim.facts.centres[other][axis]
    sign = -1 if side in ("left", "above") else 1
    return sign * difference >= claim.facts.clear_gap


def is_at(facts: Facts, index: int, where: str) -> bool:
    """Whether an object's centre lies in the part of the image that these words name."""
    height, width = facts.size
    x, y = facts.centres[index][0] / width, facts.centres[index][1] / height
    tests = {
        "left": x < 0.5, "right": x > 0.5, "top": y < 0.5, "upper": y < 0.5, "bottom": y > 0.5, "lower": y > 0.5,
        "middle": 0.2 < x < 0.8, "centre": 0.2 < x < 0.8, "center": 0.2 < x < 0.8,
    }  # fmt: skip
    return all(tests[word] for word in re.findall("|".join(tests), where))


def _at(claim: Claim) -> bool | None:
    return is_at(claim.facts, claim.s[0], claim.words["where"])


def _in_half(claim: Claim) -> bool | None:
    height, width = claim.facts.size
    x0, y0, x1, y1 = claim.facts.objects[claim.s[0]].visible_box_xyxy
    side = claim.words["side"]
    return {"left": x1 <= width / 2, "right": x0 >= width / 2, "upper": y1 <= height / 2, "lower": y0 >= height / 2}[
        side
    ]


def _between(claim: Claim) -> bool | None:
    gap, centres = claim.facts.clear_gap, claim.facts.centres
    first, last = claim.o[0], claim.o[-1]
    for axis in (0, 1):
        low, high = sorted((centres[first][axis], centres[last][axis]))
        if all(low + gap <= centres[i][axis] <= high - gap for i in claim.s):
            return len(claim.o) == 2
    return False


def _beyond(claim: Claim) -> bool | None:
    return claim.facts.reaches_beyond(claim.s[0])


def _order(claim: Claim) -> bool | None:
    start = claim.words["start"]
    axis, sign = (0 if start in ("left", "right") else 1), (1 if start in ("left", "top") else -1)
    places = [sign * claim.facts.centres[i][axis] for i in claim.mentioned]
    return len(places) > 1 and all(b - a >= claim.facts.clear_gap for a, b in pairwise(places))


def _ends(claim: Claim) -> bool | None:
    axis = 0 if "row" in claim.words["ends"] else 1
    values = np.array([centre[axis] for centre in claim.facts.centres], float)
    first = measures.Measure(-values, claim.facts.clear_gap).leaders(1)
    last = measures.Measure(values, claim.facts.clear_gap).leaders(1)
    return first is not None and last is not None and set(claim.mentioned) == {*first, *last}


def _distance(claim: Claim) -> bool | None:
    spans = measures.pair_distances(claim.facts)
    if claim.words["how"] == "farther apart":
        spans = spans[::-1]
    clear = len(spans) == 1 or abs(spans[0][0] - spans[1][0]) >= claim.facts.clear_gap
    return clear and set(spans[0][1]) == set(claim.mentioned)


def _middle_of_row(claim: Claim) -> bool | None:
    facts, (index,) = claim.facts, claim.s
    offsets = [x - facts.centres[index][0] for i, (x, _) in enumerate(facts.centres) if i != index]
    if any(abs(offset) < facts.clear_gap for offset in offsets):
        return False
    return sum(offset < 0 for offset in offsets) == sum(offset > 0 for offset in offsets)


# Comparisons


def _measure(facts: Facts, what: str) -> measures.Measure | None:
    for pattern, measure in MEASURES.items():
        found = re.search(pattern, what)
        if found:
            return measure(facts, found)
    return None


MEASURES: dict[str, Callable[[Facts, re.Match[str]], measures.Measure | None]] = {
    r"(?:reach\w*|extends?) (?:farther|further) to\w* the (left|right|top|bottom)|(left|right|top)most|(lowest)": (
        lambda facts, found: measures.EXTENTS[found[1] or found[2] or "bottom"](facts)
    ),
    r"(?:nearer|closer) to the (middle|(?:upper|lower) (?:left|right) corner)": (
        lambda facts, found: measures.nearness(facts, found[1])
    ),
    r"fills? (more|less) of the": (
        lambda facts, found: measures.visible_areas(facts, sign=1 if found[1] == "more" else -1)
    ),
    r"(?:hides?|covers?) more of the other": lambda facts, found: measures.uncovered_areas(facts),
    r"hidden more|more hidden|most hidden|hidden most": lambda facts, found: measures.hidden_rates(facts),
    r"larger|largest|biggest|bigger": lambda facts, found: measures.outline_areas(facts),
    r"smaller|smallest": lambda facts, found: measures.outline_areas(facts, sign=-1),
}
"""Measures by the words that compare, for superlatives."""


def _superlative(claim: Claim) -> bool | None:
    measure = _measure(claim.facts, claim.words["what"])
    if measure is None:
        return None
    top = measure.top(len(claim.s))
    if top is None or set(top) != set(claim.s):
        return False
    if not claim.o:
        return True
    return measure.leaders(len(claim.s) + len(claim.o)) == [*claim.s, *claim.o]


def _comparison(claim: Claim) -> bool | None:
    (one,), (other,) = claim.s, claim.o
    facts, what = claim.facts, claim.words["what"]
    if re.search("hidden|visible|seen", what):
        if not (facts.is_known(one) and facts.is_known(other)):
            return None
        measure = measures.Measure(facts.rates, measures.CLEAR_RATE, measures.CLEAR_RATIO)
        more = ("less" in what) == bool(re.search("visible|seen", what))
        return measure.leads(one, other) if more else measure.leads(other, one)
    if not all(facts.is_known(i) and not facts.touches_border(i) for i in (one, other)):
        return None
    measure = measures.Measure(facts.areas.astype(float), measures.CLEAR_AREA, measures.CLEAR_RATIO)
    return measure.leads(other, one) if "smaller" in what else measure.leads(one, other)


_WHERE = r"(?P<where>(?:upper |lower |top |bottom )?(?:left|right)|top|bottom|middle|cent(?:re|er)|upper|lower)"
_WHAT = (
    r"(?P<what>(?:is|are) (?:hidden more|more hidden)|(?:hides?|covers?) more of the other objects|"
    rf"fills? (?:more|less) of the {IMAGE}|ha(?:s|ve) a (?:larger|smaller) (?:whole )?outline|(?:is|are) (?:larger|"
    r"smaller|bigger)|reach(?:es)? (?:farther|further) to(?:wards)? the (?:left|right|top|bottom)|"
    r"(?:is|are) (?:nearer|closer) to the (?:middle|(?:upper|lower) (?:left|right) corner))"
)
_NEXT = rf"(?:,? and (?:then|next) comes? (?P<o>{GROUP}))?"

CLAIM_KINDS: dict[str, ClaimKind] = {
    "superlative": _kind(
        _superlative,
        rf"{_S} {_WHAT} than (?:anything|everything|any other|the rest)(?: else)?(?: does| do)?{_NEXT}",
        rf"{_S} (?:is|are) (?P<what>the (?:most hidden|largest|smallest|biggest|leftmost|rightmost|topmost|lowest))"
        rf"(?: (?:one|{_OBJECT}))?(?: of all| here)?{_NEXT}",
        each=False,
    ),
    "comparison": _kind(
        _comparison,
        rf"(?P<what>(?:more|less) of (?P<s>{MENTION}|it|them) (?:is|are) (?:hidden|visible)) than of {_O}",
        rf"{_S} (?:is|are) (?P<what>(?:more|less) (?:hidden|visible)|larger|bigger|smaller) than {_O}",
    ),
    "only": _kind(
        _only,
        rf"{_S} (?:is|are) the only (?:ones?|{_OBJECT})(?: here)?,? (?:that|which)"
        rf" (?:is|are)? ?(?P<state>(?:partly |partially )?{_HIDDEN}|fully visible|reach(?:es)? beyond the {IMAGE})",
        rf"only (?P<s>{GROUP}) (?:is|are) (?P<state>(?:partly |partially )?{_HIDDEN}|fully visible)",
        rf"only (?P<s>{GROUP}) (?:{_HIDES}|stands? in front of|is in front of) {_PART_OF}(?P<o>{GROUP})",
        each=False,
    ),
    "count": _kind(
        _count_hidden,
        rf"(?P<n>{_NUMBER}) (?:of them|of these|{_OBJECT})(?: here)? (?:is|are){_PARTLY} {_HIDDEN}",
        each=False,
    ),
    "count in front": _kind(
        _count_in_front,
        rf"(?P<n>{_NUMBER}) (?:other )?{_OBJECT} (?:{_HIDES}|stands? in front of|(?:is|are) in front of) "
        rf"{_PART_OF}{_O}",
    ),
    "count behind": _kind(_count_behind, rf"{_S} {_HIDES} {_PART_OF}(?P<n>{_NUMBER}) (?:other )?{_OBJECT}"),
    "count of a kind": _kind(_count_of_kind, rf"there (?:is|are) (?P<n>{_NUMBER}) (?P<noun>\w+)", each=False),
    "nothing hidden": _kind(_nothing_hidden, rf"nothing(?: here)? is{_PARTLY} {_HIDDEN}", each=False),
    "nothing behind": _kind(
        _nothing_behind, rf"nothing (?:is|lies|stands)(?: hidden)? behind {_LAST}"
    ),
    "nothing in front": _kind(
        _unhidden,
        rf"nothing(?: else)? (?:{_HIDES}|(?:is|stands|lies) in front of) (?:any (?:part )?of )?"
        rf"{_LAST}",
        rf"{_S} (?:is|are) (?:unobstructed|unoccluded|unhidden)",
    ),
    "hides something": _kind(_hides_something, rf"{_S} {_HIDES} {_PART_OF}{_SOMETHING}"),
    "in front": _kind(
        _in_front,
        rf"{_S}{_BE_FREE}(?P<neg> not)? in front of {_PART_OF}{_O}",
        rf"{_S}(?P<neg> does not| do not| doesn't| don't)?{_PARTLY} {_HIDES} {_PART_OF}{_O}",
        rf"(?P<o>{GROUP}),? (?:which|that|who|whom) (?P<s>{GROUP}){_PARTLY} {_HIDES}(?! {_PART_OF}@)",
    ),
    "behind": _kind(
        _behind,
        rf"{_S}{_BE_FREE}(?P<neg> not)?{_PARTLY}(?: {_HIDDEN})? behind {_PART_OF}{_O}",
        rf"{_S}{_BE_FREE}(?P<neg> not)?{_PARTLY} {_HIDDEN} by {_O}",
        rf"behind (?P<o>{GROUP}|{PRONOUN}),? (?:is|are|stands?|lies?|one sees|you see|you would see) {_PART_OF}"
        rf"(?P<s>{GROUP})",
    ),
    "full": _kind(
        _full,
        rf"{_S} {_BE} (?:fully|completely|entirely|wholly|totally) (?:visible|seen|in view|exposed)",
        rf"{_S} {_BE} (?:in full view|seen in full|seen whole|seen as a whole|whole|complete)",
        rf"(?:all|the whole) of {_S} (?:is visible|are visible|can be seen)",
    ),
    "amount hidden": _kind(
        _amount_hidden,
        rf"{_S} (?:is|are) (?P<amount>{_AMOUNT}) {_HIDDEN}(?! (?:by|behind)\b)",
        rf"(?P<amount>{_AMOUNT}) of (?P<s>{GROUP}|{PRONOUN}) (?:is|are) {_HIDDEN}(?! (?:by|behind)\b)",
    ),
    "amount visible": _kind(
        _amount_visible,
        rf"{_S} (?:is|are) (?:only )?(?P<amount>{_AMOUNT}) visible",
        rf"(?:only )?(?P<amount>{_AMOUNT}) of (?P<s>{GROUP}|{PRONOUN}) (?:is visible|are visible|can be seen|shows?)",
    ),
    "hidden": _kind(
        _hidden,
        rf"{_S} {_BE}{_PARTLY} {_HIDDEN}(?: from view)?(?: (?:behind|by) {_SOMETHING})?(?! (?:by|behind)\b)",
        rf"(?:a )?parts? of (?P<s>{GROUP}|{PRONOUN}) (?:is|are) (?:{_HIDDEN}|out of sight)",
        rf"{_SOMETHING} (?:stands|is) in front of {_LAST}",
    ),
    "side of": _kind(
        _side_of,
        rf"{_S}{_BE_FREE} (?:(?:to|on|at) the )?(?P<side>left|right)(?: side)? of {_O}",
        rf"{_S}{_BE_FREE} (?P<side>above|below) {_O}",
    ),
    "in half": _kind(
        _in_half,
        rf"all that can be seen of (?P<s>{GROUP}|{PRONOUN}) (?:lies|is) in the (?P<side>left|right|upper|lower) half",
        rf"{_S} (?:lies?|is|are) (?:entirely|completely|wholly) in the (?P<side>left|right|upper|lower) half",
    ),
    "at": _kind(
        _at,
        rf"{_S}{_BE_FREE} (?:on|at|in|near) the (?:far )?{_WHERE}(?: side| part| half| edge| corner)?"
        rf"(?: of the {IMAGE})?(?! of\b)",
    ),
    "between": _kind(_between, rf"{_S}{_BE_FREE} between (?P<o>{MENTION} and {MENTION})", each=False),
    "beyond": _kind(
        _beyond,
        rf"{_S} (?:reach(?:es)?|extends?|continues?) (?:beyond|past) the {_FRAME}",
        rf"{_S} (?:is|are) cut(?: off)? (?:by|at) the {_FRAME}",
    ),
    "order": _kind(
        _order,
        r"follow each other from (?:(?P<start>left|top|right|bottom) to )(?:(?<=left to )right|(?<=right to )left|"
        r"(?<=top to )bottom|(?<=bottom to )top)",
        each=False,
    ),
    "ends": _kind(
        _ends, r"at the two (?P<ends>ends of the row)", r"(?P<ends>the highest and the lowest)", each=False
    ),
    "distance": _kind(
        _distance, r"no two (?:centres|objects) (?:are|lie) (?P<how>farther apart|closer together)", each=False
    ),
    "middle of the row": _kind(
        _middle_of_row, rf"as many stand to the left of {_S} as to the right"
    ),
}  # fmt: skip
"""All kinds; those that read more words come first, because a claim is read once."""

CLAIM_WORDS = re.compile(
    r"\b(?:hid(?:es?|den|ing)|(?:un)?cover(?:s|ed|ing)?|block(?:s|ed|ing)?|(?:un)?obs(?:cur|truct)\w*|occlu\w+|"
    r"conceal\w*|overlap\w*|(?:in)?visible|(?:un)?seen|pe(?:ek|ep)s?|(?:out of|from|in) (?:sight|view)|"
    r"(?:full|clear) view|behind|front|background|foreground|left|right|above|below|beneath|under|underneath|beside|"
    r"next to|beyond|between|top|bottom|middle|cent(?:red?|er(?:ed)?)|central|upper|lower|corner|edge|half|"
    r"third|thirds|quarters?|percent|mostly|most|least|"
    r"partly|partially|fewer|larger|largest|bigger|biggest|smaller|smallest|taller|tallest|higher|highest|"
    r"as (?:large|big|small|tall|high) as|nearer|nearest|closer|closest|farther|further|farthest|furthest|\w+most|only|"
    r"nothing|nobody|none|entire(?:ly)?|fully|completely|cut off|"
    rf"leaves? the {IMAGE}|there are (?:{_NUMBER}|many|several|no)|"
    rf"{_NUMBER} (?:of them|of these|(?:other )?{_OBJECT})"
    r")\b|%"
)
"""Words of claims: where one is left after all claims were read, the sentence is for people."""


def truth_of(kind: ClaimKind, claim: Claim) -> bool | None:
    """Whether a claim is true of all its objects; None where the annotation does not tell."""
    negated = bool(claim.words.get("neg"))
    if not kind.each:
        result = kind.holds(claim)
        return None if result is None else bool(result)
    results = []
    for s in combinations(claim.s, min(len(claim.s), 1)):
        for o in combinations(claim.o, min(len(claim.o), 1)):
            results.append(kind.holds(Claim(claim.facts, s, o, claim.words, claim.mentioned)))
    if None in results:
        return None
    return all(bool(result) is not negated for result in results)


def positions(text: str, order: Sequence[int]) -> tuple[int, ...]:
    """The objects whose mentions stand in a text."""
    return tuple(order[int(number)] for number in re.findall(r"@(\d+)", text))
