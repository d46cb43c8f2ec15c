"""Heads that look at earlier copies of the current token: duplicate-token and induction heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.analyzers.analyzer import TEXT, AnalyzerReader, Shape
from interp.analyzers.targets import TargetAnalyzer, TargetReader
from interp.attention.rows import AttentionRows, Stream
from interp.errors import InputError

BLOCK = 256


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

    Arguments:
        valid: which tokens count; None for all.
        first_query: tokens before this position are only looked back at.

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
    """The equal pairs of the new queries of a forward pass; patches of images are no copies of each other.

    Raises:
        InputError: the stream has no token ids, or not of all its tokens.
    """
    if stream not in _pairs:
        if stream.tokens is None or bool((stream.tokens < 0).any()):
            raise InputError("Equal tokens were asked for, but the model got embeddings or images. Pass token ids.")
        named = stream.valid
        if stream.images is not None:
            named = ~stream.images if named is None else named & ~stream.images
        _pairs[stream] = equal_pairs(stream.tokens, named, first_query=stream.past)
    return _pairs[stream]


@dataclass(frozen=True, kw_only=True)
class DuplicateToken(TargetAnalyzer):
    """Attention to earlier copies of the current token.

    *Formula* (normalisation ``sum_per_query``): for every query with at least one earlier copy, the sum of ``A[i, j]``
    over all ``j < i`` with ``tok[j] == tok[i]``; mean over those queries. With ``mean_per_entry`` the mean of ``A[i,
    j]`` over all such pairs: the echo score of RazorAttention; with ``per_row_all`` TransformerLens' ``detect_head``
    (see `TargetAnalyzer`). *Range* [0, 1]. *Chance*: uniform attention over the visible keys. NaN where no token
    repeats within sight (``per_row_all``: 0). Patches of an image share one id, but are no copies of each other.
    *Source*: Wang et al. 2022, arXiv 2211.00593; Tang et al. 2024, arXiv 2407.15891 (echo heads).
    """

    name: ClassVar[str] = "duplicate-token"
    reads: ClassVar[frozenset[str]] = TEXT - {"cross"}

    def reader(self, shape: Shape) -> AnalyzerReader:
        return _Matching(shape, self)


@dataclass(frozen=True, kw_only=True)
class Induction(TargetAnalyzer):
    """Attention to what followed earlier copies of the current token (prefix matching).

    *Formula* (normalisation ``sum_per_query``): for every query with at least one earlier copy, the sum of ``A[i, j]``
    over all ``j <= i`` with ``tok[j-1] == tok[i]``; mean over those queries. The diagonal counts when a token repeats
    at once. With ``mean_per_entry`` the mean of ``A[i, j]`` over all such pairs, as RazorAttention has it: a perfect
    head on four copies gets 0.5; with ``per_row_all`` TransformerLens' ``detect_head`` (see `TargetAnalyzer`). *Range*
    [0, 1]. *Chance*: uniform attention over the visible keys. NaN where no token repeats within sight
    (``per_row_all``: 0). Patches of an image share one id, but are no copies of each other.
    *Source*: Olsson et al. 2022, arXiv 2209.11895; Tang et al. 2024, arXiv 2407.15891. Difference from the published
    code, which counts one key too many at the end of every block: targets are found by their tokens.
    """

    name: ClassVar[str] = "induction"
    reads: ClassVar[frozenset[str]] = TEXT - {"cross"}

    def reader(self, shape: Shape) -> AnalyzerReader:
        return _Matching(shape, self, shift=1)


class _Matching(TargetReader):
    """Sums attention to the equal earlier tokens, or to the tokens `shift` places after them."""

    def __init__(self, shape: Shape, analyzer: TargetAnalyzer, shift: int = 0) -> None:
        super().__init__(shape, analyzer)
        self.shift = shift

    def read_rows(self, rows: AttentionRows) -> None:
        n_examples = rows.pattern.shape[0]
        pairs = pairs_of(rows.stream).between(int(rows.queries[0]), int(rows.queries[-1]))
        row = torch.searchsorted(rows.queries, pairs.query)
        target = pairs.key + self.shift
        key = target - rows.keys[0]
        inside = (rows.queries[row] == pairs.query) & (key >= 0) & (key < len(rows.keys))
        inside &= rows.visible[pairs.example, row, key.clamp(0, len(rows.keys) - 1)]
        inside &= self.allowed(pairs.query, target, rows.first_key.to(target.device)[pairs.example])
        example, row, key = pairs.example[inside], row[inside], key[inside]
        sums = rows.pattern.new_zeros(n_examples, rows.pattern.shape[1], dtype=torch.float64)
        sums.index_add_(0, example, rows.pattern[example, :, row, key].double())
        n_targets = torch.zeros(n_examples, len(rows.queries), dtype=torch.float64, device=sums.device)
        n_targets.index_put_((example, row), torch.ones_like(row, dtype=torch.float64), accumulate=True)
        self.add_targets(rows, sums, n_targets)
