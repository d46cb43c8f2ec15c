"""Distant mass and local heads: hand-made patterns, Gaussian keys, and full maps of a real model."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import interp
from interp.analyzers.analyzer import Analyzer
from interp.analyzers.distant_mass import DistantMass, streaming_types
from interp.analyzers.local_heads import LocalHeads, log_mass, moment_log_mass
from interp.errors import InputError
from interp.model.model import Model
from interp.results import HeadScores
from tests.analyzers import hand_made
from tests.analyzers.hand_made import first, previous, score, uniform

N = 40


def read(analyzer: Analyzer, pattern: Tensor) -> HeadScores:
    """One analyzer over causal maps made by hand ``[head, query, key]``."""
    found = hand_made.read(analyzer, pattern)
    assert isinstance(found, HeadScores)
    return found


def heads() -> Tensor:
    """A sink head, a previous-token head, a uniform head, and one that attends to the middle of the past."""
    sink, previous, middle = torch.zeros(3, N, N)
    sink[:, 0] = 1
    positions = torch.arange(N)
    previous[positions, (positions - 1).clamp_min(0)] = 1
    middle[positions, positions // 2] = 1
    uniform = torch.ones(N, N).tril()
    return torch.stack([sink, previous, uniform / uniform.sum(-1, keepdim=True), middle])


def test_distant_mass_of_known_heads() -> None:
    found = read(DistantMass(sink=2, recent=3), heads())
    rows = range(5, N)
    uniform = sum(1 - 5 / (row + 1) for row in rows) / len(rows)
    middle = sum(row // 2 >= 2 and row - row // 2 >= 3 for row in rows) / len(rows)
    assert found.scores[0].tolist() == pytest.approx([0, 0, uniform, middle], abs=1e-6)
    assert found.chance == pytest.approx(uniform)
    assert found.labels["type"] == (("streaming", "streaming", "streaming", "retrieval"),)


def test_in_an_encoder_later_keys_can_be_far_as_well() -> None:
    """Every query looks at the last token, which is near to the last three of them alone."""
    last = torch.zeros(N, N)
    last[:, -1] = 1
    found = hand_made.read(DistantMass(sink=2, recent=3), last, causal=False)
    local = hand_made.read(LocalHeads(sink=2, recent=3), last, causal=False)
    assert isinstance(found, HeadScores) and isinstance(local, HeadScores)
    assert found["L0H0"] == pytest.approx((N - 3) / N) and local["L0H0"] == pytest.approx(3 / N)
    near = [min(row + 2, N - 1) - max(row - 2, 2) + 1 for row in range(N)]
    assert found.chance == pytest.approx(sum(1 - (2 + n) / N for n in near) / N)


@pytest.mark.parametrize("n", [70, 100])
def test_the_distant_mass_of_the_last_row_with_the_published_window(n: int) -> None:
    """Sinks 4, recent 64: nothing for sink and previous-token heads, ``1 - 68 / n`` for a uniform one."""
    window = DistantMass()
    assert (window.sink, window.recent, window.threshold, window.share) == (4, 64, 0.35, 0.25)
    for pattern, expected in ((first(n), 0), (previous(n), 0), (uniform(n), 1 - 68 / n)):
        last = torch.zeros(n, n)
        last[:, :4] = 0.25  # rows before the last one look at sinks alone
        last[-1] = pattern[-1]
        rows_with_a_distant_key = n - 68
        assert score(window, last) * rows_with_a_distant_key == pytest.approx(expected, abs=1e-6)


def test_a_share_of_the_heads_that_reach_the_threshold_are_retrieval_heads() -> None:
    scores = torch.tensor([[0.9, 0.9, 0.1, torch.nan], [0.8, 0.3, 0.0, 0.7]])
    assert streaming_types(scores, threshold=0.35, share=0.5) == (
        ("retrieval", "retrieval", "streaming", "not measured"),
        ("retrieval", "streaming", "streaming", "streaming"),
    )
    # A tie at the edge makes fewer of them, not more.
    assert "retrieval" not in streaming_types(scores, threshold=0.35, share=0.15)[0]
    assert streaming_types(scores, threshold=0.95, share=1.0)[1] == ("streaming",) * 4


def test_texts_without_a_distant_key_are_not_measured() -> None:
    assert read(DistantMass(sink=20, recent=20), heads()).scores.isnan().all()
    assert read(LocalHeads(sink=20, recent=20), heads()).scores.isnan().all()


def test_the_estimate_from_moments_holds_for_gaussian_keys() -> None:
    """64 dimensions, 20,000 keys, scores with a mean of 0.303 and a deviation of 1.67: 11.601, where 11.582 is true."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(64, generator=generator, dtype=torch.float64)
    keys = torch.randn(20_000, 64, generator=generator, dtype=torch.float64)
    drawn = keys @ query / 8
    wanted = 0.303 + 1.67 * (drawn - drawn.mean()) / drawn.std(correction=0)
    keys += torch.outer(wanted - drawn, 8 * query / query.square().sum())
    scores = keys @ query / 8
    everything = torch.ones(20_000, dtype=torch.bool)
    true, guess = float(log_mass(scores, everything)), float(moment_log_mass(scores, everything))
    assert guess == pytest.approx(11.601, abs=1e-3)
    # Another draw than the published one: the true mass has a deviation of 3 %.
    assert true == pytest.approx(11.582, abs=0.06)
    # The moments are those of the keys: mean and covariance give the same number.
    mean, covariance = keys.mean(0), keys.T.cov(correction=0)
    built = torch.tensor(20_000.0).log() + query @ mean / 8 + query @ covariance @ query / 128
    assert guess == pytest.approx(float(built), abs=1e-6)


