"""WAAD and FAI: the published values, and slow definitions over full maps."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import interp
from interp.analyzers.rhythm import FutureInfluence, WindowedDistance, local_and_global_heads, mean_over_heads
from interp.analyzers.shape import MeanDistance
from interp.errors import InputError
from interp.model.model import Model
from interp.results import HeadScores, TokenMap
from tests.analyzers.hand_made import first, previous, read, uniform

TEXT = "Once upon a time, there was a little girl named Lily. She loved to play with her big red ball."


def curve(analyzer: WindowedDistance | FutureInfluence, pattern: Tensor) -> Tensor:
    result = read(analyzer, pattern)
    assert isinstance(result, TokenMap)
    return result.values[0, 0]


def test_windowed_distance_of_the_published_heads() -> None:
    """Positions of the paper count from 1, ours from 0."""
    waad = WindowedDistance()
    assert curve(waad, previous(20))[1:].tolist() == [1] * 19
    assert curve(waad, torch.eye(20)).tolist() == [0] * 20
    assert curve(waad, first(20)).tolist() == [min(t, 10) for t in range(20)]
    even = curve(waad, uniform(60))
    torch.testing.assert_close(even[[4, 19, 59]], torch.tensor([2.0, 7.25, 9.0833]), atol=1e-4, rtol=0)


def test_future_influence_of_the_published_heads() -> None:
    fai = curve(FutureInfluence(), uniform(40))
    assert float(fai[9]) == pytest.approx(0.034800, abs=1e-6)
    assert fai[30:].isnan().all() and not fai[:30].isnan().any()
    sink = curve(FutureInfluence(), first(40))
    assert sink[:30].tolist() == [1] + [0] * 29
    response = curve(FutureInfluence(first_query=35), uniform(40))
    assert float(response[20]) == pytest.approx(sum(1 / t for t in range(36, 41)) / 5, abs=1e-6)


def test_uniform_attention_equals_its_own_note() -> None:
    for analyzer in (WindowedDistance(window=4), FutureInfluence(nearest=2, farthest=6)):
        result = read(analyzer, uniform(15))
        assert isinstance(result, TokenMap)
        expected = torch.tensor(result.notes["uniform"])
        torch.testing.assert_close(result.values[0, 0], expected, atol=1e-6, rtol=0, equal_nan=True)
        assert result.chance == pytest.approx(float(expected.nanmean()))


@pytest.fixture(scope="module")
def model(stories260k: Path) -> Model:
    return interp.load(stories260k)


@pytest.mark.parametrize("side", ["left", "right"])
def test_real_text_equals_full_maps_with_padding_or_without(model: Model, side: str) -> None:
    analyzers = [WindowedDistance(window=5), FutureInfluence(nearest=3, farthest=9)]
    both = model.batch([TEXT, TEXT + " The ball was red."], padding_side=side)  # type: ignore[arg-type]
    padded = type(both)(both.tokens[:1], both.mask[:1], both.prepend_bos)
    pattern = torch.stack(list(interp.capture_patterns(model, TEXT).patterns.values()))[:, 0]
    n = pattern.shape[-1]
    lags = (torch.arange(n)[:, None] - torch.arange(n)).clamp(0, 5)
    waad = torch.stack([(pattern[:, :, t] * lags[t]).sum(-1) for t in range(n)], -1)
    later = [range(s + 3, min(n, s + 10)) for s in range(n - 3)]
    fai = torch.stack([pattern[:, :, list(queries), s].mean(-1) for s, queries in enumerate(later)], -1)
    for data, block_bytes in ((TEXT, 10**6), (padded, 999)):
        found = interp.scan(model, data, analyzers, block_bytes=block_bytes)
        distance, influence = found["windowed-distance"], found["future-influence"]
        assert isinstance(distance, TokenMap) and isinstance(influence, TokenMap)
        torch.testing.assert_close(distance.values, waad, atol=1e-5, rtol=0)
        torch.testing.assert_close(influence.values[..., : n - 3], fai, atol=2e-6, rtol=0)
        assert influence.values[..., n - 3 :].isnan().all()


def test_curves_of_the_local_and_global_heads(model: Model) -> None:
    found = interp.scan(model, TEXT, [MeanDistance(), WindowedDistance()])
    distance, waad = found["mean-distance"], found["windowed-distance"]
    assert isinstance(distance, HeadScores) and isinstance(waad, TokenMap)
    local, far = local_and_global_heads(distance)
    assert len(local) == len(far) == 12 and not set(local) & set(far)
    assert max(distance[head] for head in local) <= min(distance[head] for head in far)
    assert local[0] == distance.top()[-1]
    curve = mean_over_heads(waad, local)
    expected = sum(waad.values[head.layer, head.head] for head in local) / 12
    torch.testing.assert_close(curve.values, expected)
    assert curve.dims == ("query",) and curve.notes["heads"][0] == local[0].label
    with pytest.raises(InputError, match="no two sets"):
        local_and_global_heads(distance, share=0.8)
    with pytest.raises(InputError, match="no mean curve"):
        mean_over_heads(curve, local)


def test_several_texts_are_refused(model: Model) -> None:
    with pytest.raises(InputError, match="future-influence describes the tokens of one text"):
        interp.scan(model, [TEXT, TEXT], [FutureInfluence()])
