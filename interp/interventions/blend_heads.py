"""`BlendHeads`: the outputs of every head move towards given values by a share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from interp.attention.participants import Editor
from interp.attention.rows import LayerCall


class BlendHeads(Editor):
    """``z + share * (target - z)`` for every head: share 0 leaves z, share 1 gives the target, both bitwise.

    The gradient of a metric with respect to the shares at 0 is attribution patching (Nanda 2023): the gradient with
    respect to z times ``target - z``, summed over positions, for every sample and head in one backward pass.

    Identity: all shares 0; every number is then the same (``0.0`` may stand for ``-0.0``).

    Arguments:
        targets: by layer, ``[batch, query, head, d_head]`` over the positions from the start of the sequence; other
            layers stay on the fused kernel.
        shares: ``[layer, head]``, or ``[batch, layer, head]`` for shares of each sample's own; may require gradients.

    Example:
        >>> editor = BlendHeads({0: torch.ones(1, 4, 8, 16)}, torch.zeros(1, 1, 8, requires_grad=True))
        >>> sorted(editor.layers)
        [0]
    """

    def __init__(
        self,
        targets: Mapping[int, Float[Tensor, "batch query head d_head"]],
        shares: Float[Tensor, "layer head"] | Float[Tensor, "batch layer head"],
    ) -> None:
        self.targets = targets
        self.shares = shares
        self.layers = frozenset(targets)

    def edit_z(self, call: LayerCall) -> Float[Tensor, "batch query head d_value"]:
        z = call.z
        target = self.targets[call.layer].index_select(1, call.queries).to(z)
        shares = self.shares[..., call.layer, : z.shape[2]].to(z)[..., None, :, None]
        return torch.lerp(z, target, shares)
