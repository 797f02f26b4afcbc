"""The prose follows one glossary: code, documentation, recipes and tests use no phrase that it replaces.

`RULES` holds the phrases and what to write instead. `ALLOWED` holds the exceptions, each with its file and its exact
words, so that an exception covers one place and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "src": (".py", ".html", ".js"),
    "docs": (".md", ".py"),
    "benchmarks": (".md", ".py"),
    "examples": (".py",),
    "recipes": (".yaml",),
    "tests": (".py",),
}
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CITATION.cff", "Makefile", "pyproject.toml")

# What is counted per unit. Left out are words that are verbs as often as nouns ("names an image", "answers a call").
COUNTED = (
    r"(?:masks?|PNGs?|files?|folders?|rows?|records?|objects?|box(?:es)?|pairs?|prompts?|images?|crops?|scenes?"
    r"|questions?|turns(?= an? conversation)|answers(?= an? (?:image|scene|conversation|batch))|tokens?|keys|values?"
    r"|pixels|points|phrases?|detections?|encodings?|passes|branch(?:es)?|sets?|samples?|frames?|faults|bytes|[KMG]i?B|m?s|seconds"
    r"|milliseconds|minutes|one|two|three|four|several|many|\d+(?:[.,]\d+)?)"
)
UNIT = (
    r"(?:object|image|batch|call|crop|branch|prompt|turn|step|token|process|scene|conversation|epoch|worker"
    r"|question)"
)
NO_CLAUSE = r"(?!['’-]| (?:has|is|covers)\b)"  # a relative clause, such as "the box an image has"


class Rule(NamedTuple):
    """A phrase that the glossary replaces."""

    name: str
    pattern: re.Pattern[str]
    write: str


def rule(name: str, pattern: str, write: str) -> Rule:
    """Build a rule; a space in the pattern also matches the end of a line."""
    return Rule(name, re.compile(pattern.replace(" ", r"\s+"), re.I), write)


RULES = (
    rule("per", rf"(?<![\w./'-]){COUNTED} an? {UNIT}\b{NO_CLAUSE}", "per object, image, batch, call"),
    rule("instead of", r"\bin (?:(?:the|its|their) )?place of\b", "instead of"),
    rule("thing", r"(?<![a-z])things?(?![a-z])", "object, annotation, sample"),
    rule("image", r"(?<![a-z])(?<!--)pictures?(?![a-z/]|_objects)", "image"),
    rule("video", r"(?<![a-z])films?(?![a-z])", "video"),
    rule("CPU", r"\b(?:on|of) (?:a|an|this|one) (?:AVX\S* )?processor\b|\bon the processor\b", "CPU"),
    rule("CPU", r"\blaptop's processor\b|\bprocessors? (?:seconds|time|cores?|with (?:AMX|AVX|8-bit))", "CPU"),
    rule("metric", r"\bfigures? (?:of|names?|that|stands?|are|is)\b", "metric, score, number"),
    rule("metric", r"\b(?:its|their|these|all|every|held-out|no) figures?\b", "metric, score, number"),
    rule("resume", r"\bgo(?:es|ing)? on (?:where|from|as if|with the next)\b|\bwent on where\b", "resume, continue"),
    rule("check", r"\b(?:hold|holds|held|holding) (?:it |them |\w+ )?against\b", "validate, check, compare"),
    rule("skip", r"\blet \w+ pass by\b|\bpasses by\b", "skip, update"),
    rule("raise", r"\banswer(?:s|ed)? with (?:an? )?(?:`?InputError|error|None\b)", "raises, returns"),
    rule("class names", r"\bclass (?-i:Looked|Kept|Known|Stated|Scored|Asked|Found|Given|Made|Drawn|Seen)\b", "a noun"),
)

QUOTED = ("thing", "image")
"""Rules that do not hold in tests, which quote generated questions, prompts and file names."""

# (file, rule, exact words around the match), each with its reason.
ALLOWED = (
    # Questions and answers of the generated data, quoted.
    ("docs/conversation.md", "thing", ""),
    ("docs/reason.md", "thing", "most hidden thing"),
    ("docs/reason.md", "thing", "Which of these things has wings"),
    ("docs/log/aura-models.md", "thing", "which thing would be the largest?"),
    # The former name of a parameter.
    ("CHANGELOG.md", "image", "picture_size=...)` | `AmodalSegmenter"),
    # Words that people write, as patterns; a list of stop words, and COCO's term.
    ("src/amodal/datagen/claim_kinds.py", "thing", "objects?|things?"),
    ("src/amodal/datagen/claim_kinds.py", "image", "image|picture|frame"),
    ("src/amodal/datagen/rules.py", "thing", "these they things this"),
    ("src/amodal/data/samples.py", "thing", "in COCO's terms"),
    # The name of a folder in the output of a run.
    ("src/amodal/training/record.py", "image", 'SHEETS = "pictures"'),
)


class Hit(NamedTuple):
    """One place where a rule's pattern matches."""

    file: str
    line: int
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.rule}: {self.text.strip()}"


