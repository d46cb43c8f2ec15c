"""CMR distance: how far a head's attention around the earlier copy of a token is from a model of human recall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.analyzers.analyzer import TEXT, Analyzer, AnalyzerReader, Shape, refuse_cross
from interp.analyzers.cmr_model import SELECTED_LAG, CmrGrid, cmr_grid
from interp.analyzers.matching import EqualPairs, pairs_of
from interp.attention.rows import AttentionRows, Stream
from interp.provenance import Provenance
from interp.results import HeadScores

LAGS = torch.arange(-SELECTED_LAG, SELECTED_LAG + 1)
CMR_LIKE = 0.5
"""Heads below this distance are called CMR-like in the paper; 0.1 in its supplement."""
N_NULL = 20


@dataclass(frozen=True, kw_only=True)
class CmrFit:
    """The closest CMR setting of each curve.

    Attributes:
        distance: see `CmrDistance`; NaN for a constant curve.
        parameters: beta_enc, beta_rec and gamma of the closest setting.
        inverse_temperature: the factor that brings the setting's curve to the height of the head's.
    """

    distance: Float[Tensor, "*curve"]
    parameters: Float[Tensor, "*curve 3"]
    inverse_temperature: Float[Tensor, "*curve"]


def cmr_distances(
    curves: Float[Tensor, "curve lag"], crp: Float[Tensor, "setting lag"]
) -> tuple[Float[Tensor, "curve setting"], Float[Tensor, "curve setting"]]:
    """Distance of every curve from every setting, and the scale factors.

    *Formula*: ``a = curve - min``, ``c = (crp - min) * max(a) / max(crp - min)``, ``mean((c - a)^2) / var(a)``.
    """
    a = (curves - curves.amin(-1, keepdim=True)).double()
    c = (crp - crp.amin(-1, keepdim=True)).double()
    factor = a.amax(-1, keepdim=True) / c.amax(-1)
    variance = a.var(-1, correction=0)
    squares = factor**2 * c.square().mean(-1) - 2 * factor * (a @ c.T) / len(LAGS) + a.square().mean(-1, keepdim=True)
    defined = variance > 0
    return (squares.clamp_min(0) / variance[:, None]).masked_fill(~defined[:, None], torch.nan), factor


def fit_cmr(curves: Float[Tensor, "*curve lag"], grid: CmrGrid) -> CmrFit:
    """The setting with the smallest distance for every curve over lags -5..5.

    Example:
        >>> grid = CmrGrid(torch.ones(1, 3), torch.eye(11)[5:6])
        >>> round(float(fit_cmr(torch.eye(11)[6], grid).distance), 6)
        2.2
    """
    flat = curves.reshape(-1, curves.shape[-1])
    distance, factor = cmr_distances(flat, grid.crp)
    best = distance.nan_to_num(torch.inf).argmin(-1)
    chosen = (torch.arange(len(flat)), best)
    shape = curves.shape[:-1]
    undefined = distance[chosen].isnan()
    return CmrFit(
        distance=distance[chosen].view(shape),
        parameters=grid.parameters[best].masked_fill(undefined[:, None], torch.nan).view(*shape, 3),
        inverse_temperature=factor[chosen].masked_fill(undefined, torch.nan).view(shape),
    )


def gaussian_distance(curves: Float[Tensor, "*curve lag"]) -> Float[Tensor, "*curve"]:
    """Distance from the closest Gaussian bump ``a + b exp(-(lag - mu)^2 / (2 sigma^2))``, in the same unit.

    With the best a and b it is ``1 - r^2``, r the correlation of curve and bump; mu and sigma lie on a grid (-5..5 by
    0.25, 0.25..5 by 0.25). The published baseline searches by gradient from a bad start and gives up on a flat line.
    """
    centres, widths = torch.arange(-5, 5.01, 0.25, dtype=torch.float64), torch.arange(0.25, 5.01, 0.25).double()
    bumps = torch.exp(-((LAGS - centres[:, None, None]) ** 2) / (2 * widths[:, None] ** 2)).flatten(0, 1)
    standard = [values - values.mean(-1, keepdim=True) for values in (curves.double(), bumps)]
    directions = [values / values.norm(dim=-1, keepdim=True) for values in standard]
    return 1 - (directions[0] @ directions[1].T).square().amax(-1)


@dataclass(frozen=True, kw_only=True)
class CmrDistance(Analyzer):
    """Distance of a head's lag curve from the conditional response probabilities (CRP) of human free recall.

    For a query whose token has come before at position p, attention to position ``p + lag`` is averaged over queries,
    then over examples: lag 0 is the duplicate token, lag 1 the induction target. Counted are queries for which all of
    ``p - 5 .. p + 5`` are first occurrences and lie behind the first token (where sinks stand): on random tokens
    presented twice, these are keys of the first presentation. The curve is compared with the CRPs of the CMR model
    (`interp.analyzers.cmr_model`) over its published grid of 4,620 settings:

    *Formula*: ``a = curve - min``, ``c = (crp - min) * max(a) / max(crp - min)``; distance = least ``mean((c - a)^2) /
    var(a)`` of all settings. *Range* [0, inf): 0 is a perfect fit; below 0.5 the paper calls a head CMR-like. It does
    not depend on the height of the curve, so a flat head with a bump of noise can be close: read it with the columns
    ``lag +1`` and so on, and with induction. NaN where the curve is constant, or no token repeats so.

    *Chance*: mean distance of the head's own curve with its lags permuted, 20 times. Column ``gaussian``: distance from
    the best Gaussian bump, the paper's baseline.

    *Source*: Ji-An et al. 2024, arXiv 2405.14992. Differences: which queries are averaged is not published and chosen
    here; simulated CRPs come from 400 recalls per setting, not 20,000.

    Arguments:
        seed: of the permutations.
    """

    name: ClassVar[str] = "cmr"
    reads: ClassVar[frozenset[str]] = TEXT - {"cross"}
    seed: int = 0

    def reader(self, shape: Shape) -> AnalyzerReader:
        return _LagCurves(shape, self.seed)


class _LagCurves(AnalyzerReader):
    """Averages attention by lag: over the queries of each example, then over examples."""

    def __init__(self, shape: Shape, seed: int) -> None:
        refuse_cross(shape.kind)
        self.kinds = frozenset({shape.kind})
        self.shape, self.seed = shape, seed
        self._curves: list[Float[Tensor, "example layer head lag"]] = []
        self._sums: dict[int, Float[Tensor, "example head lag"]] = {}
        self._counts: dict[int, Float[Tensor, " example"]] = {}

    def begin(self, stream: Stream) -> None:
        if stream.past == 0:
            self._flush()

    def read_rows(self, rows: AttentionRows) -> None:
        pairs = pairs_of(rows.stream).between(int(rows.queries[0]), int(rows.queries[-1]))
        example, row, key = _windows(pairs, rows)
        places = key[:, None] + LAGS.to(key.device) - rows.keys[0]
        seen = (places >= 0) & (places < len(rows.keys))
        # Keys beyond a sliding window get no attention.
        values = rows.pattern[example[:, None], :, row[:, None], places.clamp(0, len(rows.keys) - 1)].double()
        batch, n_heads = rows.pattern.shape[:2]
        sums = values.new_zeros(batch, len(LAGS), n_heads).index_add_(0, example, values * seen[..., None])
        counts = values.new_zeros(batch).index_add_(0, example, values.new_ones(len(example)))
        self._sums[rows.layer] = self._sums.get(rows.layer, 0) + sums.transpose(1, 2)
        self._counts[rows.layer] = self._counts.get(rows.layer, 0) + counts

    def result(self, provenance: Provenance, tokens: list[str]) -> HeadScores:
        self._flush()
        curves = torch.cat(self._curves).nanmean(0)
        grid = cmr_grid()
        fit = fit_cmr(curves, grid)
        columns = {f"lag {lag:+d}": curves[..., place] for place, lag in enumerate(LAGS.tolist())}
        names = ("beta_enc", "beta_rec", "gamma")
        columns |= {name: fit.parameters[..., place] for place, name in enumerate(names)}
        columns |= {"inverse temperature": fit.inverse_temperature, "gaussian": gaussian_distance(curves)}
        return HeadScores(
            name="CMR distance",
            scores=fit.distance,
            unit="variance of the curve",
            value_range=(0.0, None),
            chance=_permuted(curves, grid, self.seed),
            columns=columns,
            higher_is="less like CMR",
            provenance=provenance,
            notes={"examples": sum(map(len, self._curves)), "CMR-like below": CMR_LIKE},
        )

    def _flush(self) -> None:
        if not self._sums:
            return
        n_examples = len(next(iter(self._counts.values())))
        shape = (n_examples, self.shape.n_layers, self.shape.n_heads, len(LAGS))
        curves = torch.full(shape, torch.nan, dtype=torch.float64)
        for layer, sums in self._sums.items():
            curves[:, layer, : sums.shape[1]] = (sums / self._counts[layer][:, None, None]).cpu()
        self._curves.append(curves)
        self._sums.clear()
        self._counts.clear()


def _windows(pairs: EqualPairs, rows: AttentionRows) -> tuple[Tensor, Tensor, Tensor]:
    """Example, row and earlier copy of every pair whose whole window of keys has nothing but first occurrences."""
    fresh = _first_occurrences(rows.stream)
    fresh[torch.arange(len(fresh), device=fresh.device), rows.first_key] = False
    first, last = pairs.key - SELECTED_LAG, pairs.key + SELECTED_LAG
    row = torch.searchsorted(rows.queries, pairs.query).clamp_max(len(rows.queries) - 1)
    kept = (rows.queries[row] == pairs.query) & (first >= 0) & (last < pairs.query)
    before = torch.nn.functional.pad(fresh.long().cumsum(-1), (1, 0))
    limit = fresh.shape[1]
    inside = before[pairs.example, (last + 1).clamp_max(limit)] - before[pairs.example, first.clamp_min(0)]
    kept &= inside == len(LAGS)
    return pairs.example[kept], row[kept], pairs.key[kept]


def _first_occurrences(stream: Stream) -> Bool[Tensor, "example position"]:
    """Real tokens that have not come before, those of earlier calls included; every patch of an image is new."""
    assert stream.tokens is not None
    tokens = stream.tokens if stream.valid is None else stream.tokens.masked_fill(~stream.valid, -1)
    ordered, place = tokens.sort(stable=True)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    found = torch.zeros_like(new).scatter(1, place, new)
    if stream.images is not None:
        found |= stream.images
    return found if stream.valid is None else found & stream.valid


def _permuted(curves: Float[Tensor, "layer head lag"], grid: CmrGrid, seed: int) -> Float[Tensor, "layer head"]:
    """Mean distance of every curve with its lags in random order."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(LAGS), generator=generator) for _ in range(N_NULL)]
    return torch.stack([fit_cmr(curves[..., order], grid).distance for order in orders]).mean(0)
