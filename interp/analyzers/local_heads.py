"""Queries for which sinks and the recent past are enough: the oracle, and its estimate from moments of the keys."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.analyzers.analyzer import TEXT, Analyzer, AnalyzerReader, HeadMeanReader, Shape
from interp.analyzers.distant_mass import check_window, far_keys, far_share
from interp.attention.rows import AttentionRows, Stream
from interp.errors import InputError
from interp.head_scores import HeadScores
from interp.provenance import Provenance


def log_mass(scores: Float[Tensor, "*batch key"], keys: Bool[Tensor, "*#batch key"]) -> Float[Tensor, "*batch"]:
    """``log sum exp(score)`` over some keys; -inf over none.

    Example:
        >>> round(float(log_mass(torch.tensor([0.0, 0.0, 9.0]), torch.tensor([True, True, False]))), 4)
        0.6931
    """
    return scores.masked_fill(~keys, -torch.inf).logsumexp(-1)


def moment_log_mass(scores: Float[Tensor, "*batch key"], keys: Bool[Tensor, "*#batch key"]) -> Float[Tensor, "*batch"]:
    """The same from the first two moments alone, as if the scores were Gaussian; -inf over no keys.

    *Formula*: ``log n + q.mu / sqrt(d) + q Sigma q / (2 d)`` with mean ``mu`` and covariance ``Sigma`` of the n keys.
    For these moments ``q.mu / sqrt(d)`` is the mean of the scores and ``q Sigma q / d`` their variance, so neither
    matrix is built. Exact when all scores are equal; a lone high score among many low ones is underestimated.
    *Source*: Donhauser et al. 2025, arXiv 2502.09647 (from the abstract and reviews; no official code).

    Example:
        >>> scores = torch.tensor([10.0] + [0.0] * 9999)
        >>> everything = torch.ones(10000, dtype=torch.bool)
        >>> [round(float(f(scores, everything).exp())) for f in (log_mass, moment_log_mass)]
        [32025, 10060]
    """
    n = keys.sum(-1)
    known = scores.masked_fill(~keys, 0)
    mean = known.sum(-1) / n.clamp_min(1)
    variance = ((known - mean[..., None]).masked_fill(~keys, 0) ** 2).sum(-1) / n.clamp_min(1)
    return n.log() + mean + variance / 2


@dataclass(frozen=True, kw_only=True)
class LocalHeads(Analyzer):
    """Share of queries for which a head needs no more than sinks and recent keys.

    *Formula*: a head is local for a query iff ``A_local / (A_local + A_bulk) >= tau``, where ``A`` sums
    ``exp(score)`` over the local set (first `sink` and last `recent` keys) and over the others (oracle criterion); mean
    over the queries that have a bulk at all. *Range* [0, 1]; 1 for a streaming head. *Chance*: uniform attention.
    NaN on texts of at most ``sink + recent`` tokens.
    *Columns*, all means over the same queries: ``estimated`` (share local when ``A_bulk`` is estimated by
    `moment_log_mass` from the bulk keys seen so far), ``false local`` (estimated local, truly not), ``missed local``
    (the reverse), ``log error`` (estimated minus true log ``A_bulk`` in nats: 0 for Gaussian keys, negative for heavy
    tails), ``local mass`` (the ratio itself).
    *Source*: Donhauser et al. 2025, arXiv 2502.09647. 16 sinks are from a review; `recent` and `tau` were not found and
    are ours.

    Arguments:
        sink: first keys of the local set.
        recent: latest keys of the local set, the query's own included; in an encoder the nearest to either side.
        tau: least share of attention on the local set.
    """

    name: ClassVar[str] = "local-heads"
    reads: ClassVar[frozenset[str]] = TEXT - {"cross"}
    sink: int = 16
    recent: int = 128
    tau: float = 0.95

    def __post_init__(self) -> None:
        check_window(self.sink, self.recent)
        if not 0 < self.tau <= 1:
            raise InputError(f"tau={self.tau} is not a share of attention; expected more than 0 and at most 1.")

    def reader(self, shape: Shape) -> AnalyzerReader:
        return _LocalHeads(shape, self)


class _LocalHeads(AnalyzerReader):
    COLUMNS = ("estimated", "false local", "missed local", "log error", "local mass")

    def __init__(self, shape: Shape, parameters: LocalHeads) -> None:
        self.kinds = frozenset({shape.kind})
        self.parameters = parameters
        self.means = {
            name: HeadMeanReader(shape, name=name, unit="share of queries", value_range=(0.0, 1.0))
            for name in (parameters.name, *self.COLUMNS)
        }

    def begin(self, stream: Stream) -> None:
        for mean in self.means.values():
            mean.begin(stream)

    def read_rows(self, rows: AttentionRows) -> None:
        far = far_keys(rows, sink=self.parameters.sink, recent=self.parameters.recent)
        counted = far.any(-1)
        if rows.scores is None:
            raise InputError(
                "local-heads needs the scores of attention, which an editor has replaced. Scan without it."
            )
        true = 1 - far_share(rows, far)
        bulk, guess = log_mass(rows.scores, far[:, None]), moment_log_mass(rows.scores, far[:, None])
        local = log_mass(rows.scores, (rows.visible & ~far)[:, None])
        tau = self.parameters.tau
        is_local, seems_local = true >= tau, torch.sigmoid(local - guess) >= tau
        # A row without bulk is not counted, and its difference of infinities must not spoil the sum.
        error = torch.where(counted[:, None], guess - bulk, 0)
        uniform = 1 - far.sum(-1) / rows.n_visible.clamp_min(1)
        values = (is_local, seems_local, seems_local & ~is_local, is_local & ~seems_local, error, true)
        for mean, value in zip(self.means.values(), values, strict=True):
            mean.add(rows, value.to(true.dtype), (uniform >= tau).to(true.dtype), counted)

    def result(self, provenance: Provenance, tokens: list[str]) -> HeadScores:
        results = {name: mean.result(provenance, tokens) for name, mean in self.means.items()}
        columns = {name: results[name].scores for name in self.COLUMNS}
        return replace(results[self.parameters.name], columns=columns, higher_is="more often local")
