"""The words of questions about procedural scenes: what things are for, and how one asks.

Each `Wording` keeps the forms a model trains on apart from forms that are held out to see whether it
understands more than it has heard. Held-out forms are made of words that also occur in the training
forms: a model trained from scratch on these questions can know no others.

Slots: `{x}`, `{y}` names of things ("the left mug"), `{kind}` a bare noun and `{a_kind}` one with its
article, `{gap}` a verb phrase whose object is asked for ("drink from"), `{trait}` a predicate ("can
fly"), `{need}` a sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Words = Literal["train", "held_out"]
WORDS: tuple[str, ...] = get_args(Words)


@dataclass(frozen=True)
class Wording:
    """Forms of one thing to say; `yes_no` forms are answered with Yes or No first."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]

    def of(self, words: Words) -> tuple[str, ...]:
        """The forms of one side."""
        return self.train if words == "train" else self.held_out


@dataclass(frozen=True)
class Purpose:
    """What some kinds of things are good for or have in common.

    Attributes:
        kinds: all kinds of `THINGS` that fit.
        gap: "You could {gap} the mug."
        need: why somebody asks, or None.
        trait: "Nothing here {trait}.", or None.
    """

    kinds: frozenset[str]
    gap: Wording | None = None
    need: Wording | None = None
    trait: Wording | None = None


def _purpose(
    kinds: str,
    *,
    gap: tuple[tuple[str, ...], tuple[str, ...]] | None = None,
    need: tuple[tuple[str, ...], tuple[str, ...]] | None = None,
    trait: tuple[tuple[str, ...], tuple[str, ...]] | None = None,
) -> Purpose:
    """Forms are pairs (training, held out)."""
    wordings = (None if pair is None else Wording(*pair) for pair in (gap, need, trait))
    return Purpose(frozenset(kind.strip() for kind in kinds.split(",")), *wordings)


