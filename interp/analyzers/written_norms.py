"""How much heads write into the residual stream: norms after the output projection, and the no-op indicator."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from interp.analyzers.analyzer import Shape
from interp.errors import InputError


def written_norms(
    vectors: Float[Tensor, "batch kv_head position d_value"],
    roots: Float[Tensor, "head rank d_value"] | None,
    n_heads: int,
) -> Float[Tensor, "batch head position"]:
    """``||x W_O||`` in every query head, for the head's own vectors or its KV head's.

    Arguments:
        roots: per head the triangle R of the QR decomposition of W_O transposed, for which ``||x W_O|| = ||R x||``
            without a vector as wide as the residual stream; None for ``||x||``.
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


def triangles(
    weights: Float[Tensor, "layer head d_value d_model"] | None, shape: Shape
) -> list[Float[Tensor, "head rank d_value"]] | None:
    """The roots of `written_norms` by layer; None without weights.

    Raises:
        InputError: the weights are those of a model of another shape.
    """
    if weights is None:
        return None
    if tuple(weights.shape[:2]) != (shape.n_layers, shape.n_heads):
        raise InputError(
            f"output_weights has {weights.shape[0]} layers of {weights.shape[1]} heads, but the model has "
            f"{shape.n_layers} of {shape.n_heads}. Pass output_weights(model) of the model that is scanned."
        )
    return [torch.linalg.qr(layer.detach().float().mT, mode="r").R for layer in weights]
