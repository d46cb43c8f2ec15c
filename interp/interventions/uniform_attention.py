"""`UniformAttention`: chosen heads attend to every visible key alike."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.attention.participants import Editor
from interp.attention.rows import AttentionRows


class UniformAttention(Editor):
    """Spreads the mass of every row of chosen heads evenly over the keys that the query sees.

    *Formula*: ``A[q, k] = sum_j A[q, j] / n_visible(q)`` at visible keys. The head still moves the mean of the values;
    what it looks at is gone. A row keeps its sum, which a learned sink logit makes less than 1; padding is not visible.

    Identity: no head chosen; every number is then bitwise the same.

    Arguments:
        heads: True for a head made uniform, ``[layer, head]``, or ``[batch, layer, head]`` for each sample's own.

    Example:
        >>> import interp
        >>> model = interp.load("mini")
        >>> heads = torch.zeros(model.n_layers, model.n_heads, dtype=torch.bool)
        >>> heads[1, 2] = True
        >>> sorted(UniformAttention(heads).layers)
        [1]
    """

    def __init__(self, heads: Bool[Tensor, "layer head"] | Bool[Tensor, "batch layer head"]) -> None:
        self.heads = heads if heads.dim() == 3 else heads[None]
        self.layers = frozenset(self.heads.any(-1).any(0).nonzero().flatten().tolist())

    def edit_rows(self, rows: AttentionRows) -> Float[Tensor, "batch head query key"]:
        pattern = rows.pattern
        chosen = self.heads[:, rows.layer, : pattern.shape[1]].to(pattern.device)[..., None, None]
        share = rows.visible / rows.visible.sum(-1, keepdim=True).clamp_min(1)
        return torch.where(chosen, pattern.sum(-1, keepdim=True) * share[:, None].to(pattern), pattern)
