"""How much attention every token receives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.analyzers.analyzer import Analyzer, AnalyzerReader, Shape
from interp.attention.rows import AttentionRows, Stream
from interp.errors import InputError
from interp.provenance import Provenance
from interp.results import TokenMap


@dataclass(frozen=True, kw_only=True)
class ReceivedMass(Analyzer):
    """Attention that each token of one text receives, in every head.

    *Formula*: ``alpha[k] = 1 / (number of queries that see k) * sum_q A[q, k]``; for causal attention over n tokens
    the divisor is ``n - k``. *Range* [0, 1].
    *Source*: Gu et al. 2024, arXiv 2410.10781 (importance score alpha); the same column score as in ACT,
    arXiv 2406.15765. Padding queries are left out, which the published codes do not do.
    """

    name: ClassVar[str] = "received-mass"

    def reader(self, shape: Shape) -> AnalyzerReader:
        return _ReceivedMass(shape)


class _ReceivedMass(AnalyzerReader):
    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.kinds = frozenset({shape.kind})
        self._n_texts = 0
        self._mass: dict[int, Float[Tensor, "head key"]] = {}
        self._seen_by: dict[int, Float[Tensor, " key"]] = {}

    def begin(self, stream: Stream) -> None:
        n_examples = 0 if stream.tokens is None else stream.tokens.shape[0]
        self._n_texts += n_examples if stream.past == 0 else 0
        if self._n_texts > 1:
            raise InputError("received-mass describes the tokens of one text, but several were given. Scan one text.")

    def read_rows(self, rows: AttentionRows) -> None:
        end = int(rows.keys[-1]) + 1
        mass = self._grown(self._mass, rows.layer, (rows.pattern.shape[1], end), rows.pattern)
        seen_by = self._grown(self._seen_by, rows.layer, (end,), rows.pattern)
        mass[:, rows.keys[0] : end] += rows.pattern[0].sum(1)
        seen_by[rows.keys[0] : end] += rows.visible[0].sum(0)

    def _grown(self, store: dict[int, Tensor], layer: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """The accumulator of a layer, lengthened to this many keys: later blocks and decoding see more of them."""
        old = store.get(layer)
        if old is None or old.shape[-1] < shape[-1]:
            store[layer] = like.new_zeros(shape)
            if old is not None:
                store[layer][..., : old.shape[-1]] = old
        return store[layer]

    def result(self, provenance: Provenance, tokens: list[str]) -> TokenMap:
        values = torch.full((self.shape.n_layers, self.shape.n_heads, len(tokens)), torch.nan)
        for layer, mass in self._mass.items():
            values[layer, : mass.shape[0]] = (mass / self._seen_by[layer]).cpu()
        return TokenMap(
            name=ReceivedMass.name,
            values=values,
            dims=("layer", "head", "key"),
            tokens=tuple(tokens),
            unit="mean attention received",
            value_range=(0.0, 1.0),
            provenance=provenance,
        )
