"""`ReplaceHeads`: the outputs of chosen heads become given values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.attention.participants import Editor
from interp.attention.rows import LayerCall


@dataclass(frozen=True, eq=False)
class HeadValues:
    """Which heads of one layer get which outputs. Axes of size 1 stand for all.

    Attributes:
        chosen: True where z is replaced, ``[batch or 1, query or 1, head]``; so each sample can have heads of its own.
        values: the new z, ``[batch or 1, query or 1, head or 1, d_head]``.

    A query axis longer than 1 counts positions from the start of the sequence; positions behind its end stay as they
    are, so values taken from a prompt do not touch what is generated after it.
    """

    chosen: Bool[Tensor, "#batch #query head"]
    values: Float[Tensor, "#batch #query #head d_head"]

    def applied(self, call: LayerCall) -> Float[Tensor, "batch query head d_head"]:
        """The outputs of a call with the chosen ones replaced."""
        z, chosen, values = call.z, self.chosen.to(call.z.device), self.values.to(call.z)
        end = max(chosen.shape[1], values.shape[1])
        if end == 1:
            return torch.where(chosen[..., None], values, z)
        covered = (call.queries < end).nonzero().squeeze(-1)
        if len(covered) == 0:
            return z
        positions = call.queries[covered]
        part = torch.where(_at(chosen, positions)[..., None], _at(values, positions), z.index_select(1, covered))
        return part if len(covered) == z.shape[1] else z.index_copy(1, covered, part)


class ReplaceHeads(Editor):
    """Replaces z of chosen heads at chosen positions: activation patching, mean and resample ablation.

    Identity: nothing chosen, or values equal to z; every number is then bitwise the same.

    Arguments:
        replacements: by layer; other layers stay on the fused kernel.

    Example:
        >>> import interp
        >>> model = interp.load("mini")
        >>> chosen = torch.zeros(1, 1, model.n_heads, dtype=torch.bool)
        >>> chosen[..., 2] = True
        >>> silent = ReplaceHeads({0: HeadValues(chosen, torch.zeros(1, 1, 1, model.d_head))})
        >>> with interp.watch(model, silent):
        ...     _ = model(model.to_tokens("Then Mary gave a ring to John"))
    """

    def __init__(self, replacements: Mapping[int, HeadValues]) -> None:
        self.layers = frozenset(replacements)
        self.replacements = replacements

    def edit_z(self, call: LayerCall) -> Float[Tensor, "batch query head d_value"]:
        return self.replacements[call.layer].applied(call)


def _at(tensor: Tensor, positions: Tensor) -> Tensor:
    """The rows of these positions; all of a query axis of size 1."""
    return tensor if tensor.shape[1] == 1 else tensor.index_select(1, positions)
