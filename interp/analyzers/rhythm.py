"""How far local heads look back at every token, and how much global heads use it later: two curves over one text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.analyzers.analyzer import TEXT, Analyzer, AnalyzerReader, Shape
from interp.analyzers.received import OneTextReader, grown
from interp.analyzers.shape import from_first, offsets, weighted_mass
from interp.attention.rows import AttentionRows, Stream
from interp.errors import InputError
from interp.heads import HeadRef
from interp.provenance import Provenance
from interp.results import HeadScores, TokenMap


class _TokenMeanReader(OneTextReader):
    """Averages one number per token of one text. Subclasses call `add`.

    The result's note "uniform" holds what uniform attention over the visible keys would have given each token.
    """

    def __init__(
        self, shape: Shape, *, name: str, dim: Literal["query", "key"], unit: str, value_range: tuple[float, float]
    ) -> None:
        super().__init__(shape, name)
        self.dim, self.unit, self.value_range = dim, unit, value_range
        self._valid: Bool[Tensor, "batch position"] | None = None
        self._sums: dict[int, Float[Tensor, "head position"]] = {}
        self._expected: dict[int, Float[Tensor, " position"]] = {}
        self._counts: dict[int, Float[Tensor, " position"]] = {}

    def begin(self, stream: Stream) -> None:
        super().begin(stream)
        self._valid = stream.valid

    def add(
        self,
        layer: int,
        start: int,
        sums: Float[Tensor, "head position"],
        expected: Float[Tensor, " position"],
        counts: Float[Tensor, " position"],
    ) -> None:
        """Add sums, their values under uniform attention and the number of rows, from position `start` on."""
        for store, block in ((self._sums, sums), (self._expected, expected), (self._counts, counts)):
            end = start + block.shape[-1]
            grown(store, layer, (*block.shape[:-1], end), block)[..., start:end] += block

    def result(self, provenance: Provenance, tokens: list[str]) -> TokenMap:
        values = torch.full((self.shape.n_layers, self.shape.n_heads, len(tokens)), torch.nan)
        uniform = torch.full((self.shape.n_layers, len(tokens)), torch.nan)
        for layer, counts in self._counts.items():
            real = torch.ones_like(counts, dtype=torch.bool)
            if self._valid is not None:
                real = self._valid[0, : len(counts)].to(counts.device)
            means = (self._sums[layer] / counts)[:, real]
            values[layer, : means.shape[0], : means.shape[1]] = means.cpu()
            uniform[layer, : means.shape[1]] = (self._expected[layer] / counts)[real].cpu()
        return TokenMap(
            name=self.name,
            values=values,
            dims=("layer", "head", self.dim),
            tokens=tuple(tokens),
            unit=self.unit,
            value_range=self.value_range,
            chance=float(uniform.nanmean()),
            provenance=provenance,
            notes={"uniform": uniform.nanmean(0).tolist()},
        )


@dataclass(frozen=True, kw_only=True)
class WindowedDistance(Analyzer):
    """Windowed average attention distance (WAAD) of every token of one text, in every head.

    *Formula*: ``WAAD[t] = sum_s A[t, s] min(|t - s|, window)``. *Range* [0, window], in tokens. The note "uniform"
    holds the curve of uniform attention over the visible keys.
    *Source*: Li et al. 2025, arXiv 2510.13554, with a window of 10, on the mean map of the local heads; it is linear
    in A, so `mean_over_heads` of this map is theirs. Peaks mark the starts of phrases.

    Arguments:
        window: distances beyond it count as `window`.
    """

    name: ClassVar[str] = "windowed-distance"
    reads: ClassVar[frozenset[str]] = TEXT - {"cross"}
    least: ClassVar[Mapping[str, float]] = {"window": 1}
    window: int = 10

    def reader(self, shape: Shape) -> AnalyzerReader:
        return _WindowedDistance(shape, self)


class _WindowedDistance(_TokenMeanReader):
    def __init__(self, shape: Shape, analyzer: WindowedDistance) -> None:
        value_range = (0.0, float(analyzer.window))
        super().__init__(shape, name=analyzer.name, dim="query", unit="tokens", value_range=value_range)
        self.window = analyzer.window

    def read_rows(self, rows: AttentionRows) -> None:
        distance = offsets(rows).abs().clamp_max(self.window).to(rows.pattern.dtype)
        expected = (rows.visible[0] * distance).sum(-1).double() / rows.n_visible[0].clamp_min(1)
        values = weighted_mass(rows.pattern[:1], distance)[0]
        self.add(rows.layer, int(rows.queries[0]), values, expected, torch.ones_like(expected))


@dataclass(frozen=True, kw_only=True)
class FutureInfluence(Analyzer):
    """Future attention influence (FAI) of every token of one text, in every head.

    *Formula*: ``FAI[s] = mean of A[t, s] over the queries t with s + nearest <= t <= s + farthest``, as far as they
    exist and see the key. *Range* [0, 1]. NaN for the last tokens, which no such query follows. The note "uniform"
    holds the curve of uniform attention, which falls with s as ``1 / t`` does.
    *Source*: Li et al. 2025, arXiv 2510.13554, with 10 and 50, on the mean map of the global heads (`mean_over_heads`).
    Peaks mark anchors that later tokens use.

    Arguments:
        nearest, farthest: distances of the queries that count.
        first_query: positions before this one do not count as queries, such as the prompt before a response.
    """

    name: ClassVar[str] = "future-influence"
    reads: ClassVar[frozenset[str]] = TEXT - {"cross"}
    least: ClassVar[Mapping[str, float]] = {"nearest": 0, "farthest": 0, "first_query": 0}
    nearest: int = 10
    farthest: int = 50
    first_query: int = 0

    def reader(self, shape: Shape) -> AnalyzerReader:
        return _FutureInfluence(shape, self)


class _FutureInfluence(_TokenMeanReader):
    def __init__(self, shape: Shape, analyzer: FutureInfluence) -> None:
        unit = "mean attention received later"
        super().__init__(shape, name=analyzer.name, dim="key", unit=unit, value_range=(0.0, 1.0))
        self.analyzer = analyzer

    def read_rows(self, rows: AttentionRows) -> None:
        distance = -offsets(rows)
        later = (distance >= self.analyzer.nearest) & (distance <= self.analyzer.farthest)
        counted = rows.visible[0] & later & (from_first(rows)[0] >= self.analyzer.first_query)[:, None]
        expected = counted / rows.n_visible[0, :, None].clamp_min(1)
        sums = _masked_column_sums(rows.pattern[0], counted)
        self.add(rows.layer, int(rows.keys[0]), sums, expected.sum(0), counted.sum(0).double())


def _masked_column_sums(
    pattern: Float[Tensor, "head query key"], counted: Bool[Tensor, "query key"]
) -> Float[Tensor, "head key"]:
    return torch.stack([(head * counted).sum(0) for head in pattern])


def local_and_global_heads(distance: HeadScores, share: float = 0.3) -> tuple[list[HeadRef], list[HeadRef]]:
    """The heads that look nearest and farthest, of all layers together.

    *Source*: Li et al. 2025, arXiv 2510.13554: the lowest and the highest 30 % by head span.

    Arguments:
        distance: result of `MeanDistance`.
        share: share of the measured heads in each set, rounded; at least one head.
    """
    ranked = distance.top()
    if not 0 < share <= 0.5 or len(ranked) < 2:
        raise InputError(
            f"share={share} of {len(ranked)} measured heads makes no two sets; expected at least two heads and a share "
            "above 0 and up to 0.5."
        )
    size = max(1, min(round(share * len(ranked)), len(ranked) // 2))
    return ranked[: -size - 1 : -1], ranked[:size]


def mean_over_heads(per_head: TokenMap, heads: Sequence[HeadRef]) -> TokenMap:
    """The curve of a set of heads: the mean of their curves, and so the curve of their mean map."""
    if per_head.dims[:2] != ("layer", "head") or not heads:
        raise InputError(
            f"A map over {', '.join(per_head.dims)} and {len(heads)} heads have no mean curve; expected a map with "
            "layers and heads, and at least one head."
        )
    values = torch.stack([per_head.values[head.layer, head.head] for head in heads]).mean(0)
    notes = {**per_head.notes, "heads": [head.label for head in heads]}
    return replace(per_head, values=values, dims=per_head.dims[2:], notes=notes)
