"""The five standard statistics computed the peers' way: from full maps, written plainly."""

from __future__ import annotations

import torch
from torch import Tensor

PATTERN_NAMES = ("received-mass", "first-token", "entropy", "previous-token", "duplicate-token", "induction")


def statistics_of_map(pattern: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """All statistics of one layer's full map ``[batch, head, query, key]``, as a user of the maps would write them."""
    n = pattern.shape[-1]
    divisor = torch.arange(n, 0, -1)
    earlier = torch.ones(n, n, dtype=torch.bool).tril(-1)
    duplicate = (tokens[:, :, None] == tokens[:, None, :]) & earlier
    induction = duplicate.roll(1, -1)
    induction[..., 0] = False
    return {
        "received-mass": pattern.sum(-2) / divisor,
        "first-token": pattern[..., 1:, 0].mean(-1),
        "entropy": -torch.special.xlogy(pattern, pattern).sum(-1).mean(-1),
        "previous-token": pattern.diagonal(-1, -2, -1).mean(-1),
        "duplicate-token": _per_query(pattern, duplicate),
        "induction": _per_query(pattern, induction),
    }


def _per_query(pattern: Tensor, targets: Tensor) -> Tensor:
    has_target = targets.any(-1)
    sums = (pattern * targets[:, None]).sum(-1)
    return (sums * has_target[:, None]).sum(-1) / has_target.sum(-1)[:, None]