def hits(text: str, file: str = "") -> Iterator[Hit]:
    """Every match of a rule in a text that no exception covers; a phrase may run over the end of a line."""
    text = re.sub(r"^````.*?^````", lambda m: re.sub(r"[^\n]", " ", m[0]), text, flags=re.M | re.S)  # quoted prompts
    text = re.sub(r"\n(?=[ \t]*\n)", "\0", text)  # no phrase runs over an empty line
    joined = re.sub(r"\n[ \t]*(?:#|//|\*|>)?[ \t]*", lambda m: " " * len(m[0]), text)
    for name, pattern, _ in RULES:
        if file.startswith("tests/") and name in QUOTED:
            continue
        for match in pattern.finditer(joined):
            around = re.sub(r"\s+", " ", joined[max(0, match.start() - 60) : match.end() + 60])
            if not any(f == file and r == name and words in around for f, r, words in ALLOWED):
                yield Hit(file, len(re.findall(r"[\n\0]", text[: match.start()])) + 1, name, around)


def files() -> list[Path]:
    found = [path for folder, kinds in FOLDERS.items() for path in (ROOT / folder).rglob("*") if path.suffix in kinds]
    return sorted([*(path for path in found if path != Path(__file__)), *(ROOT / name for name in PAGES)])


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_follows_the_glossary(path: Path) -> None:
    found = list(hits(path.read_text(), str(path.relative_to(ROOT))))
    assert not found, "\n".join(map(str, found))


BAD = [
    ("objects a batch", "per"),
    ("three masks an object", "per"),
    ("one scene an image", "per"),
    ("prints one an image", "per"),
    ("32 a step", "per"),
    ("three PNG masks\nan object", "per"),
    ("18,000 page faults a call", "per"),
    ("97 ms in the place of 71", "instead of"),
    ("in the\n    # place of the filled box", "instead of"),
    ("for thing in scene.objects:", "thing"),
    ("thing_ids = []", "thing"),
    ("What a Thing is", "thing"),
    ("the picture's size", "image"),
    ("picture_size: int", "image"),
    ("write a film", "video"),
    ("on a laptop's processor", "CPU"),
    ("processor seconds", "CPU"),
    ("every figure it prints", "metric"),
    ("goes on where it was", "resume"),
    ("hold it against the schema", "check"),
    ("Let objects pass by", "skip"),
    ("answers with an InputError", "raise"),
    ("class Looked:", "class names"),
]


@pytest.mark.parametrize(("text", "name"), BAD)
def test_phrases_that_the_glossary_replaces_are_found(text: str, name: str) -> None:
    assert name in {hit.rule for hit in hits(text)}


@pytest.mark.parametrize(
    "text",
    [
        "three masks per object",
        "Read an image and return a batch.",
        "the mask of an object in an image",
        "A phrase names an object.",
        "a box around an object; a point on an object",
        "two masks: an object and an image",
        "which of two is an object",
        "something, nothing, anything",
        "instead of the filled box",
        "The processor of the model prepares an image.",
        "at most 5 an hour",
        "plt.figure()",
        "for objects an images_folder entry",
    ],
)
def test_ordinary_english_passes(text: str) -> None:
    assert not list(hits(text))


@pytest.mark.parametrize("exception", ALLOWED, ids=str)
def test_every_exception_is_still_needed(exception: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    file, name, words = exception
    others = tuple(entry for entry in ALLOWED if entry != exception)
    monkeypatch.setitem(globals(), "ALLOWED", others)
    assert any(hit.rule == name and words in hit.text for hit in hits((ROOT / file).read_text(), file))