def test_a_lone_needle_is_underestimated_more_than_threefold() -> None:
    scores = torch.tensor([10.0] + [0.0] * 9999)
    everything = torch.ones(10_000, dtype=torch.bool)
    true, guess = (float(f(scores, everything).exp()) for f in (log_mass, moment_log_mass))
    assert (round(true), round(guess)) == (32_025, 10_060) and true / guess == pytest.approx(3.2, abs=0.05)


def test_masses_beyond_the_range_of_floats_stay_logarithms() -> None:
    scores, everything = torch.tensor([800.0, 800.0, 798.0]), torch.ones(3, dtype=torch.bool)
    assert float(log_mass(scores, everything)) == pytest.approx(800 + math.log(2 + math.exp(-2)), abs=1e-3)
    assert float(moment_log_mass(scores, everything)) == pytest.approx(math.log(3) + 2398 / 3 + 4 / 9, abs=1e-3)


def test_equal_scores_are_exact_and_no_keys_are_nothing() -> None:
    scores = torch.full((9,), 3.0)
    some = torch.arange(9) < 5
    torch.testing.assert_close(moment_log_mass(scores, some), log_mass(scores, some))
    assert moment_log_mass(scores, some & ~some) == log_mass(scores, some & ~some) == -torch.inf


def test_local_heads_of_known_heads() -> None:
    found = read(LocalHeads(sink=2, recent=3, tau=0.45), heads())
    rows = range(5, N)
    uniform = sum(5 / (row + 1) >= 0.45 for row in rows) / len(rows)
    middle = sum(not (row // 2 >= 2 and row - row // 2 >= 3) for row in rows) / len(rows)
    assert found.scores[0].tolist() == pytest.approx([1, 1, uniform, middle])
    assert found.chance == pytest.approx(uniform)
    # All bulk scores of the uniform head are equal, so its estimate is exact.
    assert float(found.columns["log error"][0, 2]) == pytest.approx(0, abs=1e-5)
    assert float(found.columns["estimated"][0, 2]) == pytest.approx(uniform)
    # One high score among many low ones is underestimated, or overestimated by its variance.
    assert abs(float(found.columns["log error"][0, 3])) > 1


@pytest.fixture(scope="module")
def stories(stories260k: Path) -> Model:
    return interp.load(stories260k)


def slow(
    maps: dict[int, Tensor], row_range: range, sink: int, recent: int, tau: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Distant mass, local share and estimated local share from full maps, row by row."""
    full = torch.cat([maps[layer] for layer in sorted(maps)]).double()
    far_mass, local, guessed = [], [], []
    for row in row_range:
        far = [key for key in range(row + 1) if key >= sink and row - key >= recent]
        near = [key for key in range(row + 1) if key not in far]
        mass = full[:, :, row, far].sum(-1)
        logits = full[:, :, row, far].log()
        estimate = len(far) * (logits.mean(-1) + logits.var(-1, correction=0) / 2).exp()
        inside = full[:, :, row, near].sum(-1)
        far_mass.append(mass)
        local.append((1 - mass >= tau).double())
        guessed.append((inside / (inside + estimate) >= tau).double())
    return tuple(torch.stack(values).mean(0) for values in (far_mass, local, guessed))


def test_a_real_model_against_full_maps_and_with_padding(stories: Model) -> None:
    texts = ["Once upon a time there was a little girl who loved to play with her red ball in the park.",
             "Tom had a big dog. The dog was very happy and ran to the tree to see the little bird."]  # fmt: skip
    analyzers = [DistantMass(sink=2, recent=5), LocalHeads(sink=2, recent=5, tau=0.8)]
    expected = []
    for text in texts:
        maps = interp.capture_patterns(stories, text).patterns
        expected.append(slow(maps, range(7, maps[0].shape[-1]), 2, 5, 0.8))
    distant, local, guessed = (torch.stack(values).mean(0) for values in zip(*expected, strict=True))
    for size in (1, 2):
        found = interp.scan(stories, texts, analyzers, batch_size=size)
        scores, others = found["distant-mass"], found["local-heads"]
        assert isinstance(scores, HeadScores) and isinstance(others, HeadScores)
        torch.testing.assert_close(scores.scores, distant, atol=1e-6, rtol=0)
        torch.testing.assert_close(others.scores, local, atol=1e-6, rtol=0)
        torch.testing.assert_close(others.columns["estimated"], guessed, atol=1e-6, rtol=0)
        torch.testing.assert_close(others.columns["local mass"], 1 - distant, atol=1e-6, rtol=0)


def test_windows_and_shares_that_mean_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="recent=0"):
        DistantMass(recent=0)
    with pytest.raises(InputError, match="tau=1.5"):
        LocalHeads(tau=1.5)
