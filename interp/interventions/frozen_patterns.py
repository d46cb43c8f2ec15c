"""`FrozenPatterns`: samples attend as another sample of their batch does."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.attention.participants import Editor
from interp.attention.rows import AttentionRows, Stream
from interp.errors import InputError


class FrozenPatterns(Editor):
    """Gives every sample the attention patterns of another one, all layers and heads.

    With the same tokens twice in a batch, one of them edited (`ScaleHeads` with gates of each sample's own), the edited
    one keeps the patterns of the untouched one: what an edit does by changing what heads write, without what it does by
    changing where later heads look. No map is stored; the untouched run goes along in the same batch.

    *Source*: the pattern-preserving ablation of Olsson et al. 2022, arXiv 2209.11895, who store all patterns of a first
    run. Identity: every sample is its own source; every number is then bitwise the same.

    Arguments:
        source: for every sample of the batch, the sample whose patterns it gets; padded alike.

    Example:
        >>> import interp
        >>> model = interp.load("mini")
        >>> tokens = model.to_tokens("Then Mary gave a ring to John").repeat(2, 1)
        >>> gates = torch.ones(2, model.n_layers, model.n_heads)
        >>> gates[1, 0, 3] = 0
        >>> from interp.interventions.scale_heads import ScaleHeads
        >>> with interp.watch(model, FrozenPatterns(torch.tensor([0, 0])), ScaleHeads(gates)):
        ...     untouched, ablated = model(tokens)
    """

    def __init__(self, source: Int[Tensor, " batch"]) -> None:
        self.source = source
        if torch.equal(source, torch.arange(len(source), device=source.device)):
            self.layers = frozenset()

    def begin(self, stream: Stream) -> None:
        batch = None if stream.tokens is None else len(stream.tokens)
        outside = bool(((self.source < 0) | (self.source >= len(self.source))).any())
        if outside or (batch is not None and batch != len(self.source)):
            raise InputError(
                f"Patterns come from the samples {self.source.tolist()} in a batch of {batch}; expected one sample of "
                "the batch for each, counted from 0."
            )
        if stream.valid is not None and not torch.equal(stream.valid[self.source], stream.valid):
            raise InputError("Samples that share patterns are padded differently. Give both the same tokens.")

    def edit_rows(self, rows: AttentionRows) -> Float[Tensor, "batch head query key"]:
        return rows.pattern.index_select(0, self.source.to(rows.pattern.device))
