"""The shape of attention: how far a head looks, how evenly, at which offsets, and at which marks.

Positions are counted in tokens from the first real one. The current token has distance 0 and offset 0, the previous
token distance 1 and offset -1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.analyzers.analyzer import KINDS, TEXT, Analyzer, AnalyzerReader, HeadMeanReader, Shape, refuse_cross
from interp.analyzers.positional import mass_at
from interp.attention.rows import AttentionRows
from interp.errors import InputError
from interp.model.model import Model
from interp.provenance import Provenance
from interp.results import HeadScores

# 3.8 nats in segments of at most 128 tokens, where What Does BERT Look At? calls a head broad.
BROAD = 3.8 / math.log(128)


def offsets(rows: AttentionRows) -> Int[Tensor, "query key"]:
    """Key position minus query position."""
    refuse_cross(rows.kind)
    return rows.keys - rows.queries[:, None]


def weighted_mass(
    pattern: Float[Tensor, "batch head query key"], weight: Float[Tensor, "query key"]
) -> Float[Tensor, "batch head query"]:
    """Sum over the keys of pattern times weight, one head at a time: the product stays in the cache.

    Example:
        >>> pattern = torch.tensor([[[[0.75, 0.25]]]])
        >>> weighted_mass(pattern, torch.tensor([[1.0, 0.0]])).item()
        0.75
    """
    return torch.stack([(pattern[:, head] * weight).sum(-1) for head in range(pattern.shape[1])], 1)


@dataclass(frozen=True, kw_only=True)
class NormalisedEntropy(Analyzer):
    """Shannon entropy of attention rows as a share of the largest possible one.

    *Formula*: mean over the queries with at least two visible keys of ``H(A[i, :] / sum_j A[i, j]) / log(visible)``.
    *Range* [0, 1]: 0 for one key, 1 for uniform attention, which is also the *chance* level. Rows with a sink logit are
    divided by their sum first. The label ``breadth`` calls heads above `broad` "broad". Low values alone do not mean a
    sink: a previous-token head has entropy 0 as well.
    *Source*: Clark et al. 2019, arXiv 1906.04341, whose heads are broad above 3.8 nats in segments of at most 128
    tokens. Their code mixes 0.0001 of uniform attention into every row, which adds 0.0015 nats to a row with one key at
    128 tokens; we do not.

    Arguments:
        broad: share above which a head is called broad; as default 3.8 nats of 128 keys.
    """

    name: ClassVar[str] = "normalised-entropy"
    least: ClassVar[Mapping[str, float]] = {"broad": 0}
    broad: float = BROAD

    def reader(self, shape: Shape) -> AnalyzerReader:
        return _NormalisedEntropy(shape, self)


class _NormalisedEntropy(HeadMeanReader):
    higher_is = "broader"

    def __init__(self, shape: Shape, analyzer: NormalisedEntropy) -> None:
        super().__init__(shape, name=analyzer.name, unit="share of log(visible keys)", value_range=(0.0, 1.0))
        self.broad = analyzer.broad

    def read_rows(self, rows: AttentionRows) -> None:
        entropy = rows.entropy
        if rows.sink_logit:
            mass = rows.pattern.sum(-1).clamp_min(torch.finfo(rows.pattern.dtype).tiny)
            entropy = entropy / mass + mass.log()
        several = rows.n_visible > 1
        largest = torch.where(several, rows.n_visible, 2).log()
        values = (entropy / largest[:, None]).clamp(0, 1)
        self.add(rows, values, torch.ones_like(largest), several)

    def result(self, provenance: Provenance, tokens: list[str]) -> HeadScores:
        scores = super().result(provenance, tokens)
        labels = tuple(tuple("broad" if value > self.broad else "" for value in row) for row in scores.scores.tolist())
        return replace(scores, labels={"breadth": labels})


@dataclass(frozen=True, kw_only=True)
class MeanDistance(Analyzer):
    """How far back (or, in an encoder, to either side) a head looks, in tokens.

    *Formula*: mean over queries of ``sum_j A[i, j] |i - j|``. *Range* [0, n - 1]. *Chance*: uniform attention over the
    visible keys; ``i / 2`` for a causal query.
    *Source*: the head span d of Li et al. 2025, arXiv 2510.13554, by which they call heads local and global
    (`local_and_global_heads`). A sink at the first token makes any head look global; `skip_first` looks past it.

    Arguments:
        skip_first: leave the first token out and divide each row by its remaining mass.
        first_query: positions before this one do not count as queries, such as the prompt before a response.
    """

    name: ClassVar[str] = "mean-distance"
    reads: ClassVar[frozenset[str]] = KINDS - {"cross"}
    least: ClassVar[Mapping[str, float]] = {"first_query": 0}
    skip_first: bool = False
    first_query: int = 0

    def reader(self, shape: Shape) -> AnalyzerReader:
        return _MeanDistance(shape, self)


class _MeanDistance(HeadMeanReader):
    higher_is = "farther"

    def __init__(self, shape: Shape, analyzer: MeanDistance) -> None:
        super().__init__(shape, name=analyzer.name, unit="tokens", value_range=None)
        self.analyzer = analyzer

    def read_rows(self, rows: AttentionRows) -> None:
        distance = offsets(rows).abs().to(rows.pattern.dtype)
        positions = from_first(rows)
        counted = positions >= self.analyzer.first_query
        if not self.analyzer.skip_first:
            chance = (rows.visible * distance).sum(-1) / rows.n_visible.clamp_min(1)
            self.add(rows, weighted_mass(rows.pattern, distance), chance, counted)
            return
        others = rows.keys != rows.first_key[:, None].to(rows.keys.device)
        pattern, visible = rows.pattern * others[:, None, None], rows.visible & others[:, None]
        tiny = torch.finfo(pattern.dtype).tiny
        values = weighted_mass(pattern, distance) / pattern.sum(-1).clamp_min(tiny)
        chance = (visible * distance).sum(-1).double() / visible.sum(-1).clamp_min(1)
        self.add(rows, values, chance, counted & (visible.sum(-1) > 0))


def from_first(rows: AttentionRows) -> Int[Tensor, "batch query"]:
    """Positions of the queries counted from the first real token."""
    return rows.queries - rows.first_key[:, None].to(rows.queries.device)


@dataclass(frozen=True, kw_only=True)
class LocalMass(Analyzer):
    """Attention to the nearest tokens, the current one included.

    *Formula*: mean over queries of the sum of ``A[i, j]`` over ``|i - j| < window``. *Range* [0, 1]. *Chance*: uniform
    attention over the visible keys, which is 1 for texts no longer than the window.

    Arguments:
        window: tokens that count as near, to each side.
    """

    name: ClassVar[str] = "local-mass"
    reads: ClassVar[frozenset[str]] = KINDS - {"cross"}
    least: ClassVar[Mapping[str, float]] = {"window": 1}
    window: int = 10

    def reader(self, shape: Shape) -> AnalyzerReader:
        return _LocalMass(shape, self)


class _LocalMass(HeadMeanReader):
    higher_is = "more local"

    def __init__(self, shape: Shape, analyzer: LocalMass) -> None:
        super().__init__(shape, name=analyzer.name, unit="attention mass", value_range=(0.0, 1.0))
        self.window = analyzer.window

    def read_rows(self, rows: AttentionRows) -> None:
        near = (offsets(rows).abs() < self.window).to(rows.pattern.dtype)
        chance = (rows.visible * near).sum(-1) / rows.n_visible.clamp_min(1)
        self.add(rows, weighted_mass(rows.pattern, near), chance)


@dataclass(frozen=True, kw_only=True)
class DiagonalOffset(Analyzer):
    """The fixed offset at which a head looks most.

    *Formula*: for every offset o, the mean of ``A[i, i + o]`` over the queries that see the key ``i + o``; the score is
    the largest of them. *Range* [0, 1]; above 0.5 the head is local at one offset. *Chance*: the same of uniform
    attention. Column ``offset`` holds the best offset, the columns ``-1``, ``+0``, ... the mass at each; offsets that
    no query sees are left out. The interval is that of the best offset, not corrected for the choice.
    *Source*: the offset histogram of Li et al. 2023, arXiv 2303.13731, along one axis; previous-token and next-token
    heads of Clark et al. 2019, arXiv 1906.04341.

    Arguments:
        reach: offsets from ``-reach`` to ``reach`` are compared.
    """

    name: ClassVar[str] = "diagonal-offset"
    reads: ClassVar[frozenset[str]] = KINDS - {"cross"}
    least: ClassVar[Mapping[str, float]] = {"reach": 0}
    reach: int = 8

    def reader(self, shape: Shape) -> AnalyzerReader:
        refuse_cross(shape.kind)
        return _DiagonalOffset(shape, self)


class _DiagonalOffset(HeadMeanReader):
    """Keeps every offset of a layer as a layer of its own, in which uniform attention stands before the heads."""

    def __init__(self, shape: Shape, analyzer: DiagonalOffset) -> None:
        self.offsets = list(range(-analyzer.reach, analyzer.reach + 1))
        stacked = replace(shape, n_layers=shape.n_layers * len(self.offsets), n_heads=shape.n_heads + 1)
        super().__init__(stacked, name=analyzer.name, unit="attention mass", value_range=(0.0, 1.0))

    def read_rows(self, rows: AttentionRows) -> None:
        even = rows.visible.to(rows.pattern.dtype)[:, None] / rows.n_visible.clamp_min(1)[:, None, :, None]
        for index, offset in enumerate(self.offsets):
            key = (rows.queries + offset - rows.keys[0])[None]
            uniform = mass_at(even, key)
            values = torch.cat([uniform, mass_at(rows.pattern, key)], 1)
            part = replace(rows, layer=rows.layer * len(self.offsets) + index)
            self.add(part, values, uniform[:, 0], uniform[:, 0] > 0)

    def result(self, provenance: Provenance, tokens: list[str]) -> HeadScores:
        stacked = super().result(provenance, tokens)
        masses = self._by_offset(stacked.scores)
        seen = [index for index in range(len(self.offsets)) if not masses[index].isnan().all()]
        best = masses.nan_to_num(-1).argmax(0, keepdim=True)
        low, high = (
            None if end is None else self._by_offset(end).gather(0, best)[0, :, 1:]
            for end in (stacked.ci_low, stacked.ci_high)
        )
        largest = masses.gather(0, best)[0]
        offset = torch.tensor(self.offsets, dtype=torch.float64)[best[0]].where(~largest.isnan(), torch.nan)
        return replace(
            stacked,
            scores=largest[:, 1:],
            chance=largest[:, :1].expand(-1, self.shape.n_heads - 1),
            ci_low=low,
            ci_high=high,
            columns={
                "offset": offset[:, 1:],
                **{f"{self.offsets[index]:+d}": masses[index, :, 1:] for index in seen},
            },
        )

    def _by_offset(self, stacked: Float[Tensor, "layers_and_offsets head"]) -> Float[Tensor, "offset layer head"]:
        return stacked.unflatten(0, (-1, len(self.offsets))).transpose(0, 1)


@dataclass(frozen=True, kw_only=True)
class DelimiterMass(Analyzer):
    """Attention to chosen tokens, such as separators, full stops and commas.

    *Formula*: mean over queries of the sum of ``A[i, j]`` over the keys whose token is one of `ids`. *Range* [0, 1];
    above 0.6 Clark et al. call a head one of [CLS], [SEP] or punctuation. *Chance*: uniform attention over the visible
    keys.
    *Source*: Clark et al. 2019, arXiv 1906.04341.

    Arguments:
        ids: token ids; `delimiter_ids` finds those of punctuation. By name: full stops, commas and, where the tokenizer
            has one, the separator.
    """

    name: ClassVar[str] = "delimiter-mass"
    reads: ClassVar[frozenset[str]] = TEXT
    ids: tuple[int, ...]

    @classmethod
    def for_model(cls, model: Model | None) -> DelimiterMass:
        if model is None or model.tokenizer is None:
            raise InputError(
                f"{cls.name} finds delimiters by their text, and there is no tokenizer. Use DelimiterMass(ids=...)."
            )
        separator = getattr(model.tokenizer, "sep_token_id", None)
        return cls(ids=(*delimiter_ids(model.tokenizer), *(() if separator is None else (separator,))))

    def reader(self, shape: Shape) -> AnalyzerReader:
        if not self.ids:
            raise InputError("DelimiterMass got no token ids; expected at least one, such as delimiter_ids(tokenizer).")
        return _DelimiterMass(shape, self)


class _DelimiterMass(HeadMeanReader):
    def __init__(self, shape: Shape, analyzer: DelimiterMass) -> None:
        super().__init__(shape, name=analyzer.name, unit="attention mass", value_range=(0.0, 1.0))
        self.ids = analyzer.ids

    def read_rows(self, rows: AttentionRows) -> None:
        tokens = rows.key_stream.tokens
        if tokens is None:
            raise InputError(f"{self.name} compares tokens, but the model got embeddings or images. Pass token ids.")
        chosen = torch.isin(tokens[:, rows.keys], torch.tensor(self.ids, device=tokens.device))
        values = (rows.pattern @ chosen[:, None, :, None].to(rows.pattern.dtype)).squeeze(-1)
        chance = (rows.visible & chosen[:, None]).sum(-1) / rows.n_visible.clamp_min(1)
        self.add(rows, values, chance)


def delimiter_ids(tokenizer: Any, marks: str = ".,") -> tuple[int, ...]:
    """Ids of all tokens that are nothing but these marks, spaces aside.

    Example:
        >>> import interp
        >>> model = interp.load("mini")
        >>> [model.tokenizer.decode([i]).strip() for i in delimiter_ids(model.tokenizer, ".")]
        ['.']
    """
    texts = ((i, tokenizer.decode([i]).strip(" ")) for i in range(len(tokenizer)))
    return tuple(i for i, text in texts if text and set(text) <= set(marks))
