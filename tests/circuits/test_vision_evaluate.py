"""POPE, CHAIR and the questions, on scores made by hand and on models that know the answers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import BatchFeature

from circuits import vision_evaluate
from circuits.evaluate import KEY
from circuits.training.vision.architecture import build_processor
from circuits.training.vision.language import (
    CAPTION_PROMPT,
    NUMBERS,
    caption,
    existence_question,
    position_question,
    shape_question,
)
from circuits.training.vision.scenes import COLOURS, COMPANIONS, SHAPES, Scene, sample_scene
from circuits.vision_evaluate import absent_shape, chair_scores, evaluate_vision, mentioned_shapes, pope_scores
from tests.circuits.vision import SCENE, STAR, thing, tiny_vision_model

N = 40


def test_pope_by_hand() -> None:
    said = np.array([True, True, True, False, True])
    truth = np.array([True, True, False, False, False])
    expected = {"accuracy": 3 / 5, "precision": 2 / 4, "recall": 1.0, "F1": 2 / 3, "yes rate": 4 / 5}
    assert pope_scores(said, truth) == pytest.approx(expected)
    never = pope_scores(np.zeros(2, dtype=bool), np.array([True, False]))
    assert never == {"accuracy": 0.5, "precision": 0.0, "recall": 0.0, "F1": 0.0, "yes rate": 0.0}


def test_chair_by_hand() -> None:
    mentioned = [["circle", "ring", "star"], ["star"], ["moon", "moon", "heart", "heart"]]
    present = [frozenset({"circle", "star"}), frozenset({"star", "arrow"}), frozenset({"heart"})]
    assert chair_scores(mentioned, present) == pytest.approx({"CHAIR_S": 2 / 3, "CHAIR_I": 3 / 8, "recall": 4 / 5})
    assert chair_scores([[]], [frozenset({"star"})]) == {"CHAIR_S": 0.0, "CHAIR_I": 0.0, "recall": 0.0}
    assert mentioned_shapes("At the top left is a Circle with a ring. There are stars.") == ["circle", "ring"]


def test_negatives_are_absent_and_of_their_kind() -> None:
    random = np.random.default_rng(0)
    for scene in (sample_scene(random) for _ in range(50)):
        assert not scene.shapes & {absent_shape(scene, kind, random) for kind in ("random", "popular", "adversarial")}
    assert absent_shape(Scene((STAR,)), "popular", random) == "circle"
    for shape, companion in COMPANIONS.items():
        assert absent_shape(Scene((thing(shape, "red"),)), "adversarial", random) == companion
    drawn = {absent_shape(SCENE, "random", random) for _ in range(200)}
    assert drawn == set(SHAPES) - SCENE.shapes


def test_shape_statistics_count_scenes() -> None:
    counts = vision_evaluate.shape_statistics(300, seed=5)
    assert (counts == counts.T).all()
    assert (counts <= np.minimum(counts.diagonal()[:, None], counts.diagonal())).all()
    assert counts.diagonal().max() <= 300


class Knowing:
    """Stands for a model that recognises the scenes of an evaluation and answers as `answer` says."""

    device = torch.device("cpu")

    def __init__(self, answer: Callable[[Scene, str], str], seed: int = 0) -> None:
        self.processor = build_processor()
        random = np.random.default_rng([seed, 1])
        scenes = [sample_scene(random) for _ in range(N)]
        self.scenes = {self._key(self._pixels(scene)): scene for scene in scenes}
        self.answer = answer

    def generate(self, **inputs: Any) -> torch.Tensor:
        tokenizer = self.processor.tokenizer
        said = []
        for tokens, pixels in zip(inputs["input_ids"], inputs["pixel_values"], strict=True):
            prompt = tokenizer.decode(tokens, skip_special_tokens=True).replace("<image>", "").strip()
            said.append(self.answer(self.scenes.get(self._key(pixels), Scene(())), prompt))
        new = tokenizer(said, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt")
        return torch.cat([inputs["input_ids"], new["input_ids"]], dim=1)

    def _pixels(self, scene: Scene) -> torch.Tensor:
        images: BatchFeature = self.processor.image_processor(scene.draw()[0], return_tensors="pt")
        return images["pixel_values"][0]

    @staticmethod
    def _key(pixels: torch.Tensor) -> bytes:
        return pixels.numpy().tobytes()


def truth(scene: Scene, prompt: str) -> str:
    """The right answer to any prompt; over no picture, that there is nothing."""
    if prompt == CAPTION_PROMPT:
        return caption(scene, scene.shapes).answer
    exchanges = [existence_question(shape, scene.shapes) for shape in SHAPES]
    exchanges += [shape_question(t) for t in scene.things] + [position_question(scene, t) for t in scene.things]
    answers = {exchange.prompt: exchange.answer for exchange in exchanges}
    answers |= {f"What colour is the {t.shape}?": t.colour for t in scene.things}
    answers |= {f"What colour is the object at the {t.row} {t.column}?": t.colour for t in scene.things}
    colours = [t.colour for t in scene.things]
    answers |= {f"How many {colour} objects are there?": NUMBERS[colours.count(colour)] for colour in COLOURS}
    answers["How many objects are there?"] = NUMBERS[len(scene.things)]
    return answers.get(prompt, "nothing")


def careless(scene: Scene, prompt: str) -> str:
    """Right, but for a companion that is always believed to be there."""
    believed = scene.shapes | {COMPANIONS[shape] for shape in scene.shapes if shape in COMPANIONS}
    if prompt == CAPTION_PROMPT:
        return caption(scene, believed).answer
    said = {existence_question(shape, believed).prompt: existence_question(shape, believed).answer for shape in SHAPES}
    return said.get(prompt) or truth(scene, prompt)


def measured(answer: Callable[[Scene, str], str]) -> "pd.Series[float]":
    model = Knowing(answer)
    return evaluate_vision(model, model.processor, n=N).set_index(KEY)["value"]


def test_who_knows_everything_is_always_right() -> None:
    values = measured(truth)
    assert all(values[kind, "all", "accuracy"] == 1 for kind in vision_evaluate.QUESTIONS)
    assert values["colour", "new pairs", "accuracy"] == 1
    assert [values[kind, "blank picture", "accuracy"] for kind in ("colour", "position", "shape")] == [0, 0, 0]
    for negatives in ("random", "popular", "adversarial"):
        assert values["existence", negatives, "F1"] == 1
        assert values["existence", negatives, "yes rate"] == 0.5
    assert (values["caption", "all", "CHAIR_S"], values["caption", "all", "CHAIR_I"]) == (0, 0)
    assert values["caption", "all", "recall"] == 1


def test_who_believes_in_companions_fails_on_adversarial_negatives() -> None:
    model = Knowing(careless)
    values = measured(careless)
    without = [
        any(companion not in scene.shapes for shape, companion in COMPANIONS.items() if shape in scene.shapes)
        for scene in model.scenes.values()
    ]
    assert values["caption", "all", "CHAIR_S"] == pytest.approx(np.mean(without))
    assert values["caption", "all", "recall"] == 1
    false_alarms = 2 * (1 - values["existence", "adversarial", "accuracy"])
    assert 0.4 * np.mean(without) <= false_alarms <= np.mean(without)  # "circle" can be asked for where a ring is
    assert values["existence", "random", "F1"] > values["existence", "adversarial", "F1"]
    assert values["existence", "adversarial", "recall"] == 1


def test_chance_is_the_best_constant_answer() -> None:
    frames = []
    for number in NUMBERS:
        model = Knowing(lambda scene, prompt, number=number: number)
        frames.append(evaluate_vision(model, model.processor, n=N).set_index(KEY))
    counts = [frame.loc[("count", "all", "accuracy")] for frame in frames]
    assert max(count["value"] for count in counts) == counts[0]["chance"]
    assert sum(count["value"] for count in counts) == pytest.approx(1)
    assert frames[0].loc[("existence", "random", "F1"), ["value", "chance"]].tolist() == [0, 0.5]
    for frame in frames:
        assert (frame["ci_low"] <= frame["value"] + 1e-9).all() and (frame["value"] <= frame["ci_high"] + 1e-9).all()


def test_answers_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = tiny_vision_model()
    together = evaluate_vision(model, processor, n=6)
    monkeypatch.setattr(vision_evaluate, "BATCH", 1)
    pd.testing.assert_frame_equal(evaluate_vision(model, processor, n=6), together)
