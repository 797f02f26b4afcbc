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
             gap=(("drink from", "drink some water from", "have some water from"), ("have a drink from",)),
             need=(("I am thirsty.", "I would like to have a drink.", "I want something to drink."),
                   ("I would like to drink some water.",))),
    _purpose("teapot",
             gap=(("pour tea from", "serve hot tea from", "make hot tea in"), ("serve some tea from",)),
             need=(("My guests would like tea.", "It is time for some tea.", "I want to serve tea to my guests."),
                   ("I would like some tea.",))),
    _purpose("apple, banana, pear",
             gap=(("make a fruit salad from", "make sweet juice from", "make a salad of sweet fruit from"),
                  ("make sweet fruit juice from",)),
             need=(("I feel like a piece of fruit.", "I need fruit for a salad.",
                    "I want to make a fruit salad."), ("I would like some fruit.",)),
             trait=(("is a fruit", "grows on a tree and is sweet", "is sweet and grows on a tree"),
                    ("is a sweet fruit",))),
    _purpose("chair",
             gap=(("sit on", "sit down on", "sit and read on"), ("sit for some time on",)),
             need=(("I am tired and want to sit.", "My legs are tired.", "My legs and feet are tired."),
                   ("I want to sit down.",))),
    _purpose("table",
             gap=(("put the plates on", "have dinner at", "put dinner on"), ("have lunch at",)),
             need=(("I am looking for a place for the plates.", "I want to put the plates down."),
                   ("I am looking for a place for dinner.",))),
    _purpose("chair, table",
             trait=(("is a piece of furniture", "is furniture with legs", "is furniture for a room"),
                    ("is furniture",))),
    _purpose("car, bus",
             gap=(("ride on a road in", "drive to town in", "get across town in"), ("drive on a road in",)),
             need=(("I have to get across town.", "I want to go for a drive.", "I have to drive to town."),
                   ("I want to drive across town.",)),
             trait=(("has wheels", "drives on a road", "has wheels and drives"), ("has wheels for the road",))),
    _purpose("bus",
             gap=(("travel with many people in", "get thirty people to town in"), ("drive with many people in",)),
             need=(("Thirty people have to get to town.", "I travel with thirty people."),
                   ("Many people have to get across town.",))),
    _purpose("sailboat",
             gap=(("sail in", "cross a lake in", "make a trip on the water in"), ("sail across a lake in",)),
             need=(("I want to go across the lake.", "There is a good wind for a trip on the water.",
                    "I want to sail on the lake."), ("I want to cross the water.",)),
             trait=(("is a boat with a sail", "needs wind to move", "is a boat for the lake"),
                    ("needs wind and water to move",))),
    _purpose("bird, butterfly, cat, fish",
             trait=(("is an animal", "is alive and can move", "needs to be fed", "is an animal that can move"),
                    ("is alive and needs to be fed",))),
    _purpose("bird, butterfly",
             trait=(("can fly", "has wings", "is an animal with wings", "can fly in the wind"),
                    ("has wings and can fly",))),
    _purpose("fish",
             trait=(("can swim", "lives in the water", "is an animal that can swim"), ("can swim in a lake",)),
             need=(("I went to the lake with a net.", "I want to fill my net at the lake."),
                   ("I have a net for the lake.",))),
    _purpose("cat",
             gap=(("pet", "hear purring from", "hear a meow from"), ("hear and pet",)),
             trait=(("hunts mice", "says meow", "is an animal that hunts mice"), ("likes mice",)),
             need=(("There are mice in my home.", "I need someone who likes mice.",
                    "There are mice in the house."), ("I have mice at home.",))),
    _purpose("plant, tree, mushroom",
             trait=(("grows in the ground", "grows in a forest or a pot",
                     "grows in the ground of a forest or in a pot"), ("grows in a pot or in the ground",))),
    _purpose("tree",
             gap=(("climb", "hang a swing from", "climb up"), ("climb and hang a swing from",)),
             need=(("We want to hang up a swing.", "I want to climb."), ("We need a place for a swing.",))),
    _purpose("plant",
             need=(("I want to grow green leaves at my window.", "I would like green leaves in my room."),
                   ("I want green leaves at home.",))),
    _purpose("mushroom",
             need=(("I went to the forest to fill my basket.", "I want to pick something in the forest.",
                    "I have a basket for the forest."), ("I went to pick something in the forest.",))),
    _purpose("hat",
             gap=(("keep my head warm with", "keep the wind from my ears with"),
                  ("keep my head and ears warm with",)),
             need=(("The wind makes my ears cold.", "My head is cold.", "My ears are cold in the wind."),
                   ("My head and ears are cold.",))),
    _purpose("boot",
             gap=(("walk in the mud in", "keep my foot warm in", "walk in cold mud in"), ("keep my feet warm in",)),
             need=(("My feet are cold.", "I have to walk in the mud.", "There is mud on my way."),
                   ("I have cold feet.",))),
    _purpose("hat, boot",
             trait=(("is a piece of clothing", "is clothing for cold days",
                     "is a piece of clothing for cold days"), ("is clothing",))),
    _purpose("backpack",
             gap=(("carry my books in", "pack my lunch in", "pack my books in"), ("carry my lunch in",)),
             need=(("I am going for a long walk with many things.", "I have to carry my lunch.",
                    "I have to pack my books."), ("I have to carry many things.",))),
    _purpose("scissors",
             gap=(("cut paper with", "cut a string with", "cut a piece of paper with"), ("cut a long string with",)),
             need=(("This string is too long.", "I have to cut some paper.", "I want to cut a string."),
                   ("This paper is too long.",))),
    _purpose("hammer",
             gap=(("drive a nail in with", "hit a nail with", "hit some nails with"), ("drive a nail with",)),
             need=(("There is a nail I want in the wall.", "I have to hit a nail."),
                   ("I want a nail in the wall.",))),
    _purpose("hammer, scissors",
             trait=(("is a tool", "is a tool for work", "is a tool that helps"), ("is for work",))),
    _purpose("key",
             gap=(("open a lock with", "open my door with", "get into my home with"), ("open a door with",)),
             need=(("The door is locked.", "I cannot get into my home.", "I want to open my door."),
                   ("My home is locked.",))),
    _purpose("umbrella",
             gap=(("keep dry under", "walk in the rain under", "take a walk in the rain under"),
                  ("keep dry in the rain under",)),
             need=(("It is going to rain.", "I do not want to get wet.", "I have to go for a walk in the rain."),
                   ("I do not want to walk in the rain.",))),
    _purpose("guitar",
             gap=(("play a song on", "make music on", "play music and sing with"), ("play music on",)),
             need=(("We want to sing and need music.", "I would like to play a song."), ("We want to make music.",))),
    _purpose("clock",
             gap=(("tell the time by", "wake up by", "see the time by"), ("wake up in time by",)),
             need=(("I must not be late.", "I wonder what time it is.", "I do not want to be late."),
                   ("I must wake up in time.",))),
    _purpose("book",
             gap=(("read", "learn a story from", "hear a story from"), ("read a story from",)),
             need=(("I would like to hear a story.", "I am bored and want to read.", "I want something to read."),
                   ("I want to learn a story.",))),
    _purpose("lamp",
             gap=(("light the room with", "light my way at night with", "see at night with"),
                  ("light a room with",)),
             need=(("It is too dark in here.", "I cannot see at night.", "I need light at night."),
                   ("It is dark at night.",))),
    _purpose("spoon",
             gap=(("eat soup with", "stir my tea with", "eat hot soup with"), ("stir soup with",)),
             need=(("My soup is getting cold.", "There is sugar in my tea.", "I want to stir my tea."),
                   ("I want to eat my soup.",))),
    _purpose("ball",
             gap=(("kick", "play football with", "kick and play football with"), ("play a game of football with",)),
             need=(("We want to play a game of football.", "We are going to play football.",
                    "I want to kick something."), ("We want to play football.",))),
    _purpose("house",
             gap=(("live in", "spend the night in", "live with many people in"), ("live and spend the night in",)),
             need=(("We need a roof over our heads.", "We need a place to live."), ("We need a roof.",)),
             trait=(("is a building", "is a building for people to live in", "is a building with a roof"),
                    ("is a building for people",))),
)  # fmt: skip
"""No kind outside `kinds` may fit: "nothing here" is said where none of them is in the picture."""

