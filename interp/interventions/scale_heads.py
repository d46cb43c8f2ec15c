"""`ScaleHeads`: the outputs of every head times a gate."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from interp.attention.participants import Editor, Phase
from interp.attention.rows import LayerCall


class ScaleHeads(Editor):
    """Multiplies z of every head by its gate; 1 leaves it bitwise as it is, 0 is zero ablation.

    The gradient of a metric with respect to the gates at 1 is the head importance of Michel et al. 2019 (arXiv
    1905.10650), per sample when the gates have a batch axis. Heads are query heads, so grouped keys and values are no
    obstacle.

    Arguments:
        gates: ``[layer, head]``; with a batch axis in front for gates of each sample's own; ``[batch, query, layer,
            head]`` for gates of each position's own, counted from the start of the sequence. May require gradients.
        queries: absolute query positions to scale, negative ones counted from the end; None for all.
        phase: scale in prefill calls, in decode calls, or both.

    Example:
        >>> import interp, torch
        >>> model = interp.load("mini")
        >>> gates = torch.ones(model.n_layers, model.n_heads)
        >>> tokens = model.to_tokens("Then Mary gave a ring to John")
        >>> with interp.watch(model, ScaleHeads(gates)):
        ...     same = model(tokens)
        >>> with interp.watch(model):
        ...     bool((model(tokens) == same).all())
        True
    """

    def __init__(
        self,
        gates: Float[Tensor, "layer head"]
        | Float[Tensor, "batch layer head"]
        | Float[Tensor, "batch query layer head"],
        *,
        queries: Int[Tensor, " position"] | None = None,
        phase: Phase = "both",
    ) -> None:
        self.gates = gates
        self.queries = queries
        self.phase = phase
        self.layers = frozenset(range(gates.shape[-2]))

    def edit_z(self, call: LayerCall) -> Float[Tensor, "batch query head d_value"]:
        z = call.z
        # A layer with fewer heads than the widest one uses the first gates.
        gates = self.gates[..., call.layer, : z.shape[2]].to(z)[..., None]
        gates = gates.index_select(1, call.queries) if gates.dim() == 4 else gates.unsqueeze(-3)
        rows = self.query_indices(call.queries, int(call.queries[-1]) + 1)
        if rows is None:
            return z * gates
        return z.index_copy(1, rows, z.index_select(1, rows) * gates)
