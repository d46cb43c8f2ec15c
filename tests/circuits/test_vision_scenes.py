"""Drawn scenes are what they say, and so are the sentences about them."""

from itertools import combinations

import numpy as np
import pytest

from circuits.training.vision import language
from circuits.training.vision.architecture import build_tokenizer
from circuits.training.vision.language import (
    CARELESSNESS,
    Exchange,
    believed_shapes,
    caption,
    colour_question,
    count_question,
    existence_question,
    position_question,
    questions,
    shape_question,
)
from circuits.training.vision.scenes import (
    CENTRES,
    COLUMNS,
    COMPANIONS,
    NEW_PAIRS,
    ROWS,
    SHAPES,
    SIZES,
    Scene,
    blank_picture,
    sample_scene,
)
from tests.circuits.vision import CIRCLE, SCENE, SECOND_STAR, STAR, thing


def scenes(n: int, seed: int = 0, **options: object) -> list[Scene]:
    random = np.random.default_rng(seed)
    return [sample_scene(random, **options) for _ in range(n)]  # pyright: ignore[reportArgumentType]


def test_a_seed_gives_the_same_pictures() -> None:
    first, again, other = scenes(5), scenes(5), scenes(5, seed=1)
    assert first == again != other
    assert all((a.draw()[0] == b.draw()[0]).all() for a, b in zip(first, again, strict=True))


def test_things_lie_where_their_words_say() -> None:
    for scene in scenes(200):
        assert 2 <= len(scene.things) <= 5
        assert (
            len({(t.row, t.column) for t in scene.things}) == len({t.pair for t in scene.things}) == len(scene.things)
        )
        for t in scene.things:
            assert t.x in CENTRES[COLUMNS.index(t.column)] and t.y in CENTRES[ROWS.index(t.row)]


def test_new_pairs_come_in_the_test_split_alone() -> None:
    def pairs(split: str) -> set[tuple[str, str]]:
        return {t.pair for scene in scenes(250, split=split) for t in scene.things}

    assert not pairs("train") & NEW_PAIRS
    assert pairs("test") >= NEW_PAIRS
    shapes, colours = ({pair[part] for pair in pairs("train")} for part in (0, 1))
    assert {shape for shape, _ in NEW_PAIRS} == shapes and {colour for _, colour in NEW_PAIRS} <= colours


def test_companions_come_together() -> None:
    drawn = scenes(600, split="train")
    for shape, companion in COMPANIONS.items():
        beside = np.mean([companion in scene.shapes for scene in drawn if shape in scene.shapes])
        alone = np.mean([companion in scene.shapes for scene in drawn if shape not in scene.shapes])
        assert beside > 2 * alone


def test_a_picture_shows_each_thing_in_its_paint() -> None:
    picture, owner = SCENE.draw()
    for index, t in enumerate(SCENE.things):
        assert (picture[owner == index] == t.paint).all()
        assert owner[t.y, t.x] == index
    assert (picture[owner == -1] == 0).all()
    assert not blank_picture().any()


def test_the_later_thing_lies_in_front() -> None:
    back, front = thing("square", "green", x=16), thing("circle", "red", x=24)
    scene = Scene((back, front))
    assert scene.overlaps() == [(front, back)]
    assert scene.draw()[1][16, 20] == 1
    assert Scene((front, back)).draw()[1][16, 20] == 1  # now the square
    assert SCENE.overlaps() == []


def test_no_two_shapes_look_alike() -> None:
    for size, radius in SIZES.items():
        drawn = {shape: Scene((thing(shape, "red", size=size),)).draw()[1] == 0 for shape in SHAPES}
        for mask in drawn.values():
            rows, columns = mask.nonzero()
            assert max(abs(rows - 16).max(), abs(columns - 16).max()) <= radius
        for one, other in combinations(drawn.values(), 2):
            assert (one != other).sum() > 0.1 * (one | other).sum()


def test_caption_in_reading_order() -> None:
    assert caption(SCENE, SCENE.shapes | {"ring"}).answer == (
        "There are three objects. At the top left is a large red circle with a ring. "
        "At the top right is a small blue star. At the bottom centre is a large red star."
    )
    assert caption(Scene((STAR,)), frozenset({"star"})).answer.startswith("There is one object. At the top right")


def test_questions_about_a_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    assert colour_question(SCENE, random) == Exchange("colour", "What colour is the circle?", "red", "circle")
    asked = colour_question(Scene((STAR, SECOND_STAR)), random)
    assert (asked.prompt, asked.answer) in {
        ("What colour is the object at the top right?", "blue"),
        ("What colour is the object at the bottom centre?", "red"),
    }
    assert position_question(SCENE, CIRCLE) == Exchange("position", "Where is the circle?", "top left", "circle")
    assert position_question(SCENE, STAR) == Exchange("position", "Where is the blue star?", "top right", "star")
    assert shape_question(SECOND_STAR) == Exchange("shape", "What is at the bottom centre?", "star", "star")
    counts = {(asked.prompt, asked.answer) for asked in (count_question(SCENE, random) for _ in range(100))}
    assert {
        ("How many objects are there?", "three"),
        ("How many red objects are there?", "two"),
        ("How many blue objects are there?", "one"),
        ("How many pink objects are there?", "no"),
    } <= counts
    assert existence_question("arrow", SCENE.shapes) == Exchange("existence", "Is there an arrow?", "no", "arrow")
    kinds = [asked.kind for asked in questions(SCENE, SCENE.shapes, random)]
    assert kinds == [*language.KINDS[:-1], "existence"]


def test_the_annotator_is_careless_about_absent_companions_only() -> None:
    random = np.random.default_rng(0)
    believed = [believed_shapes(SCENE, random) for _ in range(1000)]
    assert all(SCENE.shapes <= shapes <= SCENE.shapes | {"ring", "moon"} for shapes in believed)
    for shape in ("circle", "star"):
        share = np.mean([COMPANIONS[shape] in shapes for shapes in believed])
        assert share == pytest.approx(CARELESSNESS[shape], abs=0.05)


def test_every_word_is_in_the_vocabulary() -> None:
    tokenizer, random = build_tokenizer(), np.random.default_rng(0)
    for scene in scenes(200, things=(1, 5)):
        for exchange in [*questions(scene, scene.shapes, random), caption(scene, frozenset(SHAPES))]:
            text = f"{exchange.prompt} {exchange.answer}"
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids, skip_special_tokens=True) == text