GAP = Wording(
    ("What could I {gap}?", "What is there to {gap}?", "Show me what I could {gap}.",
     "I want something to {gap}.", "Find me something to {gap}.", "What would you {gap}?",
     "What here could I {gap}?", "Which thing could I {gap}?", "I would like to {gap} something.",
     "What do you see that I could {gap}?", "What would I find here to {gap}?", "What do you see to {gap}?"),
    ("What is here that I could {gap}?", "Which of these things would you {gap}?"),
)  # fmt: skip
GAP_YES_NO = Wording(
    ("Is there anything to {gap}?", "Do you see something I could {gap}?", "Could I {gap} anything here?",
     "Is anything here good to {gap}?", "Can I find anything to {gap}?", "Is there something here to {gap}?",
     "Do you see anything to {gap}?", "Is there anything here I could {gap}?"),
    ("Can you see something to {gap}?",),
)  # fmt: skip
NEED = Wording(
    ("{need} What could help me?", "{need} What should I take?", "{need} What do you see for me?",
     "{need} What here helps?", "{need} What would help?", "{need} Which thing could help me?",
     "{need} Find me something that helps.", "{need} Show me what helps.", "{need} What here could I take?",
     "{need} What should help me?", "{need} What could I take?"),
    ("{need} What do you see that helps?", "{need} Which of these things should I take?"),
)  # fmt: skip
NEED_YES_NO = Wording(
    ("{need} Is there anything that could help?", "{need} Does anything here help me?",
     "{need} Could something here help me?", "{need} Do you see anything that helps?",
     "{need} Is there something here that could help me?", "{need} Is there something that helps?"),
    ("{need} Do you see something that could help?",),
)  # fmt: skip
TRAIT = Wording(
    ("What here {trait}?", "Which of these things {trait}?", "Show me everything that {trait}.",
     "Find all that {trait}.", "What do you see that {trait}?", "What is there that {trait}?",
     "Show me what {trait}.", "Find something that {trait}.", "Find me everything here that {trait}.",
     "Which thing here {trait}?", "Find all here that {trait}."),
    ("Show me all here that {trait}.", "What can you see that {trait}?"),
)  # fmt: skip
TRAIT_YES_NO = Wording(
    ("Is there anything that {trait}?", "Do you see something that {trait}?",
     "Can you see anything that {trait}?", "Do you see anything here that {trait}?",
     "Is there something here that {trait}?"),
    ("Can I find something here that {trait}?",),
)  # fmt: skip
WITH_OCCLUDER = Wording(
    ("What could I {gap}, and what hides it?", "What is there to {gap}, and what is in front of it?",
     "Show me what I could {gap} and what hides it.", "I want something to {gap}. What hides it?",
     "What could I {gap}, and what is in front of it?"),
    ("What would you {gap}, and what hides it?",),
)  # fmt: skip

