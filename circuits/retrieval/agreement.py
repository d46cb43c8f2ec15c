"""How far methods agree on which heads matter."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from interp.agreement import Agreement
from interp.errors import InputError
from interp.provenance import Provenance
from interp.statistics import rank_correlation


def top_jaccard(left: Float[Tensor, "layer head"], right: Float[Tensor, "layer head"], k: int) -> float:
    """Jaccard overlap ``|a & b| / |a | b|`` of the `k` highest heads of two methods, in [0, 1].

    Heads that tie with the k-th are taken in part: each set is a weighting of heads that sums to `k`, and overlap and
    union are sums of smaller and larger weights, so that no arbitrary order of equal heads decides.

    Example:
        >>> top_jaccard(torch.tensor([[3.0, 2.0, 1.0, 0.0]]), torch.tensor([[3.0, 0.0, 2.0, 1.0]]), 2)
        0.3333333333333333
    """
    one, other = _membership(left, k), _membership(right, k)
    return float(torch.minimum(one, other).sum() / torch.maximum(one, other).sum())


def _membership(scores: Float[Tensor, "layer head"], k: int) -> Float[Tensor, " all"]:
    values = scores.double().flatten().nan_to_num(-torch.inf)
    last = values.topk(k).values[-1]
    above, tied = (values > last).double(), (values == last).double()
    return above + tied * (k - above.sum()) / tied.sum()


def agreement(
    scores: Mapping[str, Float[Tensor, "layer head"]], *, provenance: Provenance, k: int | None = None
) -> Agreement:
    """Compare the rankings of several methods on one model.

    Arguments:
        scores: by method; higher means more retrieval. NaN where a method measured nothing.
        k: size of the sets of highest heads; None for a tenth of the heads, at least one.

    Raises:
        InputError: fewer than two methods, different shapes, or a `k` that leaves nothing to choose.
    """
    shapes = {tuple(values.shape) for values in scores.values()}
    if len(scores) < 2 or len(shapes) != 1:
        raise InputError(
            f"Agreement needs at least two methods on heads of one model; got {list(scores)} with shapes "
            f"{sorted(shapes)}."
        )
    values = list(scores.values())
    n_heads = int((~torch.stack(values).isnan()).all(0).sum())
    if n_heads < 2:
        raise InputError(f"{n_heads} heads were measured by all of {', '.join(scores)}; expected at least two.")
    k = max(1, round(0.1 * n_heads)) if k is None else k
    if not 1 <= k < n_heads:
        raise InputError(f"k={k} of {n_heads} heads measured by every method; expected 1 to {n_heads - 1}.")
    return Agreement(
        name="agreement of methods",
        unit="",
        provenance=provenance,
        methods=tuple(scores),
        spearman=torch.tensor([[rank_correlation(a, b) for b in values] for a in values]),
        jaccard=torch.tensor([[top_jaccard(a, b, k) for b in values] for a in values]),
        k=k,
        n_heads=n_heads,
    )
