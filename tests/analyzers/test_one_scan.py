"""One scan of a real model with every analyzer gives each what it gets alone; the sink tokens of every key, slowly.

That each is right is tested with its analyzer, against loops over the full maps of the same kind of text.
"""

from pathlib import Path

import pandas as pd
import pytest
import torch

import interp
from interp.analyzers import ANALYZERS, Analyzer, analyzer_named
from interp.analyzers.analyzer import Shape
from interp.analyzers.received import OneTextReader
from interp.analyzers.sinks import SinkTokens
from interp.model.model import Model
from interp.results import HeadScores, TokenMap

OF_PICTURES = ("visual-sinks", "patch-distance")
SHAPE = Shape(n_layers=5, n_heads=8, kind="self")
STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play with her big red ball.\nOne day, Lily saw "
    "a dog. The dog was big. Lily was happy and the dog was happy. The little girl and the dog played with the ball."
)


@pytest.fixture(scope="module")
def model(stories260k: Path) -> Model:
    return interp.load(stories260k)


def test_every_analyzer_of_one_scan_gets_what_it_gets_alone(model: Model) -> None:
    found: list[Analyzer] = [analyzer_named(kind.name, model) for kind in ANALYZERS if kind.name not in OF_PICTURES]
    assert len(found) == len(ANALYZERS) - len(OF_PICTURES)
    together = interp.scan(model, STORY, found)
    assert list(together) == [analyzer.name for analyzer in found]
    for analyzer in found:
        alone, shared = (r[analyzer.name].to_frame() for r in (interp.scan(model, STORY, [analyzer]), together))
        # Rows that nobody reads come from the fused kernel, whose last digits differ.
        pd.testing.assert_frame_equal(alone, shared, rtol=1e-6, atol=1e-6, obj=analyzer.name)


def test_analyzers_of_one_text_and_of_many_are_told_apart(model: Model) -> None:
    """Two texts are scanned by those that average, and refused by those that describe tokens."""
    many = [kind for kind in ANALYZERS if kind.name not in OF_PICTURES]
    one_text = [k.name for k in many if isinstance(analyzer_named(k.name, model).reader(SHAPE), OneTextReader)]
    assert one_text == ["windowed-distance", "future-influence", "received-mass", "sink-tokens", "massive-activations"]
    several = [kind.name for kind in many if kind.name not in one_text]
    assert set(interp.scan(model, [STORY, STORY[:90]], several)) == set(several)


@pytest.mark.parametrize("epsilon", [0.05, 0.15])
def test_sink_tokens_of_every_key_by_a_loop(model: Model, epsilon: float) -> None:
    found = interp.scan(model, STORY, [SinkTokens(epsilon=epsilon)], block_bytes=20_000)["sink-tokens"]
    assert isinstance(found, TokenMap)
    maps = interp.capture_patterns(model, STORY).patterns
    n = len(found.tokens)
    for layer in range(5):
        for key in range(n):
            heads = [float(maps[layer][0, head, key:, key].double().mean()) > epsilon for head in range(8)]
            expected = sum(heads) / 8 if n - key >= 16 else torch.nan
            assert float(found.values[layer, key]) == pytest.approx(expected, nan_ok=True), (layer, key)
    assert float(found.values.nansum()) > 0


def test_pages_say_what_a_higher_score_means() -> None:
    found = interp.scan("mini", STORY, ["entropy", "mean-distance", "local-mass", "first-token"])
    meanings = {name: scores.higher_is for name, scores in found.items() if isinstance(scores, HeadScores)}
    assert meanings == {
        "entropy": "broader", "mean-distance": "farther", "local-mass": "more local", "first-token": "stronger"
    }  # fmt: skip
