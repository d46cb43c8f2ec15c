"""Massive activations: a few entries of the residual stream, thousands of times larger than the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.analyzers.analyzer import TEXT, Analyzer, Shape
from interp.analyzers.received import OneTextReader
from interp.attention.rows import LayerCall
from interp.errors import InputError
from interp.provenance import Provenance
from interp.results import TokenMap
from interp.statistics import rank_correlation


@dataclass(frozen=True, kw_only=True)
class MassiveActivations(Analyzer):
    """The largest magnitude of every token in the residual stream entering every layer, and which are massive.

    *Formula*: an entry x of the residual stream X ``[token, d_model]`` entering a layer is massive if ``|x| >
    min_magnitude`` and ``|x| > min_ratio * median(|X|)``, the median over all tokens and dimensions of that layer and
    text. *Values*: ``max_d |x|`` of each token, ``[layer, key]``. *Control*: ``notes["medians"]`` by layer.
    *Notes*: `massive`, every massive entry with its layer, key, dim and value (see `massive_entries`).

    Arguments:
        min_magnitude, min_ratio: the two thresholds, exceeded strictly.

    *Source*: Sun et al. 2024, arXiv 2402.17762; thresholds as in their definition and in arXiv 2503.22329.
    *Differences*: layer l (zero-based) is the stream that enters block l, which is the output of block l - 1 there;
    what leaves the last block is not read. Padding takes no part in the median. Prompts only: tokens added while
    decoding are left out.
    """

    name: ClassVar[str] = "massive-activations"
    reads: ClassVar[frozenset[str]] = TEXT
    least: ClassVar[Mapping[str, float]] = {"min_magnitude": 0, "min_ratio": 0}
    min_magnitude: float = 100.0
    min_ratio: float = 1000.0

    def reader(self, shape: Shape) -> _MassiveActivations:
        return _MassiveActivations(shape, self)


def massive_mask(
    residual: Float[Tensor, "token d_model"], *, min_magnitude: float = 100.0, min_ratio: float = 1000.0
) -> Bool[Tensor, "token d_model"]:
    """The entries that pass both thresholds of Sun et al.

    Example:
        >>> residual = torch.ones(4, 8)
        >>> residual[0, 3] = -5000
        >>> massive_mask(residual).nonzero().tolist(), int(massive_mask(residual * 0.01).sum())
        ([[0, 3]], 0)
    """
    magnitude = residual.abs()
    return (magnitude > min_magnitude) & (magnitude > min_ratio * magnitude.median())


def massive_entries(activations: TokenMap) -> pd.DataFrame:
    """The massive entries of a result of `MassiveActivations`.

    Returns:
        One row per token and dimension, largest magnitude first: key, token, dim, value (the largest), ratio (its
        magnitude over its layer's median), first_layer, last_layer.
    """
    groups: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for entry in activations.notes["massive"]:
        groups.setdefault((entry["key"], entry["dim"]), []).append(entry)
    records: list[dict[str, Any]] = []
    for (key, dim), entries in groups.items():
        largest = max(entries, key=lambda entry: abs(entry["value"]))
        records.append(
            {
                "key": key,
                "token": activations.tokens[key],
                "dim": dim,
                "value": largest["value"],
                "ratio": ratio_to_median(largest["value"], activations.notes["medians"][largest["layer"]]),
                "first_layer": min(entry["layer"] for entry in entries),
                "last_layer": max(entry["layer"] for entry in entries),
            }
        )
    records.sort(key=lambda record: -abs(record["value"]))
    columns = ["key", "token", "dim", "value", "ratio", "first_layer", "last_layer"]
    return pd.DataFrame(records, columns=columns)


def ratio_to_median(value: float, median: float) -> float:
    """Magnitude of an activation over the median of its layer; infinite where most entries are 0."""
    return abs(value) / median if median > 0 else math.inf


@dataclass(frozen=True, kw_only=True)
class SinkLink:
    """How far the sinks of a text and its tokens with massive activations are the same tokens.

    Attributes:
        sinks: tokens that are a sink in at least one head.
        massive: tokens with a massive activation in at least one layer.
        both: tokens that are both.
        expected: tokens that would be both if they were drawn independently, ``sinks * massive / tokens``.
        p_value: probability of at least as many by chance (hypergeometric); 1 where there are none.
        correlation: Spearman's, over tokens, of the share of heads in which the token is a sink and its largest
            magnitude in any layer; NaN where one of them is the same for all tokens. Chance: 0.
        tokens: tokens compared, those that enough queries see.
    """

    sinks: int
    massive: int
    both: int
    expected: float
    p_value: float
    correlation: float
    tokens: int

    def to_dict(self) -> dict[str, int | float]:
        """Field name to value."""
        return asdict(self)


def link_to_sinks(activations: TokenMap, sinks: TokenMap) -> SinkLink:
    """Compare results of `MassiveActivations` and `SinkTokens` on one text.

    *Source*: Sun et al. 2024, arXiv 2402.17762, sections 4 and 5, who show maps; overlap and correlation are ours.
    """
    from scipy.stats import hypergeom  # takes a second to import

    if activations.tokens != sinks.tokens:
        raise InputError(
            f"The massive activations are those of {len(activations.tokens)} tokens, the sinks those of "
            f"{len(sinks.tokens)}, and they are not the same. Give results of one text."
        )
    rate = sinks.values.nanmean(0)
    tested = ~rate.isnan()
    is_massive = torch.zeros(len(sinks.tokens), dtype=torch.bool)
    is_massive[[int(entry["key"]) for entry in activations.notes["massive"]]] = True
    rate, is_massive = rate[tested], is_massive[tested]
    magnitude = activations.values[:, tested].nan_to_num().amax(0)
    n, n_sinks, n_massive = len(rate), int((rate > 0).sum()), int(is_massive.sum())
    both = int(((rate > 0) & is_massive).sum())
    return SinkLink(
        sinks=n_sinks,
        massive=n_massive,
        both=both,
        expected=n_sinks * n_massive / n,
        p_value=float(hypergeom.sf(both - 1, n, n_massive, n_sinks)) if both else 1.0,
        correlation=rank_correlation(rate, magnitude),
        tokens=n,
    )


class _MassiveActivations(OneTextReader):
    wants_residual = True
    phase = "prefill"

    def __init__(self, shape: Shape, parameters: MassiveActivations) -> None:
        super().__init__(shape, parameters.name)
        self.parameters = parameters
        self.largest: dict[int, Float[Tensor, " token"]] = {}
        self.medians: dict[int, float] = {}
        self.massive: list[dict[str, float]] = []

    def read_call(self, call: LayerCall) -> None:
        residual = residual_of_text(call)
        self.largest[call.layer] = residual.abs().amax(-1).cpu()
        self.medians[call.layer] = float(residual.abs().median())
        thresholds = {"min_magnitude": self.parameters.min_magnitude, "min_ratio": self.parameters.min_ratio}
        for key, dim in massive_mask(residual, **thresholds).nonzero().tolist():
            self.massive.append({"layer": call.layer, "key": key, "dim": dim, "value": float(residual[key, dim])})

    def result(self, provenance: Provenance, tokens: list[str]) -> TokenMap:
        values = torch.full((self.shape.n_layers, len(tokens)), torch.nan)
        for layer, largest in self.largest.items():
            values[layer] = largest
        return TokenMap(
            name=self.name,
            values=values,
            dims=("layer", "key"),
            tokens=tuple(tokens),
            unit="largest magnitude",
            value_range=(0.0, None),
            provenance=provenance,
            notes={
                "massive": self.massive,
                "medians": [self.medians.get(layer, math.nan) for layer in range(self.shape.n_layers)],
                **asdict(self.parameters),
            },
        )


def residual_of_text(call: LayerCall) -> Float[Tensor, "token d_model"]:
    """The residual stream entering the layer at the real tokens of the one text, in float32."""
    assert call.residual is not None  # asked for by `wants_residual`
    residual = call.residual[0].float()
    return residual if call.query_valid is None else residual[call.query_valid[0]]
