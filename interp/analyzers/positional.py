"""Where a head looks by position alone: the first token, the previous token, and how spread out it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.analyzers.analyzer import KINDS, Analyzer, AnalyzerReader, HeadMeanReader, Shape
from interp.analyzers.targets import TargetAnalyzer, TargetReader
from interp.attention.rows import AttentionRows


def mass_at(
    pattern: Float[Tensor, "batch head query key"], index: Int[Tensor, "batch query"] | Int[Tensor, "1 query"]
) -> Float[Tensor, "batch head query"]:
    """Attention of every query to one key each, given as key index; 0 where the index is outside the block.

    Example:
        >>> import torch
        >>> pattern = torch.tensor([[[[1.0, 0.0], [0.3, 0.7]]]])
        >>> mass_at(pattern, torch.tensor([[-1, 0]]))[0, 0].tolist()
        [0.0, 0.30000001192092896]
    """
    n_keys = pattern.shape[-1]
    index = index.expand(pattern.shape[0], -1)
    chosen = index.clamp(0, n_keys - 1)[:, None, :, None].expand(-1, pattern.shape[1], -1, 1)
    inside = (index >= 0) & (index < n_keys)
    return pattern.gather(-1, chosen).squeeze(-1) * inside[:, None]


def seen_at(rows: AttentionRows, index: Int[Tensor, "batch query"]) -> Bool[Tensor, "batch query"]:
    """Whether every query sees one key, given as key index; False where the index is outside the block."""
    n_keys = len(rows.keys)
    seen = rows.visible.gather(-1, index.clamp(0, n_keys - 1)[..., None]).squeeze(-1)
    return seen & (index >= 0) & (index < n_keys)


@dataclass(frozen=True, kw_only=True)
class FirstTokenMass(Analyzer):
    """Attention to the first real token (BOS where there is one), averaged over all later queries.

    *Formula*: mean over i >= 1 of ``A[i, 0]``, positions counted from the first real token. The first query is left
    out: looking back, it sees nothing else. Queries from which a sliding window hides the first token count with 0.
    *Range* [0, 1]. *Chance*: uniform attention over the visible keys.
    *Source*: Xiao et al. 2023, arXiv 2309.17453; Gu et al. 2024, arXiv 2410.10781, whose alpha also counts the first
    query and is therefore larger.
    """

    name: ClassVar[str] = "first-token"

    def reader(self, shape: Shape) -> AnalyzerReader:
        return _FirstToken(shape, name=self.name, unit="attention mass", value_range=(0.0, 1.0))


class _FirstToken(HeadMeanReader):
    def read_rows(self, rows: AttentionRows) -> None:
        first = rows.first_key[:, None].to(rows.queries.device)
        key = (first - rows.keys[0]).expand(-1, len(rows.queries))
        chance = seen_at(rows, key) / rows.n_visible.clamp_min(1)
        self.add(rows, mass_at(rows.pattern, key), chance, rows.queries[None] != first)


@dataclass(frozen=True, kw_only=True)
class PreviousToken(TargetAnalyzer):
    """Attention to the previous token.

    *Formula*: mean over i >= 1 of ``A[i, i-1]``. *Range* [0, 1]. *Chance*: uniform attention over the visible keys.
    Every query but the first has one target, so ``sum_per_query`` and ``mean_per_entry`` are the same; ``per_row_all``
    is TransformerLens' ``detect_head``, which also counts the first row and so reaches (n-1)/n at most (see
    `TargetAnalyzer`).
    *Source*: Olsson et al. 2022, arXiv 2209.11895.
    """

    name: ClassVar[str] = "previous-token"
    reads: ClassVar[frozenset[str]] = KINDS - {"cross"}

    def reader(self, shape: Shape) -> AnalyzerReader:
        return _PreviousToken(shape, self)


class _PreviousToken(TargetReader):
    def read_rows(self, rows: AttentionRows) -> None:
        first = rows.first_key[:, None].to(rows.queries.device)
        key = (rows.queries - 1 - rows.keys[0]).expand(len(rows.visible), -1)
        values = mass_at(rows.pattern, key)
        counted = (rows.queries > first) & self.allowed(rows.queries, rows.queries - 1, first)
        counted = (counted & seen_at(rows, key)).double()
        self.add_targets(rows, (values * counted[:, None]).sum(-1), counted)


@dataclass(frozen=True, kw_only=True)
class Entropy(Analyzer):
    """Shannon entropy of attention rows in nats.

    *Formula*: mean over queries of ``-sum_j A[i, j] log A[i, j]``. *Range* [0, log n]. *Chance*: uniform attention
    over the visible keys, ``log(visible)``, which is also the largest possible value.
    """

    name: ClassVar[str] = "entropy"

    def reader(self, shape: Shape) -> AnalyzerReader:
        return _Entropy(shape, name=self.name, unit="nats", value_range=None)


class _Entropy(HeadMeanReader):
    higher_is = "broader"

    def read_rows(self, rows: AttentionRows) -> None:
        self.add(rows, rows.entropy, rows.n_visible.clamp_min(1).log())
