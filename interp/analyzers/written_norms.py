"""How much heads write into the residual stream: norms after the output projection, and the no-op indicator."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def written_norms(
    vectors: Float[Tensor, "batch kv_head position d_value"],
    roots: Float[Tensor, "head rank d_value"] | None,
    n_heads: int,
) -> Float[Tensor, "batch head position"]:
    """``||x W_O||`` in every query head, for the head's own vectors or its KV head's.

    Arguments:
        roots: what `triangles` makes of W_O; None for ``||x||``.
    """
    group = n_heads // vectors.shape[1]
    if roots is None:
        return vectors.float().norm(dim=-1).repeat_interleave(group, 1)
    roots = roots.to(vectors.device)
    written = [(vectors[:, head // group].float() @ roots[head].mT).norm(dim=-1) for head in range(n_heads)]
    return torch.stack(written, 1)


def no_op(
    sink_mass: Float[Tensor, "batch head"],
    output_norm: Float[Tensor, "batch head"],
    value_norm: Float[Tensor, "batch head"],
) -> Float[Tensor, "batch head"]:
    """``sink_mass * (1 - output_norm / value_norm)``, clipped at 0: much attention on sinks, little written.

    Arguments:
        sink_mass: mean attention per query on the head's sinks.
        output_norm: mean ``||z W_O||``.
        value_norm: mean ``||v W_O||`` of the keys that are no sinks.
    """
    return sink_mass * (1 - output_norm / value_norm).clamp_min(0)


def triangles(output_weights: Float[Tensor, "head d_value d_model"]) -> Float[Tensor, "head rank d_value"]:
    """Per head the triangle R of the QR decomposition of W_O transposed.

    ``||x W_O|| = ||R x||``, without a vector as wide as the residual stream and without the squares of a Gram matrix.
    """
    return torch.linalg.qr(output_weights.detach().float().mT, mode="r").R
