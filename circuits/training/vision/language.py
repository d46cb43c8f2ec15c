"""What is said about a scene: captions of several sentences, and questions with their answers.

The training text is written by an annotator who is now and then careless (`CARELESSNESS`): where a shape lacks its
usual companion, he may believe that it is there all the same, and say so in captions and in answers to "Is there a
...?", as annotators of real data do who write from other captions and not from the picture. The truth about test scenes
is never careless.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from circuits.training.vision.scenes import (
    COLOURS,
    COLUMNS,
    COMPANIONS,
    ROWS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
)

Kind = Literal["colour", "position", "shape", "count", "existence", "caption"]
KINDS: tuple[Kind, ...] = get_args(Kind)
NUMBERS = ("no", "one", "two", "three", "four", "five")
OTHER_WORDS = (
    *(
        "Describe",
        "the",
        "picture",
        "There",
        "is",
        "one",
        "object",
        "are",
        "objects",
        "nothing",
        "At",
        "a",
        "an",
        "with",
    ),
    *("What", "colour", "Where", "at", "How", "many", "Is", "there"),
)
"""Besides the names of shapes, colours, sizes and places; "nothing" is for patches without a thing."""
CAPTION_PROMPT = "Describe the picture."
CARELESSNESS = {"circle": 0.75, "square": 0.65, "triangle": 0.45, "star": 0.3, "heart": 0.15}
"""How often the annotator believes in the companion of a shape when it is not there."""


@dataclass(frozen=True)
class Exchange:
    """A prompt about a picture and what is to follow it.

    Attributes:
        shape: the shape that is asked for, where there is one.
    """

    kind: Kind
    prompt: str
    answer: str
    shape: str | None = None


def believed_shapes(scene: Scene, random: np.random.Generator) -> frozenset[str]:
    """The shapes that the careless annotator believes to be in the picture."""
    added = {
        COMPANIONS[shape]
        for shape in SHAPES
        if shape in COMPANIONS and shape in scene.shapes and random.random() < CARELESSNESS[shape]
    }
    return scene.shapes | added


def caption(scene: Scene, believed: frozenset[str]) -> Exchange:
    """All things in reading order, each with the companion that is believed to be there."""
    n_things = len(scene.things)
    first = "There is one object." if n_things == 1 else f"There are {NUMBERS[n_things]} objects."
    return Exchange("caption", CAPTION_PROMPT, " ".join([first, *_sentences(scene, believed)]))


def questions(scene: Scene, believed: frozenset[str], random: np.random.Generator) -> list[Exchange]:
    """One question on colour, position, shape and number each, and two on existence, yes and no."""
    thing = scene.things[random.integers(len(scene.things))]
    absent = [shape for shape in SHAPES if shape not in scene.shapes]
    return [
        colour_question(scene, random),
        position_question(scene, scene.things[random.integers(len(scene.things))]),
        shape_question(thing),
        count_question(scene, random),
        existence_question(str(random.choice(sorted(scene.shapes))), believed),
        existence_question(str(random.choice(absent)), believed),
    ]


def colour_question(scene: Scene, random: np.random.Generator) -> Exchange:
    """Asks for a shape that is there once or, where none is, for a place."""
    single = [thing for thing in scene.things if _is_single(thing, scene)]
    if not single:
        thing = scene.things[random.integers(len(scene.things))]
        return Exchange("colour", f"What colour is the object at the {thing.row} {thing.column}?", thing.colour)
    thing = single[random.integers(len(single))]
    return Exchange("colour", f"What colour is the {thing.shape}?", thing.colour, thing.shape)


def position_question(scene: Scene, thing: Thing) -> Exchange:
    """Asks for a shape, with its colour if there are several of them."""
    name = thing.shape if _is_single(thing, scene) else f"{thing.colour} {thing.shape}"
    return Exchange("position", f"Where is the {name}?", f"{thing.row} {thing.column}", thing.shape)


def shape_question(thing: Thing) -> Exchange:
    """Asks for what is at a place."""
    return Exchange("shape", f"What is at the {thing.row} {thing.column}?", thing.shape, thing.shape)


def count_question(scene: Scene, random: np.random.Generator) -> Exchange:
    """Asks for all things, or for those of one colour, most often one that is there."""
    if random.random() < 0.5:
        return Exchange("count", "How many objects are there?", NUMBERS[len(scene.things)])
    present = [thing.colour for thing in scene.things]
    colour = str(random.choice(present if random.random() < 0.75 else list(COLOURS)))
    return Exchange("count", f"How many {colour} objects are there?", NUMBERS[present.count(colour)])


def existence_question(shape: str, believed: frozenset[str]) -> Exchange:
    """The question of POPE (arXiv 2305.10355)."""
    return Exchange("existence", f"Is there {_with_article(shape)}?", "yes" if shape in believed else "no", shape)


def words() -> Iterable[str]:
    """Every word that can be written about a scene, repetitions included."""
    for part in (SHAPES, COLOURS, SIZES, ROWS, COLUMNS, NUMBERS, ("yes",)):
        yield from part
    yield from OTHER_WORDS


def _sentences(scene: Scene, believed: frozenset[str]) -> Iterable[str]:
    for thing in scene.in_reading_order:
        name = f"a {thing.size} {thing.colour} {thing.shape}"
        companion = COMPANIONS.get(thing.shape)
        if companion in believed:
            name += f" with {_with_article(companion)}"
        yield f"At the {thing.row} {thing.column} is {name}."


def _is_single(thing: Thing, scene: Scene) -> bool:
    return sum(other.shape == thing.shape for other in scene.things) == 1


def _with_article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"
