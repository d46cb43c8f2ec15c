"""`CaptureHeads`: keep the head outputs of one run."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.attention.participants import Reader
from interp.attention.rows import LayerCall, Stream


class CaptureHeads(Reader):
    """Keeps z, the head outputs before the output projection, after every edit.

    Arguments:
        layers: layers to keep; None for all.
        queries: absolute query positions to keep, negative ones counted from the end; None for all.

    Attributes:
        z: by layer, ``[batch, query, head, d_head]`` in the model's dtype; the calls of cached decoding follow each
            other along the query axis. With autograd on it stays in the graph. A new prompt starts anew.

    Example:
        >>> import interp
        >>> model = interp.load("mini")
        >>> heads = CaptureHeads(layers=[0], queries=torch.tensor([-1]))
        >>> with interp.watch(model, heads):
        ...     _ = model(model.to_tokens("Then Mary gave a ring to John"))
        >>> heads.z[0].shape[:3] == (1, 1, model.n_heads)
        True
    """

    def __init__(self, *, layers: Iterable[int] | None = None, queries: Int[Tensor, " position"] | None = None) -> None:
        self.layers = None if layers is None else frozenset(layers)
        self.queries = queries
        self.z: dict[int, Float[Tensor, "batch query head d_head"]] = {}

    def begin(self, stream: Stream) -> None:
        if stream.past == 0:
            self.z = {}

    def read_call(self, call: LayerCall) -> None:
        kept = self.query_indices(call.queries, int(call.queries[-1]) + 1)
        z = call.z.clone() if kept is None else call.z.index_select(1, kept)
        before = self.z.get(call.layer)
        self.z[call.layer] = z if before is None else torch.cat([before, z], 1)