PURPOSES: tuple[Purpose, ...] = (
    _purpose("mug, wine glass, bottle",
             gap=(("drink from", "drink some water from"), ("have a drink from",)),
             need=(("I am thirsty.", "I would like to have a drink."), ("I would like to drink some water.",))),
    _purpose("teapot",
             gap=(("pour tea from", "serve hot tea from"), ("serve some tea from",)),
             need=(("My guests would like tea.", "It is time for some tea."), ("I would like some tea.",))),
    _purpose("apple, banana, pear",
             gap=(("make a fruit salad from", "make sweet juice from"), ("make sweet fruit juice from",)),
             need=(("I feel like a piece of fruit.", "I need fruit for a salad."), ("I would like some fruit.",)),
             trait=(("is a fruit", "grows on a tree and is sweet"), ("is a sweet fruit",))),
    _purpose("chair",
             gap=(("sit on", "sit down on"), ("sit for some time on",)),
             need=(("I am tired and want to sit.", "My legs are tired."), ("I want to sit down.",))),
    _purpose("table",
             gap=(("put the plates on", "have dinner at"), ("have lunch at",)),
             need=(("I am looking for a place for the plates.",), ("I am looking for a place for dinner.",))),
    _purpose("chair, table", trait=(("is a piece of furniture", "is furniture with legs"), ("is furniture",))),
    _purpose("car, bus",
             gap=(("ride on a road in", "drive to town in"), ("drive on a road in",)),
             need=(("I have to get across town.", "I want to go for a drive."), ("I want to drive across town.",)),
             trait=(("has wheels", "drives on a road"), ("has wheels for the road",))),
    _purpose("bus",
             gap=(("travel with many people in",), ("drive with many people in",)),
             need=(("Thirty people have to get to town.",), ("Many people have to get across town.",))),
    _purpose("sailboat",
             gap=(("sail in", "cross a lake in"), ("sail across a lake in",)),
             need=(("I want to go across the lake.", "There is a good wind for a trip on the water."),
                   ("I want to cross the water.",)),
             trait=(("is a boat with a sail", "needs wind to move"), ("needs wind and water to move",))),
    _purpose("bird, butterfly, cat, fish",
             trait=(("is an animal", "is alive and can move", "needs to be fed"), ("is alive and needs to be fed",))),
    _purpose("bird, butterfly", trait=(("can fly", "has wings"), ("has wings and can fly",))),
    _purpose("fish", trait=(("can swim", "lives in the water"), ("can swim in a lake",)),
             need=(("I went to the lake with a net.",), ("I have a net for the lake.",))),
    _purpose("cat",
             gap=(("pet", "hear purring from"), ("hear and pet",)),
             trait=(("hunts mice", "says meow"), ("likes mice",)),
             need=(("There are mice in my home.", "I need someone who likes mice."), ("I have mice at home.",))),
    _purpose("plant, tree, mushroom",
             trait=(("grows in the ground", "grows in a forest or a pot"), ("grows in a pot or in the ground",))),
    _purpose("tree", gap=(("climb", "hang a swing from"), ("climb and hang a swing from",)),
             need=(("We want to hang up a swing.",), ("We need a place for a swing.",))),
    _purpose("plant", need=(("I want to grow green leaves at my window.",), ("I want green leaves at home.",))),
    _purpose("mushroom",
             need=(("I went to the forest to fill my basket.", "I want to pick something in the forest."),
                   ("I went to pick something in the forest.",))),
    _purpose("hat",
             gap=(("keep my head warm with",), ("keep my head and ears warm with",)),
             need=(("The wind makes my ears cold.", "My head is cold."), ("My head and ears are cold.",))),
    _purpose("boot",
             gap=(("walk in the mud in", "keep my foot warm in"), ("keep my feet warm in",)),
             need=(("My feet are cold.", "I have to walk in the mud."), ("I have cold feet.",))),
    _purpose("hat, boot", trait=(("is a piece of clothing", "is clothing for cold days"), ("is clothing",))),
    _purpose("backpack",
             gap=(("carry my books in", "pack my lunch in"), ("carry my lunch in",)),
             need=(("I am going for a long walk with many things.", "I have to carry my lunch."),
                   ("I have to carry many things.",))),
    _purpose("scissors",
             gap=(("cut paper with", "cut a string with"), ("cut a long string with",)),
             need=(("This string is too long.", "I have to cut some paper."), ("This paper is too long.",))),
    _purpose("hammer",
             gap=(("drive a nail in with", "hit a nail with"), ("drive a nail with",)),
             need=(("There is a nail I want in the wall.",), ("I want a nail in the wall.",))),
    _purpose("hammer, scissors", trait=(("is a tool", "is a tool for work"), ("is for work",))),
    _purpose("key",
             gap=(("open a lock with", "open my door with"), ("open a door with",)),
             need=(("The door is locked.", "I cannot get into my home."), ("My home is locked.",))),
    _purpose("umbrella",
             gap=(("keep dry under", "walk in the rain under"), ("keep dry in the rain under",)),
             need=(("It is going to rain.", "I do not want to get wet."), ("I do not want to walk in the rain.",))),
    _purpose("guitar",
             gap=(("play a song on", "make music on"), ("play music on",)),
             need=(("We want to sing and need music.",), ("We want to make music.",))),
    _purpose("clock",
             gap=(("tell the time by", "wake up by"), ("wake up in time by",)),
             need=(("I must not be late.", "I wonder what time it is."), ("I must wake up in time.",))),
    _purpose("book",
             gap=(("read", "learn a story from"), ("read a story from",)),
             need=(("I would like to hear a story.", "I am bored and want to read."), ("I want to learn a story.",))),
    _purpose("lamp",
             gap=(("light the room with", "light my way at night with"), ("light a room with",)),
             need=(("It is too dark in here.", "I cannot see at night."), ("It is dark at night.",))),
    _purpose("spoon",
             gap=(("eat soup with", "stir my tea with"), ("stir soup with",)),
             need=(("My soup is getting cold.", "There is sugar in my tea."), ("I want to eat my soup.",))),
    _purpose("ball",
             gap=(("kick", "play football with"), ("play a game of football with",)),
             need=(("We want to play a game of football.", "We are going to play football."),
                   ("We want to play football.",))),
    _purpose("house",
             gap=(("live in", "spend the night in"), ("live and spend the night in",)),
             need=(("We need a roof over our heads.",), ("We need a roof.",)),
             trait=(("is a building", "is a building for people to live in"), ("is a building for people",))),
)  # fmt: skip
"""No kind outside `kinds` may fit: "nothing here" is said where none of them is in the picture."""

GAP = Wording(
    ("What could I {gap}?", "What is there to {gap}?", "Show me what I could {gap}.", "I want something to {gap}.",
     "Find me something to {gap}.", "What would you {gap}?"),
    ("What do you see that I could {gap}?", "What would I find here to {gap}?"),
)  # fmt: skip
GAP_YES_NO = Wording(
    ("Is there anything to {gap}?", "Do you see something I could {gap}?", "Could I {gap} anything here?"),
    ("Is there something here to {gap}?", "Do you see anything to {gap}?"),
)
NEED = Wording(
    (
        "{need} What could help me?",
        "{need} What should I take?",
        "{need} What do you see for me?",
        "{need} What here helps?",
    ),
    ("{need} What here could I take?", "{need} What should help me?"),
)
NEED_YES_NO = Wording(
    ("{need} Is there anything that could help?", "{need} Does anything here help me?"),
    ("{need} Is there something here that could help me?",),
)
TRAIT = Wording(
    ("What here {trait}?", "Which of these things {trait}?", "Show me everything that {trait}.",
     "Find all that {trait}.", "What do you see that {trait}?"),
    ("Find me everything here that {trait}.", "Which thing here {trait}?"),
)  # fmt: skip
TRAIT_YES_NO = Wording(
    ("Is there anything that {trait}?", "Do you see something that {trait}?"),
    ("Is there something here that {trait}?",),
)
WITH_OCCLUDER = Wording(
    ("What could I {gap}, and what hides it?", "What is there to {gap}, and what is in front of it?"),
    ("What could I {gap}, and what is in front of it?",),
)

