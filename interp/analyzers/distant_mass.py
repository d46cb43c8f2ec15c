"""Attention beyond sinks and the recent past: which heads look far, and which are streaming heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.analyzers.analyzer import TEXT, Analyzer, AnalyzerReader, HeadMeanReader, Shape, refuse_cross
from interp.attention.rows import AttentionRows
from interp.errors import InputError
from interp.head_scores import HeadScores
from interp.provenance import Provenance


def local_keys(
    queries: Int[Tensor, " query"],
    keys: Int[Tensor, " key"],
    *,
    sink: int,
    recent: int,
    first: Int[Tensor, " batch"],
) -> Bool[Tensor, "batch query key"]:
    """Sinks and recent keys: ``j < sink`` from the first real token on, or ``|i - j| < recent`` (the query included).

    Example:
        >>> local_keys(torch.tensor([6]), torch.arange(7), sink=2, recent=3, first=torch.tensor([0]))[0, 0].tolist()
        [True, True, False, False, True, True, True]
    """
    sinks = keys - first[:, None].to(keys.device) < sink
    return sinks[:, None] | ((queries[:, None] - keys).abs() < recent)


def far_keys(rows: AttentionRows, *, sink: int, recent: int) -> Bool[Tensor, "batch query key"]:
    """The visible keys of a block that are neither sinks nor recent."""
    refuse_cross(rows.kind)
    local = local_keys(rows.queries, rows.keys, sink=sink, recent=recent, first=rows.first_key)
    return rows.visible & ~local


def far_share(rows: AttentionRows, far: Bool[Tensor, "batch query key"]) -> Float[Tensor, "batch head query"]:
    """Share of every row's attention that lies on these keys; a sink logit's part belongs to nobody. 0 for padding."""
    mass = (rows.pattern * far[:, None]).sum(-1)
    return mass / rows.pattern.sum(-1).clamp_min(torch.finfo(mass.dtype).tiny)


def check_window(sink: int, recent: int) -> None:
    """Refuse window sizes that mean nothing."""
    if sink < 0 or recent < 1:
        raise InputError(f"sink={sink}, recent={recent}: expected at least 0 and 1, since a token is recent to itself.")


@dataclass(frozen=True, kw_only=True)
class DistantMass(Analyzer):
    """Attention to keys that are neither sinks nor recent, and the heads that are retrieval or streaming heads by it.

    *Formula*: mean of ``1 - mass(first sink keys) - mass(last recent keys)`` over the queries that see a distant key at
    all; summed over the distant keys, which loses no digits. *Range* [0, 1]. *Chance*: uniform attention over the
    visible keys, ``1 - (sink + recent) / visible``. NaN on texts of at most ``sink + recent`` tokens.
    *Labels*: ``type`` is "retrieval" where the score is at least `threshold` and among the highest `share` of the heads
    measured, else "streaming".
    *Source*: the classifier proposed for MLX (sink 4, recent 64, 0.35, top 25 %); a zero-cost baseline for methods that
    ask whether the distant attention matters. Differences: every query counts, not a window of the last ones; the sinks
    are counted from the first real token.

    Arguments:
        sink: first keys that count as sinks.
        recent: latest keys that count as recent, the query's own included; in an encoder the nearest to either side.
        threshold: least distant mass of a retrieval head.
        share: largest share of the heads that can be retrieval heads.
    """

    name: ClassVar[str] = "distant-mass"
    reads: ClassVar[frozenset[str]] = TEXT - {"cross"}
    least: ClassVar[Mapping[str, float]] = {"threshold": 0, "share": 0}
    sink: int = 4
    recent: int = 64
    threshold: float = 0.35
    share: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_window(self.sink, self.recent)

    def reader(self, shape: Shape) -> AnalyzerReader:
        return _DistantMass(shape, self)


class _DistantMass(HeadMeanReader):
    higher_is = "more distant"

    def __init__(self, shape: Shape, parameters: DistantMass) -> None:
        super().__init__(shape, name=parameters.name, unit="attention mass", value_range=(0.0, 1.0))
        self.parameters = parameters

    def read_rows(self, rows: AttentionRows) -> None:
        far = far_keys(rows, sink=self.parameters.sink, recent=self.parameters.recent)
        n_far = far.sum(-1)
        self.add(rows, far_share(rows, far), n_far / rows.n_visible.clamp_min(1), n_far > 0)

    def result(self, provenance: Provenance, tokens: list[str]) -> HeadScores:
        found = super().result(provenance, tokens)
        threshold, share = self.parameters.threshold, self.parameters.share
        return replace(found, labels={"type": streaming_types(found.scores, threshold=threshold, share=share)})


def streaming_types(
    scores: Float[Tensor, "layer head"], *, threshold: float, share: float
) -> tuple[tuple[str, ...], ...]:
    """ "retrieval" for the highest `share` of the measured heads as far as they reach `threshold`, else "streaming".

    Equal scores stand or fall together, so a tie at the edge can make fewer heads retrieval heads, never more.

    Example:
        >>> streaming_types(torch.tensor([[0.9, 0.2, 0.0, 0.5]]), threshold=0.35, share=0.25)
        (('retrieval', 'streaming', 'streaming', 'streaming'),)
    """
    values = scores.double()
    at_least = (values[None, None] >= values[..., None, None]).flatten(2).sum(-1)
    allowed = int(share * int((~values.isnan()).sum()))
    chosen = (values >= threshold) & (at_least <= allowed)
    words = torch.where(values.isnan(), 2, chosen.long()).tolist()
    return tuple(tuple(("streaming", "retrieval", "not measured")[word] for word in row) for row in words)