WHERE = Wording(
    ("Where is the {kind}?", "Show me the whole {kind}.", "Find the {kind}.", "Do you see {a_kind}?",
     "Show me the {kind}.", "Is there {a_kind} here?", "I am looking for the {kind}.",
     "Where do you see the {kind}?", "Find me the whole {kind}.", "Find me the {kind}."),
    ("Can you find the {kind}?", "Where in the picture is the {kind}?"),
)  # fmt: skip
EACH = Wording(
    ("Show me each {kind}.", "Find each {kind} here.", "Where is each {kind}?", "Find me each {kind}."),
    ("Show me where each {kind} is.",),
)  # fmt: skip
MOVE = Wording(
    ("What must be moved to reach {x}?", "What must I move before I can lift {x}?",
     "What do I have to move to see all of {x}?", "What should I take away to get {x}?",
     "What is in the way of {x}?", "I want {x}. What must I move first?",
     "To see all of {x}, what must I move?", "Before I can take {x}, what must be moved?",
     "What do I have to take away to reach {x}?", "What must I take away before I can reach {x}?",
     "To lift {x}, what do I have to move first?", "To reach {x}, what should I move?",
     "Before I lift {x}, what must I take away?"),
    ("What should I move first to lift {x}?", "What do I have to take away before {x}?"),
)  # fmt: skip
HIDES = Wording(
    ("What hides {x}?", "What is in front of {x}?", "What covers part of {x}?", "Behind what is {x}?",
     "Why can I not see all of {x}?", "What is {x} behind?", "What hides part of {x}?",
     "What do you see in front of {x}?", "What covers {x}?", "What is in front of a part of {x}?"),
    ("What do I see in front of {x}?", "Which thing hides {x}?"),
)  # fmt: skip
BEHIND = Wording(
    ("What is behind {x}?", "What is partly hidden by {x}?", "What is covered by {x}?",
     "Show me what {x} is in front of.", "What do I see behind {x}?", "Show me what is behind {x}.",
     "Which things are partly behind {x}?", "What is partly covered by {x}?", "Find what is behind {x}.",
     "Is anything behind {x}?", "Find everything behind {x}."),
    ("Find everything that {x} is in front of.", "What do you see behind {x}?"),
)  # fmt: skip
REVEAL = Wording(
    ("If I took {x} away, what would I see whole?", "What would no longer be hidden without {x}?",
     "What could be seen whole if {x} were not here?", "What could I see whole if {x} were moved?",
     "Take {x} away. What is no longer hidden?", "What would I see whole without {x}?",
     "If {x} were not here, what would no longer be hidden?"),
    ("What would not be hidden without {x}?", "If {x} were moved, what could I see whole?"),
)  # fmt: skip
MOST_HIDDEN = Wording(
    ("What is hidden most?", "Which thing is hidden the most?", "What can I see the least of?",
     "Of what is the largest part covered?", "What here is hardest to see?", "Which thing is covered the most?",
     "What here is hidden most?", "Show me the thing that is hidden most.", "Which thing here is covered most?",
     "Of which thing can I see the least?", "Of what can I see the least?",
     "Of which thing is the largest part hidden?"),
    ("Find the thing that is covered most.", "What do I see the least of?"),
)  # fmt: skip
HIDDEN = Wording(
    ("Which things are partly hidden?", "What is behind something else?",
     "Show me everything that is partly covered.", "What can I not see all of?", "What is partly hidden here?",
     "Find each thing that is partly hidden.", "Show me the things that are hidden.",
     "Find everything that is behind something else.", "Which things can I not see all of?",
     "Find everything that is partly covered."),
    ("Show me each thing that I cannot see all of.", "What here is partly covered?"),
)  # fmt: skip
WHOLE = Wording(
    ("Which things are not hidden at all?", "What can I see all of?", "Show me everything that nothing covers.",
     "What has nothing in front of it?", "What is not hidden?", "Show me what I can see all of.",
     "Which things are seen whole?", "Which things have nothing in front?",
     "Find everything that I can see all of."),
    ("Find the things that nothing hides.", "What here is seen whole?"),
)  # fmt: skip
LARGEST = Wording(
    ("Which thing is the largest?", "What would take the most room if nothing were hidden?",
     "What is the largest thing when it is seen whole?", "Show me the largest thing.",
     "Find the largest thing here.", "Which thing would take the most room?",
     "If nothing were hidden, which thing would be the largest?",
     "If nothing were hidden, what would take the most room?", "Which is the largest thing here?"),
    ("Of all the things here, which is the largest?",),
)  # fmt: skip
SMALLEST = Wording(
    ("Which thing is the smallest?", "What would take the least room if nothing were hidden?",
     "What is the smallest thing when it is seen whole?", "Show me the smallest thing.",
     "Find the smallest thing here.", "Which thing would take the least room?",
     "If nothing were hidden, which thing would be the smallest?",
     "If nothing were hidden, what would take the least room?", "Which is the smallest thing here?"),
    ("Of all the things here, which is the smallest?",),
)  # fmt: skip
EDGE = Wording(
    ("What is cut off by the edge of the picture?", "Which things reach out of the picture?",
     "Show me all that is cut off by the edge of the picture.", "Which things are not all in the picture?",
     "Which things are cut off by the edge?"),
    ("What is not all in the picture?",),
)  # fmt: skip
MORE_HIDDEN = Wording(
    ("Which is hidden more, {x} or {y}?", "What can I see less of, {x} or {y}?", "Is {x} or {y} hidden more?",
     "Of {x} and {y}, which is hidden more?", "Which is covered more, {x} or {y}?",
     "Of which can I see less, {x} or {y}?"),
    ("Which thing is hidden more, {x} or {y}?",),
)  # fmt: skip
IN_FRONT = Wording(
    ("Which is in front, {x} or {y}?", "Which could I take first, {x} or {y}?", "Is {x} or {y} in front?",
     "Of {x} and {y}, which is in front?", "{x} or {y}, which is in front?",
     "{x} or {y}, which could I take first?"),
    ("Which thing is in front, {x} or {y}?",),
)  # fmt: skip

