"""Correlations, intervals and controls, on values computed by hand."""

import math

import pytest
import torch
from scipy.stats import binomtest

from interp.statistics import (
    RESAMPLES,
    bootstrap_interval,
    bootstrap_weights,
    layer_controls,
    mean_interval,
    percentile_interval,
    rank_correlation,
    wilson_interval,
)


def test_rank_correlation_skips_what_was_not_measured() -> None:
    left = torch.tensor([1.0, 2.0, 3.0, math.nan])
    assert rank_correlation(left, torch.tensor([9.0, 8.0, 7.0, 1.0])) == pytest.approx(-1)
    assert math.isnan(rank_correlation(left, torch.full((4,), 2.0)))
    assert math.isnan(rank_correlation(left[2:], left[:2]))


def test_equal_values_share_their_mean_rank() -> None:
    """Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5, sums of squares 4.5 and 5."""
    found = rank_correlation(torch.tensor([[1.0, 2.0], [2.0, 3.0]]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert found == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_controls_of_a_layer() -> None:
    mean, share = layer_controls(torch.tensor([[0.4, 0.1, math.nan, 0.1], [0.5, math.nan, math.nan, math.nan]]))
    torch.testing.assert_close(mean[0], torch.tensor([0.1, 0.25, math.nan, 0.25]), equal_nan=True)
    torch.testing.assert_close(share[0], torch.tensor([1.0, 0.25, math.nan, 0.25]), equal_nan=True)
    assert mean[1].isnan().all() and share[1].isnan().all()


@pytest.mark.parametrize("n", [1, 10, 400])
def test_wilson_interval_is_scipys(n: int) -> None:
    counts = [0, n // 3, n]
    share = torch.tensor([*(k / n for k in counts), math.nan], dtype=torch.float64)
    low, high = wilson_interval(share, n)
    known = [binomtest(k, n).proportion_ci(0.95, method="wilson") for k in counts]
    assert low.tolist() == pytest.approx([*(ends.low for ends in known), math.nan], abs=1e-12, nan_ok=True)
    assert high.tolist() == pytest.approx([*(ends.high for ends in known), math.nan], abs=1e-12, nan_ok=True)
    each = wilson_interval(share, torch.full((4,), float(n)))
    torch.testing.assert_close(torch.stack(each), torch.stack([low, high]), atol=1e-6, rtol=0, equal_nan=True)


def test_a_share_lies_in_its_own_interval() -> None:
    share = torch.arange(20) / 19
    low, high = wilson_interval(share, 19)
    assert ((low <= share) & (share <= high)).all() and low.min() >= 0 and high.max() <= 1
    low, high = wilson_interval(torch.tensor(0.5), 10)
    assert (float(low), float(high)) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def test_bootstrap_weights_are_counts_of_draws() -> None:
    state = torch.get_rng_state()
    weights = bootstrap_weights(8, seed=3)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(weights, bootstrap_weights(8, seed=3))
    counts = weights * 8
    assert weights.shape == (RESAMPLES, 8) and torch.equal(counts, counts.round())
    torch.testing.assert_close(weights.sum(1), torch.ones(RESAMPLES).double(), atol=1e-12, rtol=0)
    # An example is drawn 0, 1, 2 times with the binomial probabilities.
    for times, share in ((0, (7 / 8) ** 8), (1, (7 / 8) ** 7), (2, 28 * 7**6 / 8**8)):
        assert float((counts == times).double().mean()) == pytest.approx(share, abs=0.02)


def test_percentiles_leave_out_a_fortieth_at_each_end() -> None:
    samples = torch.arange(41.0)[torch.randperm(41, generator=torch.Generator().manual_seed(0))]
    low, high = percentile_interval(torch.stack([samples, samples.where(samples > 0, math.nan)], 1))
    torch.testing.assert_close(low, torch.tensor([1.0, math.nan]), equal_nan=True)
    torch.testing.assert_close(high, torch.tensor([39.0, math.nan]), equal_nan=True)


def test_bootstrap_interval_covers_the_mean_and_needs_two_examples() -> None:
    values = torch.rand(40, 1, 2, dtype=torch.float64)
    low, high = bootstrap_interval(values, seed=0)
    error = 1.96 * values.std(0) / 40**0.5
    torch.testing.assert_close(low, values.mean(0) - error, atol=0.02, rtol=0)
    torch.testing.assert_close(high, values.mean(0) + error, atol=0.02, rtol=0)
    assert bootstrap_interval(values[:1], seed=0)[0].isnan().all()


def test_the_interval_of_a_mean_is_t_standard_errors_without_what_is_nan() -> None:
    """1, 2, 3 have standard deviation 1; 4 and 2 have the mean 3, standard deviation root 2."""
    values = torch.tensor(
        [[1.0, 4.0, 5.0, math.nan], [2.0, math.nan, math.nan, math.nan], [3.0, 2.0, math.nan, math.nan]]
    )
    mean, low, high = mean_interval(values)
    # Quantiles of Student's t with two degrees of freedom and with one, from a table.
    errors = torch.tensor([4.302653 / math.sqrt(3), 12.706205, math.nan, math.nan])
    torch.testing.assert_close(mean, torch.tensor([2.0, 3.0, 5.0, math.nan]), equal_nan=True)
    torch.testing.assert_close(low, mean - errors, equal_nan=True)
    torch.testing.assert_close(high, mean + errors, equal_nan=True)
    _, low, high = mean_interval(values, within=(0.0, 4.0))
    torch.testing.assert_close(low, torch.tensor([0.0, 0.0, math.nan, math.nan]), equal_nan=True)
    torch.testing.assert_close(high, torch.tensor([4.0, 4.0, math.nan, math.nan]), equal_nan=True)


@pytest.mark.parametrize("n", [2, 3, 16])
def test_nineteen_of_twenty_intervals_of_a_mean_hold_it(n: int) -> None:
    """With 1.96 standard errors these are 70, 81 and 93 of a hundred."""
    draws = torch.randn(n, 20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, low, high = mean_interval(draws)
    assert float(((low <= 0) & (high >= 0)).double().mean()) == pytest.approx(0.95, abs=0.005)