WHERE = Wording(
    ("Where is the {kind}?", "Show me the whole {kind}.", "Find the {kind}.", "Do you see {a_kind}?"),
    ("Where do you see the {kind}?", "Find me the whole {kind}."),
)
EACH = Wording(("Show me each {kind}.", "Find each {kind} here."), ("Find me each {kind}.",))
MOVE = Wording(
    ("What must be moved to reach {x}?", "What must I move before I can lift {x}?",
     "What do I have to move to see all of {x}?", "What should I take away to get {x}?",
     "What is in the way of {x}?", "I want {x}. What must I move first?"),
    ("What must I take away before I can reach {x}?", "To lift {x}, what do I have to move first?"),
)  # fmt: skip
HIDES = Wording(
    ("What hides {x}?", "What is in front of {x}?", "What covers part of {x}?", "Behind what is {x}?",
     "Why can I not see all of {x}?"),
    ("What covers {x}?", "What is in front of a part of {x}?"),
)  # fmt: skip
BEHIND = Wording(
    (
        "What is behind {x}?",
        "What is partly hidden by {x}?",
        "What is covered by {x}?",
        "Show me what {x} is in front of.",
    ),
    ("What is partly covered by {x}?", "Find what is behind {x}."),
)
REVEAL = Wording(
    ("If I took {x} away, what would I see whole?", "What would no longer be hidden without {x}?",
     "What could be seen whole if {x} were not here?"),
    ("What would I see whole without {x}?", "If {x} were not here, what would no longer be hidden?"),
)  # fmt: skip
MOST_HIDDEN = Wording(
    ("What is hidden most?", "Which thing is hidden the most?", "What can I see the least of?",
     "Of what is the largest part covered?",
     "What here is hardest to see?"),
    ("Which thing here is covered most?", "Of which thing can I see the least?"),
)  # fmt: skip
HIDDEN = Wording(
    ("Which things are partly hidden?", "What is behind something else?", "Show me everything that is partly covered.",
     "What can I not see all of?"),
    ("Find everything that is behind something else.", "Which things can I not see all of?"),
)  # fmt: skip
WHOLE = Wording(
    ("Which things are not hidden at all?", "What can I see all of?", "Show me everything that nothing covers.",
     "What has nothing in front of it?"),
    ("Which things have nothing in front?", "Find everything that I can see all of."),
)  # fmt: skip
LARGEST = Wording(
    (
        "Which thing is the largest?",
        "What would take the most room if nothing were hidden?",
        "What is the largest thing when it is seen whole?",
    ),
    ("If nothing were hidden, which thing would be the largest?",),
)
SMALLEST = Wording(
    (
        "Which thing is the smallest?",
        "What would take the least room if nothing were hidden?",
        "What is the smallest thing when it is seen whole?",
    ),
    ("If nothing were hidden, which thing would be the smallest?",),
)
EDGE = Wording(
    ("What is cut off by the edge of the picture?", "Which things reach out of the picture?"),
    ("Which things are cut off by the edge?",),
)
MORE_HIDDEN = Wording(
    ("Which is hidden more, {x} or {y}?", "What can I see less of, {x} or {y}?"),
    ("Of which can I see less, {x} or {y}?",),
)
IN_FRONT = Wording(
    ("Which is in front, {x} or {y}?", "Which could I take first, {x} or {y}?"), ("{x} or {y}, which is in front?",)
)

# Follow-ups: "it" is the one thing the answer before named, "them" the several.
IT_HIDES = Wording(
    ("What hides it?", "Is anything in front of it?", "What must I move to reach it?", "And what is in the way of it?"),
    ("And what must I move to reach it?", "Is there anything in front of it?"),
)
IT_BEHIND = Wording(("And what is behind it?", "Is anything behind it?"), ("Is there anything behind it?",))
IT_SEEN = Wording(
    ("How much of it can I see?", "Is it hidden?", "Can I see all of it?"),
    ("How much of it is hidden?", "Is all of it hidden?"),
)
THEM_MOST = Wording(
    ("Which of them is hidden most?", "Of which of them can I see the least?"),
    ("And which of them is hidden the most?",),
)
THEM_LARGEST = Wording(
    ("Which of them is the largest?", "And the largest of them?"), ("And which of them is the largest?",)
)
AND_HIDES = Wording(("And what hides {x}?", "And what is in front of {x}?"), ("And what covers {x}?",))

DEGREES = ((0.0, "all"), (0.2, "most"), (0.4, "a good part"), (0.6, "about half"), (1.0, "less than half"))
"""Largest occlusion rate at which so much of a thing can be seen."""
