"""From metrics of patched runs to effects of heads, with bootstrap intervals. Pure functions, no model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.patching import PatchedMetrics
from interp.statistics import RESAMPLES, bootstrap_weights, percentile_interval


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadEffects:
    """Effects of heads as shares of what the corruption does to the metric, `[layer, head]`.

    Attributes:
        noising: share of the metric lost when the head speaks as on the corrupted prompt.
        denoising: share of the metric regained when the head speaks as on the clean prompt.
        effect: mean of the two; 0 no part in the task, 1 all of it, negative works against it. No bounds.
        ci_low, ci_high: 95 % interval of `effect` from resampling the prompts; NaN for a single prompt.
        gap: metric on clean minus metric on corrupted prompts, the denominator; `gap_low` and `gap_high` its interval.
    """

    noising: Float[Tensor, "layer head"]
    denoising: Float[Tensor, "layer head"]
    effect: Float[Tensor, "layer head"]
    ci_low: Float[Tensor, "layer head"]
    ci_high: Float[Tensor, "layer head"]
    gap: float
    gap_low: float
    gap_high: float

    @property
    def warning(self) -> str | None:
        """What is wrong with the denominator, in one sentence; None when nothing is."""
        if self.gap == 0:
            return (
                "The corruption does not change the metric, so effects relative to it are undefined (NaN); "
                "raw differences stand in the result."
            )
        if self.gap_low <= 0 <= self.gap_high or self.gap < 0:
            known = self.gap_low == self.gap_low
            interval = f", 95 % interval {self.gap_low:.3g} to {self.gap_high:.3g}" if known else ""
            return (
                f"The metric on clean prompts does not clearly exceed that on corrupted ones (difference {self.gap:.3g}"
                f"{interval}), so the model does not show this behaviour and effects relative to it mean little."
            )
        return None


def head_effects(metrics: PatchedMetrics, *, seed: int, resamples: int = RESAMPLES) -> HeadEffects:
    """Normalise patched metrics and resample the prompts.

    *Formula*, with means over prompts: noising ``(clean - noised) / (clean - corrupted)``, denoising
    ``(denoised - corrupted) / (clean - corrupted)``. Ratios of means, not means of ratios: a single prompt's difference
    can be zero. Where the denominator is 0 all are NaN.

    Arguments:
        seed: of a private generator; the same for numerator and denominator, so their errors stay paired.
    """
    n_prompts = len(metrics.clean)
    even = torch.full((1, n_prompts), 1 / n_prompts, dtype=torch.float64)
    noising, denoising, gap = _ratios(metrics, even)
    noised, denoised, gaps = _ratios(metrics, bootstrap_weights(n_prompts, seed=seed, resamples=resamples))
    if n_prompts < 2:  # every sample of one prompt is that prompt, which would look like certainty
        noised, denoised, gaps = (torch.full_like(found, torch.nan) for found in (noised, denoised, gaps))
    low, high = percentile_interval(((noised + denoised) / 2).movedim(-1, 0))
    gap_low, gap_high = percentile_interval(gaps)
    return HeadEffects(
        noising=noising[..., 0],
        denoising=denoising[..., 0],
        effect=((noising + denoising) / 2)[..., 0],
        ci_low=low,
        ci_high=high,
        gap=float(gap),
        gap_low=float(gap_low),
        gap_high=float(gap_high),
    )


def _ratios(
    metrics: PatchedMetrics, weights: Float[Tensor, "resample prompt"]
) -> tuple[Float[Tensor, "layer head resample"], Float[Tensor, "layer head resample"], Float[Tensor, " resample"]]:
    """Noising and denoising for each weighting of the prompts, and the denominators."""
    clean, corrupted = metrics.clean.double(), metrics.corrupted.double()
    gap = weights @ (clean - corrupted)
    divisor = torch.where(gap == 0, torch.nan, gap)
    noising = (clean - metrics.noised.double()) @ weights.T / divisor
    denoising = (metrics.denoised.double() - corrupted) @ weights.T / divisor
    return noising, denoising, gap
