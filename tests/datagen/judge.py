"""A slow, literal judge of template answers: it reads each statement and looks at the decoded masks, nothing else.

It shares no code with the writer and the check. A sentence that it does not know is a fault too, so that nothing
passes unread.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

MENTION = re.compile(r"<p>([^<>]*)</p> \{seg:(\d+)\}")
L = r"#\d+(?:(?:, | and )#\d+)*"
IT = "(?:it|they|them)"


@dataclass
class JudgedObject:
    """One object as the judge sees it; `whole` is None where nobody knows it."""

    kind: str
    visible: np.ndarray
    whole: np.ndarray | None
    stated_cut: bool | None

    @property
    def hidden(self) -> np.ndarray:
        assert self.whole is not None, "a statement about a whole that nobody knows"
        return self.whole & ~self.visible

    @property
    def rate(self) -> float:
        return float(self.hidden.sum() / max(self.whole.sum(), 1))

    @property
    def rows(self) -> np.ndarray:
        return np.flatnonzero(self.visible.any(axis=1))

    @property
    def columns(self) -> np.ndarray:
        return np.flatnonzero(self.visible.any(axis=0))

    @property
    def centre(self) -> tuple[float, float]:
        return (self.columns[0] + self.columns[-1] + 1) / 2, (self.rows[0] + self.rows[-1] + 1) / 2

    def touches(self) -> bool:
        mask = self.visible if self.whole is None else self.whole | self.visible
        return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


@dataclass
class Judge:
    """Judges the answers about one image.

    Attributes:
        objects: by annotation id.
        faults: what was found false.
        counts: number of statements by sort.
    """

    objects: dict[int, JudgedObject]
    faults: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def judge(self, question: str, answer: str) -> None:
        text = MENTION.sub(lambda found: f"#{found[2]}", answer)
        for phrase, number in MENTION.findall(answer):
            self._name(phrase, int(number), answer)
        known = False
        for sort, pattern, method in STATEMENTS:
            found = re.fullmatch(pattern, text)
            if not found:
                continue
            known = True
            self.counts[sort] += 1
            try:
                true = method(self, found)
            except AssertionError as error:
                true = False
                sort = f"{sort} ({error})"
            if not true:
                self.faults.append(f"{sort}: {question} -> {answer}")
        if not known:
            self.faults.append(f"unknown sentence: {answer}")

    def _name(self, phrase: str, number: int, answer: str) -> None:
        """Words like "the left mug" must fit the centres of the visible parts."""
        kind = self.objects[number].kind
        row = sorted((o.centre[0], n) for n, o in self.objects.items() if o.kind == kind)
        place = [n for _, n in row].index(number)
        gaps = [abs(x - self.objects[number].centre[0]) for x, n in row if n != number]
        if re.match("the (upper|lower) ", phrase.lower()):
            (other,) = [n for _, n in row if n != number]
            offset = self.objects[other].centre[1] - self.objects[number].centre[1]
            if not (offset > 2 if "upper" in phrase else offset < -2):
                self.faults.append(f"name {phrase!r}: {answer}")
            return
        words = re.fullmatch(r"the (?:(left|middle|right) )?(?:(\w+) )?(.*?)( from the left)?", phrase.lower())
        count = len(row)
        expected = f"the {kind}"
        if count == 2:
            expected = f"the {('left', 'right')[place]} {kind}"
        elif count == 3:
            expected = f"the {('left', 'middle', 'right')[place]} {kind}"
        elif count > 3:
            numbers = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"]
            number_word = numbers[place] if place < 10 else re.search(r"\d+\w\w|$", phrase)[0]
            expected = f"the {number_word} {kind} from the left"
        self.counts["name"] += 1
        if words is None or phrase.lower() != expected or (gaps and min(gaps) < 3):
            self.faults.append(f"name {phrase!r}, expected {expected!r}: {answer}")

    def of(self, text: str) -> list[JudgedObject]:
        return [self.objects[int(number)] for number in re.findall(r"#(\d+)", text)]

    def others(self, *texts: str) -> list[JudgedObject]:
        named = {int(number) for text in texts for number in re.findall(r"#(\d+)", text)}
        return [one for number, one in self.objects.items() if number not in named]

    def all(self) -> list[JudgedObject]:
        return list(self.objects.values())


def before(front: JudgedObject, behind: JudgedObject) -> bool:
    covered = int((front.visible & behind.hidden).sum())
    return covered > 0 and covered >= 0.05 * behind.hidden.sum()


def clearly(larger: float, smaller: float, least: float = 0.0) -> bool:
    return larger - smaller > least and larger > 1.02 * smaller


def use(judge: Judge, found: re.Match[str]) -> bool:
    return True


def use_free(judge: Judge, found: re.Match[str]) -> bool:
    (one,) = judge.of(found["a"])
    return one.rate < 0.01


def use_blocked(judge: Judge, found: re.Match[str]) -> bool:
    (one,) = judge.of(found["a"])
    return all(before(front, one) for front in judge.of(found["b"])) and not any(
        (front.visible & one.hidden).sum() > 0.2 * one.hidden.sum() for front in judge.others(found["a"], found["b"])
    )


def one_behind(judge: Judge, found: re.Match[str]) -> bool:
    (one,) = judge.of(found["a"])
    return one.rate > 0.01 and all(before(front, one) for front in judge.of(found["b"]))


def one_in_front(judge: Judge, found: re.Match[str]) -> bool:
    (one,) = judge.of(found["a"])
    return all(behind.rate > 0.01 and before(one, behind) for behind in judge.of(found["b"]))


def most_hidden(judge: Judge, found: re.Match[str]) -> bool:
    (one,) = judge.of(found["a"])
    following = judge.of(found["b"] or "")
    rest = [other.rate for other in judge.others(found["a"], found["b"] or "")]
    order = [one.rate, *(other.rate for other in following), max(rest, default=0.0)]
    return all(clearly(a, b, 0.02) for a, b in itertools.pairwise(order))


def all_hidden(judge: Judge, found: re.Match[str]) -> bool:
    named, rest = judge.of(found["a"]), judge.others(found["a"])
    return all(any(before(front, one) for front in judge.all() if front is not one) for one in named) and not any(
        one.rate > 0.01 for one in rest
    )


def all_obstacles(judge: Judge, found: re.Match[str]) -> bool:
    def hides(one: JudgedObject) -> bool:
        return any(before(one, behind) for behind in judge.all() if behind is not one and behind.rate > 0.01)

    return all(map(hides, judge.of(found["a"]))) and not any(
        (one.visible & behind.hidden).sum() > 0.15 * behind.hidden.sum()
        for one in judge.others(found["a"]) for behind in judge.all() if behind is not one and behind.rate > 0.01
    )  # fmt: skip


def uncovers_most(judge: Judge, found: re.Match[str]) -> bool:
    def uncovered(one: JudgedObject) -> int:
        hidden = [behind.hidden for behind in judge.all() if behind is not one]
        return int((one.visible & np.logical_or.reduce(hidden)).sum())

    (one,) = judge.of(found["a"])
    best = max(map(uncovered, judge.others(found["a"])), default=0)
    return clearly(uncovered(one), best, 10) and all(before(one, behind) for behind in judge.of(found["b"]))


def full(one: JudgedObject) -> bool:
    return one.rate < 0.01 and not one.touches() and not one.stated_cut


def all_full(judge: Judge, found: re.Match[str]) -> bool:
    return all(map(full, judge.of(found["a"]))) and not any(map(full, judge.others(found["a"])))


def all_cut(judge: Judge, found: re.Match[str]) -> bool:
    named, rest = judge.of(found["a"]), judge.others(found["a"])
    return all(one.touches() and one.stated_cut is not False for one in named) and not any(o.touches() for o in rest)


def more_hidden(judge: Judge, found: re.Match[str]) -> bool:
    (one,), (other,) = judge.of(found["a"]), judge.of(found["b"])
    ends = sorted(judge.all(), key=lambda o: o.centre[0])
    return clearly(one.rate, other.rate, 0.02) and {id(ends[0]), id(ends[-1])} == {id(one), id(other)}


def leads(values: dict[int, float], judge: Judge, found: re.Match[str], least: float) -> bool:
    """Whether the objects named in order have the largest values, each clearly larger than the next."""
    named = [int(n) for part in ("a", "b") if part in found.groupdict() and found[part]
             for n in re.findall(r"#(\d+)", found[part])]  # fmt: skip
    rest = [value for number, value in values.items() if number not in named]
    if not found.groupdict().get("b"):
        return min(values[n] for n in named) - max(rest, default=-1e9) > least
    order = [*(values[n] for n in named), max(rest, default=-1e9)]
    return all(a - b > least for a, b in itertools.pairwise(order))


def reaches(judge: Judge, found: re.Match[str]) -> bool:
    measure = {
        "left": lambda o: -o.columns[0], "right": lambda o: o.columns[-1],
        "top": lambda o: -o.rows[0], "bottom": lambda o: o.rows[-1],
    }[found["side"]]  # fmt: skip
    return leads({n: float(measure(o)) for n, o in judge.objects.items()}, judge, found, 2)


def nearer(judge: Judge, found: re.Match[str]) -> bool:
    height, width = judge.all()[0].visible.shape
    x = {"left": 0, "right": width - 1}.get(found["spot"].split()[1] if " " in found["spot"] else "", (width - 1) / 2)
    y = {"upper": 0, "lower": height - 1}.get(found["spot"].split()[0], (height - 1) / 2)

    def distance(one: JudgedObject) -> float:
        ys, xs = np.nonzero(one.visible)
        return float(np.sqrt((xs - x) ** 2 + (ys - y) ** 2).min())

    return leads({n: -distance(o) for n, o in judge.objects.items()}, judge, found, 2)


def area(judge: Judge, found: re.Match[str]) -> bool:
    sign = 1 if found["how"] == "more" else -1
    return leads({n: sign * float(o.visible.sum()) for n, o in judge.objects.items()}, judge, found, 20)


def outline(judge: Judge, found: re.Match[str]) -> bool:
    if any(one.touches() for one in judge.all()):
        return False
    sign = 1 if found["how"] == "larger" else -1
    return leads({n: sign * float(o.whole.sum()) for n, o in judge.objects.items()}, judge, found, 20)


def in_half(judge: Judge, found: re.Match[str]) -> bool:
    def inside(one: JudgedObject) -> bool:
        height, width = one.visible.shape
        other = {
            "left": one.visible[:, width // 2 + width % 2 :], "right": one.visible[:, : width // 2],
            "upper": one.visible[height // 2 + height % 2 :], "lower": one.visible[: height // 2],
        }[found["side"]]  # fmt: skip
        return not other.any()

    return all(map(inside, judge.of(found["a"]))) and not any(map(inside, judge.others(found["a"])))


def middle(judge: Judge, found: re.Match[str]) -> bool:
    (one,) = judge.of(found["a"])
    places = [other.centre[0] - one.centre[0] for other in judge.others(found["a"])]
    return sum(p < -2 for p in places) == sum(p > 2 for p in places) == len(places) / 2


def between(judge: Judge, found: re.Match[str]) -> bool:
    (first,), (last,) = judge.of(found["b"]), judge.of(found["c"])
    return all(first.centre[0] + 2 < one.centre[0] < last.centre[0] - 2 for one in judge.of(found["a"])) and not (
        judge.others(found["a"], found["b"], found["c"])
    )


def apart(judge: Judge, found: re.Match[str]) -> bool:
    spans = {
        frozenset((i, j)): float(np.hypot(*np.subtract(one.centre, other.centre)))
        for i, one in judge.objects.items() for j, other in judge.objects.items() if i < j
    }  # fmt: skip
    named = frozenset(int(n) for n in (found["a"][1:], found["b"][1:]))
    sign = 1 if found["how"] == "farther apart" else -1
    rest = [sign * length for pair, length in spans.items() if pair != named]
    return sign * spans[named] - max(rest) > 2


def in_order(judge: Judge, found: re.Match[str]) -> bool:
    axis = 0 if found["start"] in ("left", "right") else 1
    sign = 1 if found["start"] in ("left", "top") else -1
    named = [sign * one.centre[axis] for one in judge.of(found["a"])]
    rest = [sign * one.centre[axis] for one in judge.others(found["a"])]
    order = [*named, *sorted(rest)[:1]]
    return all(b - a > 2 for a, b in itertools.pairwise(order))


def ends(judge: Judge, found: re.Match[str]) -> bool:
    axis = 0 if "row" in found["how"] else 1
    (first,), (last,) = judge.of(found["a"]), judge.of(found["b"])
    rest = [one.centre[axis] for one in judge.others(found["a"], found["b"])]
    return all(first.centre[axis] + 2 < place < last.centre[axis] - 2 for place in [*rest] or [0.0]) or not rest


REASON = r"(?:it|they|each) (?:has|have|is made of|are made of) [^#;]+?"
A, B = rf"(?P<a>{L})", rf"(?P<b>{L})"
SPOT = r"(?P<spot>middle|(?:upper|lower) (?:left|right) corner)"
SIDE = r"(?P<side>left|right|top|bottom)"
NEXT = rf"(?:, and next comes {B})?"

STATEMENTS = [
    ("use", rf"(?:That would be )?{A}(?: would do)?, because {REASON}\.", use),
    ("use", rf"There is a choice of {A}, because {REASON}\.", use),
    ("use", rf"{A} for the first, because {REASON}, and {B} for the second, because {REASON}\.", use),
    ("use", rf"{A}, because one usually finds such objects there\.", use),
    ("unhidden", rf"Take {A}, because {REASON} and nothing hides {IT}\.", use_free),
    ("occlusion", rf"{A} would help, because {REASON}; {B} stands? in front of {IT}\.", use_blocked),
    ("occlusion", rf"It is {A}, because {B} stands? in front of {IT}\.", one_behind),
    ("occlusion", rf"{B} would be in your way, because {IT} covers? part of {A}\.", one_behind),
    ("occlusion", rf"You would see more of {B}, because {A} stands? in front of {IT}\.", one_in_front),
    ("occlusion", rf"{A} comes first, because {IT} covers? part of {B}\.", one_in_front),
    ("occlusion", rf"{A}, because something stands in front of each of them\.", all_hidden),
    ("occlusion", rf"{A}, because each of them hides part of something\.", all_obstacles),
    ("comparison", rf"{A}, because {IT} (?:is|are) hidden more than anything else{NEXT}\.", most_hidden),
    (
        "comparison",
        rf"{A}, because {IT} hides? more of the other objects than anything else; {B} (?:is|are) behind {IT}\.",
        uncovers_most,
    ),
    ("comparison", rf"{A}, because more of {IT} is hidden than of {B}\.", more_hidden),
    ("fullness", rf"{A}, because {IT} (?:is|are) fully visible\.", all_full),
    ("beyond", rf"{A}, because {IT} reach(?:es)? beyond the edge of the image\.", all_cut),
    ("comparison", rf"{A}, because {IT} reach(?:es)? farther to the {SIDE} than anything else{NEXT}\.", reaches),
    ("comparison", rf"{A}, because {IT} (?:is|are) nearer to the {SPOT} than anything else{NEXT}\.", nearer),
    ("comparison", rf"{A}, because {IT} fills? (?P<how>more|less) of the image than anything else{NEXT}\.", area),
    ("comparison", rf"{A}, because they fill (?P<how>more|less) of the image than the rest\.", area),
    (
        "comparison",
        rf"{A}, because {IT} (?:has|have) a (?P<how>larger|smaller) whole outline than anything else\.",
        outline,
    ),
    ("place", rf"{A}, because all that can be seen of {IT} lies in the (?P<side>\w+) half\.", in_half),
    ("place", rf"{A}, because as many stand to the left of {IT} as to the right\.", middle),
    ("place", rf"{A}, because {IT} stands? between (?P<b>#\d+) and (?P<c>#\d+)\.", between),
    (
        "comparison",
        r"(?:From )?(?P<a>#\d+) (?:to|and) (?P<b>#\d+), because no two centres are (?P<how>[\w ]+)\.",
        apart,
    ),
    ("order", rf"{A}, because they follow each other from (?P<start>\w+) to \w+\.", in_order),
    (
        "place",
        r"(?P<a>#\d+) and (?P<b>#\d+), because they are "
        r"(?P<how>at the two ends of the row|the highest and the lowest)\.",
        ends,
    ),
]
