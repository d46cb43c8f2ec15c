"""Attention sinks: what must hold for every map, and where the published rules of detection go wrong."""

import math

import pytest
import torch
from torch import Tensor

from interp.analyzers.received import ReceivedMass
from interp.analyzers.sinks import Sinks, SinkTokens, sink_keys
from interp.results import HeadScores, TokenMap
from tests.analyzers.hand_made import key_bias, pointing, read, uniform

N = 40


def random_maps(n_heads: int = 6, n: int = N) -> Tensor:
    """Causal maps from nearly uniform to nearly one key per row, some with a bias on the first key, in float64."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(n_heads, n, n, generator=generator, dtype=torch.float64)
    scores *= torch.linspace(0.1, 4, n_heads, dtype=torch.float64)[:, None, None]
    scores[::2, :, 0] += torch.linspace(1, 5, len(scores[::2]), dtype=torch.float64)[:, None]
    return scores.masked_fill(torch.ones(n, n).triu(1) > 0, -math.inf).softmax(-1)


def alpha_of(maps: Tensor, *, block: int = 7) -> Tensor:
    """Alpha of every head and key ``[head, key]``."""
    found = read(ReceivedMass(), maps, block=block)
    assert isinstance(found, TokenMap)
    return found.values[0]


def sinks_of(maps: Tensor, analyzer: Sinks | None = None, *, block: int = 7) -> HeadScores:
    found = read(analyzer or Sinks(), maps, block=block)
    assert isinstance(found, HeadScores)
    return found


def received(pattern: Tensor) -> tuple[Tensor, Tensor]:
    """Alpha and the number of queries that see each key, as `sink_keys` takes them, of one whole map."""
    seen_by = torch.arange(len(pattern), 0, -1)[None].double()
    return pattern.double().sum(0)[None, None] / seen_by[:, None], seen_by


def test_alpha_lies_between_0_and_1_and_holds_all_the_mass() -> None:
    alpha = alpha_of(random_maps()).double()
    assert bool((alpha >= 0).all()) and bool((alpha <= 1 + 1e-6).all())
    torch.testing.assert_close((alpha * torch.arange(N, 0, -1)).sum(-1), torch.full((6,), float(N)).double())


def test_heads_do_not_see_each_other() -> None:
    maps, order = random_maps(), torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.equal(alpha_of(maps[order]), alpha_of(maps)[order])
    plain, permuted = sinks_of(maps), sinks_of(maps[order])
    assert torch.equal(permuted.scores[0], plain.scores[0, order])
    for name in ("sink rate", "sink mass", "later sinks"):
        assert torch.equal(permuted.columns[name][0], plain.columns[name][0, order])


def test_fewer_keys_are_sinks_the_higher_the_threshold() -> None:
    thresholds = [0.02, 0.05, 0.1, 0.2, 0.3]
    rates = [read(SinkTokens(epsilon=epsilon), random_maps()) for epsilon in thresholds]
    values = torch.stack([rate.values[0] for rate in rates if isinstance(rate, TokenMap)])[:, : N - 15]
    assert bool((values.diff(dim=0) <= 0).all()) and float(values[0].sum()) > float(values[-1].sum()) > 0


def test_the_threshold_must_be_exceeded() -> None:
    """alpha is exactly 0.25 at every key but the first one."""
    alpha, seen_by = torch.full((1, 1, 3), 0.25), torch.full((1, 3), 20.0)
    alpha[..., 0] = 0.2500001
    assert sink_keys(alpha, seen_by, threshold=0.25).tolist() == [[[True, False, False]]]
    exact = torch.zeros(16, 16)
    exact[:, 1:] = torch.eye(16)[:, 1:]
    exact[0, 0] = 1
    exact[[4, 8, 12], [4, 8, 12]], exact[[4, 8, 12], 0] = 0, 1  # 4 of 16 rows look at the first key
    scores = sinks_of(exact, Sinks(epsilon=0.25))
    assert scores["L0H0"] == 0.25 and float(scores.columns["sink rate"]) == 0


@pytest.mark.parametrize("block", [1, 7, 32])
def test_chunks_of_rows_give_what_the_whole_map_gives(block: int) -> None:
    maps = random_maps()
    whole, parts = sinks_of(maps, block=N), sinks_of(maps, block=block)
    torch.testing.assert_close(parts.scores, whole.scores, atol=4e-9, rtol=0)
    expected = maps.sum(-2) / torch.arange(N, 0, -1)
    torch.testing.assert_close(parts.scores[0], expected[:, 0], atol=4e-9, rtol=0)
    torch.testing.assert_close(alpha_of(maps, block=block), expected.float(), atol=1e-7, rtol=0)


@pytest.mark.parametrize(("n", "alpha", "is_sink"), [(9, 0.3143, True), (10, 0.2929, False)])
def test_uniform_attention_is_a_sink_up_to_nine_tokens(n: int, alpha: float, is_sink: bool) -> None:
    scores = sinks_of(uniform(n))
    assert scores["L0H0"] == pytest.approx(alpha, abs=5e-5) == float(scores.chance[0, 0])  # type: ignore[index]
    assert float(scores.columns["sink rate"]) == is_sink


def test_the_first_query_alone_gives_the_first_token_one_nth() -> None:
    """Every other query looks at itself."""
    assert sinks_of(torch.eye(N))["L0H0"] == pytest.approx(1 / N)


@pytest.mark.parametrize(("threshold", "flagged"), [(0.3, 3), (0.1, 9)])
def test_the_last_keys_of_a_head_that_looks_at_itself_are_no_sinks(threshold: float, flagged: int) -> None:
    """alpha is 1 / (n - k): the last 3 exceed 0.3 and the last 9 exceed ACT's 0.1, where too few queries see them."""
    alpha, seen_by = received(torch.eye(N))
    naive = sink_keys(alpha, seen_by, threshold=threshold)
    assert naive[0, 0].nonzero().flatten().tolist() == list(range(N - flagged, N))
    assert not sink_keys(alpha, seen_by, threshold=threshold, min_queries=16).any()