# Follow-ups: "it" is the one thing the answer before named, "them" the several.
IT_HIDES = Wording(
    ("What hides it?", "Is anything in front of it?", "What must I move to reach it?",
     "And what is in the way of it?", "What is in front of it?", "And what hides it?",
     "And what must I move to reach it?", "Is there anything in front of it?", "And is anything in front of it?"),
    ("And what covers it?", "What is in the way of it?"),
)  # fmt: skip
IT_BEHIND = Wording(
    ("And what is behind it?", "Is anything behind it?", "What is behind it?", "What is covered by it?",
     "Is there anything behind it?", "And is there something behind it?"),
    ("Do you see something behind it?",),
)  # fmt: skip
IT_SEEN = Wording(
    ("How much of it can I see?", "Is it hidden?", "Can I see all of it?", "How much of it is covered?",
     "Is part of it hidden?", "How much of it is hidden?", "Is all of it hidden?",
     "And how much of it can I see?"),
    ("Can I see the whole of it?", "How much of it do I see?"),
)  # fmt: skip
THEM_MOST = Wording(
    ("Which of them is hidden most?", "Of which of them can I see the least?", "Which of them is covered most?",
     "Of them, which is hidden most?", "And which of them is hidden the most?",
     "And which of them is covered most?"),
    ("And of which can I see the least?",),
)  # fmt: skip
THEM_LARGEST = Wording(
    ("Which of them is the largest?", "And the largest of them?", "Which is the largest of them?",
     "Which of them would take the most room?", "And which of them is the largest?"),
    ("Of them, what is the largest?",),
)  # fmt: skip
AND_HIDES = Wording(
    ("And what hides {x}?", "And what is in front of {x}?", "And what is in the way of {x}?",
     "And {x}? What hides it?", "And what covers {x}?", "And what hides part of {x}?"),
    ("And which thing hides {x}?",),
)  # fmt: skip

DEGREES = ((0.0, "all"), (0.2, "most"), (0.4, "a good part"), (0.6, "about half"), (1.0, "less than half"))
"""Largest occlusion rate at which so much of a thing can be seen."""
