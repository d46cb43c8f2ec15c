"""Ablations of heads: their outputs become a mean, or those of another prompt."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.interventions.replace_heads import HeadValues, ReplaceHeads


def ablate_heads(
    heads: Bool[Tensor, "layer head"] | Bool[Tensor, "batch layer head"],
    values: Mapping[int, Float[Tensor, "#batch #query head d_head"]],
) -> ReplaceHeads:
    """Replace z of these heads at every position: mean ablation with means, resample ablation with another run's z.

    Arguments:
        heads: True for an ablated head; with a batch axis each sample has its own set.
        values: by layer; a layer in which nothing is ablated need not be there.

    Example:
        >>> heads = torch.zeros(2, 4, dtype=torch.bool)
        >>> heads[1, 3] = True
        >>> sorted(ablate_heads(heads, {1: torch.zeros(1, 1, 4, 8)}).layers)
        [1]
    """
    per_sample = heads if heads.dim() == 3 else heads[None]
    layers = [layer for layer in range(per_sample.shape[1]) if bool(per_sample[:, layer].any())]
    return ReplaceHeads(
        {layer: HeadValues(per_sample[:, layer, None, : values[layer].shape[2]], values[layer]) for layer in layers}
    )


def resampled(
    values: Mapping[int, Float[Tensor, "batch query head d_head"]], *, seed: int
) -> dict[int, Float[Tensor, "batch query head d_head"]]:
    """The same outputs dealt to other samples of the batch: everyone's come from one other sample, all layers alike.

    With a single sample there is nobody else, and it keeps its own.
    """
    batch = next(iter(values.values())).shape[0]
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(seed))
    # In a cycle through all samples nobody gets their own outputs.
    donor = torch.empty_like(order)
    donor[order] = order.roll(1)
    return {layer: z.index_select(0, donor.to(z.device)) for layer, z in values.items()}