def test_act_finds_the_true_sink_where_its_code_spares_it() -> None:
    """12 tokens, 0.7 on token 1, 0.3 on itself: at 0.1 tokens 1, 10 and 11; the code drops the first of them."""
    pattern = pointing(12, {1: 0.7}).double().mul(10).round() / 10
    alpha, seen_by = received(pattern)
    assert sink_keys(alpha, seen_by, threshold=0.1)[0, 0].nonzero().flatten().tolist() == [1, 10, 11]
    assert float(sinks_of(pattern, Sinks(min_queries=3)).columns["later sinks"]) == 1


@pytest.mark.parametrize(("n", "passes"), [(64, False), (82, False), (83, True)])
def test_the_first_token_of_a_uniform_head_passes_acts_threshold_from_83_tokens_on(n: int, passes: bool) -> None:
    """``H_n / n > 5 / n``; the first token is exempt from the later sinks."""
    alpha, seen_by = received(uniform(n))
    assert bool(sink_keys(alpha, seen_by, threshold=5 / n)[0, 0, 0]) is passes
    assert float(sinks_of(uniform(n)).columns["later sinks"]) == 0


def test_a_head_on_the_first_token_has_no_later_sinks() -> None:
    pattern = torch.zeros(N, N)
    pattern[:, 0], pattern[torch.arange(N), torch.arange(N)] = 0.95, 0.05
    pattern[0, 0] = 1
    scores = sinks_of(pattern)
    assert scores.notes["sink rate"] == 1 and float(scores.columns["later sinks"]) == 0


def test_every_head_of_a_stack_is_judged_by_itself() -> None:
    """Sink_k of the model is the share of its heads, and its curve over the threshold falls in steps of one head."""
    stack = torch.stack([key_bias(64, c) for c in range(6)])
    rates = {epsilon: sinks_of(stack, Sinks(epsilon=epsilon)).notes["sink rate"] for epsilon in (0.05, 0.1, 0.3, 0.7)}
    assert rates == pytest.approx({0.05: 1, 0.1: 5 / 6, 0.3: 3 / 6, 0.7: 1 / 6})
