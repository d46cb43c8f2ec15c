"""Correlations, intervals and controls that several methods share. Pure functions, no model."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

LEVEL = 0.95
"""Probability with which an interval holds the true value."""
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
RESAMPLES = 1000
"""Draws of every bootstrap."""


def rank_correlation(left: Float[Tensor, "*shape"], right: Float[Tensor, "*shape"]) -> float:
    """Spearman's rank correlation of the entries measured in both; NaN for fewer than two, or without any variation.

    Example:
        >>> round(rank_correlation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 5.0])), 6)
        1.0
    """
    both = ~(left.isnan() | right.isnan())
    x, y = left[both].double().numpy(), right[both].double().numpy()
    if len(x) < 2 or x.min() == x.max() or y.min() == y.max():
        return float("nan")
    from scipy.stats import spearmanr  # takes a second to import

    found: Any = spearmanr(x, y)
    return float(found[0])


def layer_controls(
    effect: Float[Tensor, "layer head"],
) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"]]:
    """For every head the mean effect of the other heads of its layer, and the share of them that it exceeds.

    Returns:
        Means, and shares in [0, 1] (ties count half); NaN for the only measured head of a layer.

    Example:
        >>> mean, share = layer_controls(torch.tensor([[0.75, 0.0, 0.25]]))
        >>> mean[0].tolist(), share[0].tolist()
        ([0.125, 0.5, 0.375], [1.0, 0.0, 0.5])
    """
    measured = ~effect.isnan()
    others = measured.sum(-1, keepdim=True) - measured.int()
    mean = (effect.nansum(-1, keepdim=True) - effect.nan_to_num(0)) / others
    above = (effect[:, :, None] > effect[:, None, :]).sum(-1)
    ties = (effect[:, :, None] == effect[:, None, :]).sum(-1) - measured.int()
    share = (above + 0.5 * ties) / others
    undefined = ~measured | (others == 0)
    return mean.masked_fill(undefined, torch.nan), share.masked_fill(undefined, torch.nan)


def mean_interval(
    values: Float[Tensor, " example *shape"], *, within: tuple[float | None, float | None] | None = None
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Mean over examples, and its 95 % interval by Student's t: mean - and + t standard errors.

    t is 12.7 for two examples, 2.26 for ten, 1.98 for a hundred. NaN takes no part; the mean of no example and the
    interval of fewer than two are NaN.

    Arguments:
        within: lowest and highest possible value, where the interval ends; None for an end without one.

    Example:
        >>> mean, low, high = mean_interval(torch.tensor([1.0, 2.0, 3.0]), within=(0.0, None))
        >>> mean.item(), low.item(), round(high.item(), 2)
        (2.0, 0.0, 4.48)
    """
    from scipy.special import stdtrit  # scipy takes a moment to import

    measured = (~values.isnan()).sum(0)
    mean = values.nanmean(0)
    variance = (values - mean).nan_to_num(0).square().sum(0) / (measured - 1).clamp_min(1)
    quantile = torch.as_tensor(stdtrit((measured - 1).clamp_min(1).cpu().numpy(), TAILS[1])).to(values)
    error = quantile * (variance / measured).sqrt().where(measured > 1, torch.nan)
    lowest, highest = within or (None, None)
    low, high = mean - error, mean + error
    return mean, low if lowest is None else low.clamp_min(lowest), high if highest is None else high.clamp_max(highest)


def wilson_interval(
    share: Float[Tensor, "*any"], count: Float[Tensor, "*any"] | int
) -> tuple[Float[Tensor, "*any"], Float[Tensor, "*any"]]:
    """95 % score interval of a share of `count` independent cases; NaN where the share is.

    *Formula*: the shares p for which ``|share - p| <= z sqrt(p (1 - p) / count)``, z the normal quantile 1.96. *Range*
    [0, 1].
    *Source*: Wilson 1927. As SciPy's ``binomtest(...).proportion_ci(method="wilson")``, for many heads at once.

    Example:
        >>> low, high = wilson_interval(torch.tensor(1.0), 10)
        >>> round(low.item(), 3), high.item()
        (0.722, 1.0)
    """
    z = NormalDist().inv_cdf(TAILS[1])
    scale = 1 + z**2 / count
    centre = (share + z**2 / (2 * count)) / scale
    half = z / scale * (share * (1 - share) / count + (z / (2 * count)) ** 2).sqrt()
    # Rounding must not leave the share outside of its own interval.
    return (centre - half).minimum(share).clamp_min(0), (centre + half).maximum(share).clamp_max(1)


def bootstrap_weights(n: int, *, seed: int, resamples: int = RESAMPLES) -> Float[Tensor, "resample example"]:
    """Weights of `n` examples in samples drawn from them with replacement; each row sums to 1.

    A weighted mean of the examples is the mean of a sample. The seed feeds a private generator.
    """
    drawn = torch.randint(n, (resamples, n), generator=torch.Generator().manual_seed(seed))
    weights = torch.zeros(resamples, n, dtype=torch.float64)
    return weights.scatter_add_(1, drawn, torch.full_like(weights, 1 / n))


def percentile_interval(
    samples: Float[Tensor, " resample *shape"],
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """The percentiles between which 95 % of the samples lie; NaN where a sample is."""
    low, high = samples.quantile(samples.new_tensor(TAILS), dim=0)
    return low, high


def bootstrap_interval(
    values: Float[Tensor, " example *shape"], *, seed: int
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """95 % interval of the mean over examples, from resampling them; NaN for a single example."""
    if len(values) < 2:
        nothing = torch.full_like(values[0], torch.nan)
        return nothing, nothing
    weights = bootstrap_weights(len(values), seed=seed).to(values)
    return percentile_interval((weights @ values.flatten(1)).unflatten(-1, values.shape[1:]))
