"""How much attention every token receives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.analyzers.analyzer import TEXT, Analyzer, AnalyzerReader, Shape
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
    reads: ClassVar[frozenset[str]] = TEXT

    def reader(self, shape: Shape) -> AnalyzerReader:
        return _ReceivedMass(shape, self.name)


@dataclass(frozen=True, eq=False, kw_only=True)
class Received:
    """What the keys of one layer received.

    Attributes:
        alpha: mean attention over the real queries that see the key ``[batch, head, key]``; NaN at padding.
        uniform: alpha of a head that looks at all its visible keys alike ``[batch, key]``; NaN at padding.
        seen_by: number of real queries that see the key ``[batch, key]``; 0 at padding.
        n_queries: number of real queries ``[batch]``.
    """

    alpha: Float[Tensor, "batch head key"]
    uniform: Float[Tensor, "batch key"]
    seen_by: Float[Tensor, "batch key"]
    n_queries: Float[Tensor, " batch"]


class ColumnSums:
    """Sums the attention that every key receives from real queries; blocks of rows and cached decoding add up."""

    def __init__(self) -> None:
        self._mass: dict[int, Float[Tensor, "batch head key"]] = {}
        self._uniform: dict[int, Float[Tensor, "batch key"]] = {}
        self._seen_by: dict[int, Float[Tensor, "batch key"]] = {}
        self._n_queries: dict[int, Float[Tensor, " batch"]] = {}

    @property
    def layers(self) -> list[int]:
        """The layers read so far."""
        return sorted(self._mass)

    def add(self, rows: AttentionRows) -> None:
        """One block of rows. Each row is shown once."""
        start, end = int(rows.keys[0]), int(rows.keys[-1]) + 1
        visible = rows.visible.to(rows.pattern.dtype)
        mass = (
            rows.pattern.sum(2)
            if rows.query_valid is None
            else torch.einsum("bhqk,bq->bhk", rows.pattern, rows.query_valid.to(rows.pattern.dtype))
        )
        uniform = torch.einsum("bqk,bq->bk", visible, 1 / rows.n_visible.clamp_min(1).to(visible.dtype))
        batch = rows.pattern.shape[0]
        sums = ((self._mass, mass), (self._uniform, uniform), (self._seen_by, visible.sum(1)))
        for store, block in sums:
            block = block.expand(batch, *block.shape[1:])
            grown(store, rows.layer, (*block.shape[:-1], end), block)[..., start:end] += block
        seeing = (rows.n_visible > 0).double().sum(-1).expand(batch)
        self._n_queries[rows.layer] = self._n_queries.get(rows.layer, torch.zeros_like(seeing)) + seeing

    def received(self, layer: int) -> Received:
        """The means over the rows read so far."""
        seen_by = self._seen_by[layer]
        return Received(
            alpha=self._mass[layer] / seen_by[:, None],
            uniform=self._uniform[layer] / seen_by,
            seen_by=seen_by,
            n_queries=self._n_queries[layer],
        )


def grown(store: dict[int, Tensor], layer: int, shape: tuple[int, ...], like: Tensor) -> Float[Tensor, ...]:
    """The accumulator of a layer, lengthened to this many keys: later blocks and decoding see more of them."""
    old = store.get(layer)
    if old is None or old.shape[-1] < shape[-1]:
        store[layer] = like.new_zeros(shape, dtype=torch.float64)
        if old is not None:
            store[layer][..., : old.shape[-1]] = old
    return store[layer]


class OneTextReader(AnalyzerReader):
    """A reader whose result is about the tokens of one text."""

    def __init__(self, shape: Shape, name: str) -> None:
        self.shape, self.name = shape, name
        self.kinds = frozenset({shape.kind})
        self._n_texts = 0

    def begin(self, stream: Stream) -> None:
        n_examples = 0 if stream.tokens is None else stream.tokens.shape[0]
        self._n_texts += n_examples if stream.past == 0 else 0
        if self._n_texts > 1:
            raise InputError(f"{self.name} describes the tokens of one text, but several were given. Scan one text.")


class ReceivedReader(OneTextReader):
    """Sums what every key of one text receives."""

    def __init__(self, shape: Shape, name: str) -> None:
        super().__init__(shape, name)
        self.sums = ColumnSums()

    def read_rows(self, rows: AttentionRows) -> None:
        self.sums.add(rows)

    def of_text(self, layer: int, n_tokens: int) -> Received:
        """What the tokens of the text received, without padding."""
        received = self.sums.received(layer)
        real = received.seen_by[0] > 0
        if int(real.sum()) != n_tokens:
            raise InputError(
                f"{self.name} describes the tokens of the text, of which there are {n_tokens}, but {self.shape.kind} "
                f"attention has {int(real.sum())} keys. Scan the attention over the text itself."
            )
        return replace(
            received,
            alpha=received.alpha[..., real],
            uniform=received.uniform[:, real],
            seen_by=received.seen_by[:, real],
        )


class _ReceivedMass(ReceivedReader):
    def result(self, provenance: Provenance, tokens: list[str]) -> TokenMap:
        values = torch.full((self.shape.n_layers, self.shape.n_heads, len(tokens)), torch.nan)
        for layer in self.sums.layers:
            alpha = self.of_text(layer, len(tokens)).alpha[0]
            values[layer, : alpha.shape[0]] = alpha.cpu()
        return TokenMap(
            name=self.name,
            values=values,
            dims=("layer", "head", "key"),
            tokens=tuple(tokens),
            unit="mean attention received",
            value_range=(0.0, 1.0),
            provenance=provenance,
        )
