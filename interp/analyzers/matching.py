"""Heads that look at earlier copies of the current token: duplicate-token and induction heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.analyzers.analyzer import Analyzer, AnalyzerReader, HeadMeanReader, Shape
from interp.attention.rows import AttentionRows, Stream
from interp.errors import InputError

BLOCK = 256

Normalisation = Literal["sum_per_query", "mean_per_entry"]


@dataclass(frozen=True, eq=False)
class EqualPairs:
    """All pairs of an earlier equal token, as parallel lists ordered by query.

    Attributes:
        example, query, key: ``tokens[example, key] == tokens[example, query]`` with ``key < query``.
    """

    example: Int[Tensor, " pair"]
    query: Int[Tensor, " pair"]
    key: Int[Tensor, " pair"]

    def between(self, first: int, last: int) -> EqualPairs:
        """The pairs whose query lies in ``first..last``."""
        low, high = torch.searchsorted(self.query, torch.tensor([first, last + 1], device=self.query.device)).tolist()
        return EqualPairs(self.example[low:high], self.query[low:high], self.key[low:high])


def equal_pairs(
    tokens: Int[Tensor, "example position"],
    valid: Bool[Tensor, "example position"] | None = None,
    *,
    first_query: int = 0,
) -> EqualPairs:
    """Find every earlier copy of every token, in blocks of queries so that no square of the length is held.

    Example:
        >>> pairs = equal_pairs(torch.tensor([[7, 8, 7, 8]]))
        >>> list(zip(pairs.query.tolist(), pairs.key.tolist()))
        [(2, 0), (3, 1)]
    """
    n_positions = tokens.shape[1]
    positions = torch.arange(n_positions, device=tokens.device)
    found: list[Tensor] = [torch.zeros(0, 3, dtype=torch.long, device=tokens.device)]
    for start in range(first_query, n_positions, BLOCK):
        end = min(start + BLOCK, n_positions)
        equal = tokens[:, start:end, None] == tokens[:, None, :end]
        equal &= positions[:end] < positions[start:end, None]
        if valid is not None:
            equal &= valid[:, start:end, None] & valid[:, None, :end]
        query, example, key = equal.transpose(0, 1).nonzero(as_tuple=True)
        found.append(torch.stack([example, query + start, key], 1))
    example, query, key = torch.cat(found).unbind(1)
    return EqualPairs(example, query.contiguous(), key)


# One search per forward pass, however many readers and layers ask; gone with the pass.
_pairs: WeakKeyDictionary[Stream, EqualPairs] = WeakKeyDictionary()


def pairs_of(stream: Stream) -> EqualPairs:
    """The equal pairs of the new queries of a forward pass.

    Raises:
        InputError: the stream has no token ids.
    """
    if stream.tokens is None:
        raise InputError("Equal tokens were asked for, but the model got embeddings or images. Pass token ids.")
    if stream not in _pairs:
        _pairs[stream] = equal_pairs(stream.tokens, stream.valid, first_query=stream.past)
    return _pairs[stream]


@dataclass(frozen=True, kw_only=True)
class DuplicateToken(Analyzer):
    """Attention to earlier copies of the current token.

    *Formula* (normalisation ``sum_per_query``): for every query with at least one earlier copy, the sum of ``A[i, j]``
    over all ``j < i`` with ``tok[j] == tok[i]``; mean over those queries. With ``mean_per_entry`` the mean of ``A[i,
    j]`` over all such pairs: the echo score of RazorAttention, whose largest value is below 1 where tokens come more
    than twice. *Range* [0, 1]. *Chance*: uniform attention over the visible keys. NaN where no token repeats.
    *Source*: Wang et al. 2022, arXiv 2211.00593; Tang et al. 2024, arXiv 2407.15891 (echo heads).
    """

    name: ClassVar[str] = "duplicate-token"
    normalisation: Normalisation = "sum_per_query"

    def reader(self, shape: Shape) -> AnalyzerReader:
        return _Matching(shape, name=self.name, normalisation=self.normalisation)


@dataclass(frozen=True, kw_only=True)
class Induction(Analyzer):
    """Attention to what followed earlier copies of the current token (prefix matching).

    *Formula* (normalisation ``sum_per_query``): for every query with at least one earlier copy, the sum of ``A[i, j]``
    over all ``j <= i`` with ``tok[j-1] == tok[i]``; mean over those queries. The diagonal counts when a token repeats
    at once. With ``mean_per_entry`` the mean of ``A[i, j]`` over all such pairs, as RazorAttention has it: a perfect
    head on four copies gets 0.5. *Range* [0, 1]. *Chance*: uniform attention over the visible keys. NaN where no token
    repeats.
    *Source*: Olsson et al. 2022, arXiv 2209.11895; Tang et al. 2024, arXiv 2407.15891. Difference: TransformerLens'
    ``detect_head`` divides by all rows.
    """

    name: ClassVar[str] = "induction"
    normalisation: Normalisation = "sum_per_query"

    def reader(self, shape: Shape) -> AnalyzerReader:
        return _Matching(shape, name=self.name, normalisation=self.normalisation, shift=1)


class _Matching(HeadMeanReader):
    """Sums attention to the equal earlier tokens, or to the tokens `shift` places after them."""

    def __init__(self, shape: Shape, *, name: str, normalisation: Normalisation, shift: int = 0) -> None:
        if normalisation not in get_args(Normalisation):
            raise InputError(
                f"{name} has no normalisation {normalisation!r}. Choose from {', '.join(get_args(Normalisation))}."
            )
        per_pair = normalisation == "mean_per_entry"
        unit = "attention mass per target" if per_pair else "attention mass"
        super().__init__(shape, name=name, unit=unit, value_range=(0.0, 1.0))
        self.shift, self.per_pair = shift, per_pair

    def read_rows(self, rows: AttentionRows) -> None:
        n_examples = rows.pattern.shape[0]
        pairs = pairs_of(rows.stream).between(int(rows.queries[0]), int(rows.queries[-1]))
        row = torch.searchsorted(rows.queries, pairs.query)
        key = pairs.key + self.shift - rows.keys[0]
        inside = (rows.queries[row] == pairs.query) & (key >= 0) & (key < len(rows.keys))
        example, row, key = pairs.example[inside], row[inside], key[inside]
        sums = rows.pattern.new_zeros(n_examples, rows.pattern.shape[1], dtype=torch.float64)
        sums.index_add_(0, example, rows.pattern[example, :, row, key].double())
        n_targets = torch.zeros(n_examples, len(rows.queries), dtype=torch.float64, device=sums.device)
        n_targets.index_put_((example, row), torch.ones_like(row, dtype=torch.float64), accumulate=True)
        expected = (n_targets / rows.n_visible.clamp_min(1)).sum(-1)
        counts = n_targets if self.per_pair else (n_targets > 0).double()
        self.add_sums(rows.layer, sums, expected, counts.sum(-1))
