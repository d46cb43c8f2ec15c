"""The CMR model of human memory: which item is recalled after which, simulated over the published grid of parameters.

Contextual maintenance and retrieval (Polyn, Norman and Kahana 2009) in the form that Ji-An et al. 2024 (arXiv
2405.14992) compare attention heads with. Items ``0..n-1`` are studied in order, behind them an absorbing state that
ends a recall. With ``M[i, j] = (1 - beta_enc)^(j - i - 1)`` for ``j > i``, else 0, and a context ``t``:

    recall    the next item is j with probability proportional to ``(M^T t)_j``
    drift     ``t <- unit((1 - beta_rec) t + beta_rec t_in)``, ``t_in = unit((1 - gamma) e_j + gamma M e_j)``

``unit`` brings a vector to length 1. The conditional response probability (CRP) of a lag is the share of transitions
by so many items. The table of all CRPs lies in `data/cmr`; ``python -m interp.analyzers.cmr_model`` makes it again in
about five minutes.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.paths import data_dir

N_ITEMS, N_STARTS, MAX_RECALLS = 100, 20, 100
MAX_LAG = 8
SELECTED_LAG = 5
N_RECALLS, SEED = 20, 0
TABLE = "crp.safetensors"


class CmrGrid(NamedTuple):
    """The parameters of every setting and its CRP.

    Attributes:
        parameters: beta_enc in 0.05..1, beta_rec in 0..1, gamma in 0..1 of every setting.
        crp: probability of each lag from -5 to 5, which sum to 1.
    """

    parameters: Float[Tensor, "setting 3"]
    crp: Float[Tensor, "setting lag"]


def grid_parameters() -> Float[Tensor, "setting 3"]:
    """The published grid: 20 x 21 x 11 settings of (beta_enc, beta_rec, gamma)."""
    steps = (torch.arange(1, 21) / 20, torch.arange(21) / 20, torch.arange(11) / 10)
    return torch.cartesian_prod(*(step.double() for step in steps))


@cache
def cmr_grid() -> CmrGrid:
    """The settings and their simulated CRPs, read from `data/cmr`."""
    table = load_file(data_dir() / "cmr" / TABLE)["crp"].double()
    return CmrGrid(grid_parameters(), selected(table))


def selected(crp: Float[Tensor, "*setting 17"]) -> Float[Tensor, "*setting 11"]:
    """The lags from -5 to 5, normalised to sum 1."""
    middle = crp[..., MAX_LAG - SELECTED_LAG : MAX_LAG + SELECTED_LAG + 1]
    return middle / middle.sum(-1, keepdim=True)


def association(beta_enc: float, n_states: int = N_ITEMS + 1) -> Float[Tensor, "state state"]:
    """The matrix M: how strongly the context of state i is associated with the later state j.

    Example:
        >>> association(0.5, 4)[0].tolist()
        [0.0, 1.0, 0.5, 0.25]
    """
    distance = torch.arange(n_states) - torch.arange(n_states)[:, None]
    return torch.where(distance > 0, torch.pow(1.0 - beta_enc, (distance - 1).clamp_min(0).double()), 0.0)


def crp_of(
    beta_enc: float, beta_rec: float, gamma: float, *, generator: torch.Generator, n_recalls: int = N_RECALLS
) -> Float[Tensor, " lag"]:
    """Conditional response probabilities of lags -8..8, summing to 1, as the mean over 20 starting positions.

    Exact where the published code is (beta_rec 1 or 0 with gamma 0), else from `n_recalls` simulated recalls per start.
    """
    weights = association(beta_enc)
    if gamma == 0 and beta_rec in (0.0, 1.0):
        curves = torch.stack([_exact(weights, start, chained=beta_rec == 1) for start in range(N_STARTS)])
    else:
        starts = torch.arange(N_STARTS).repeat_interleave(n_recalls)
        items = simulate_recalls(weights, beta_rec, gamma, starts, generator=generator)
        curves = _lag_shares(items, starts).view(N_STARTS, n_recalls, -1).nanmean(1)
    return (curves / curves.sum(-1, keepdim=True)).mean(0)


def simulate_recalls(
    weights: Float[Tensor, "state state"],
    beta_rec: float,
    gamma: float,
    starts: Int[Tensor, " recall"],
    *,
    generator: torch.Generator,
) -> Int[Tensor, "recall step"]:
    """Recalled items of every recall in order; -1 after its end.

    All recalls go on side by side. The support ``M^T t`` of the items is carried along with the context, so that a
    step is one look-up and one sum per recall.
    """
    n_states, weights = len(weights), weights.float()
    incoming = (1 - gamma) * torch.eye(n_states) + gamma * weights.T
    incoming = incoming / incoming.norm(dim=-1, keepdim=True).clamp_min(1e-30)  # state 0 is never recalled
    supported = incoming @ weights
    items = torch.full((len(starts), MAX_RECALLS), -1)
    active = torch.arange(len(starts))
    context = torch.eye(n_states)[starts]
    support = weights[starts]
    for step in range(MAX_RECALLS):
        total = support.cumsum(-1)
        threshold = torch.rand(len(total), 1, generator=generator) * total[:, -1:]
        recalled = torch.searchsorted(total, threshold, right=True).squeeze(1).clamp_max(n_states - 1)
        goes_on = recalled < n_states - 1
        active, recalled = active[goes_on], recalled[goes_on]
        if not len(active):
            break
        items[active, step] = recalled
        context = (1 - beta_rec) * context[goes_on] + beta_rec * incoming[recalled]
        support = (1 - beta_rec) * support[goes_on] + beta_rec * supported[recalled]
        length = context.norm(dim=-1, keepdim=True)
        context, support = context / length, support / length
    return items


def _lag_shares(items: Int[Tensor, "recall step"], starts: Int[Tensor, " recall"]) -> Float[Tensor, "recall 17"]:
    """Share of each lag among a recall's transitions, the first counted from its start; NaN for recalls of nothing."""
    lags = items - torch.cat([starts[:, None], items[:, :-1]], 1)
    counted = (items >= 0) & (lags.abs() <= MAX_LAG)
    counts = torch.zeros(len(items), 2 * MAX_LAG + 1, dtype=torch.float64)
    counts.scatter_add_(1, (lags + MAX_LAG).clamp(0, 2 * MAX_LAG), counted.double())
    return counts / (items >= 0).sum(-1, keepdim=True)


def _exact(weights: Float[Tensor, "state state"], start: int, *, chained: bool) -> Float[Tensor, " lag"]:
    """The closed forms of the published code: context replaced at every recall (`chained`), or never changed."""
    crp = torch.zeros(2 * MAX_LAG + 1, dtype=weights.dtype)
    if chained:
        totals = weights.sum(1)
        reached = torch.eye(len(weights), dtype=weights.dtype)[start]
        for lag in range(1, MAX_LAG + 1):
            reached = reached @ weights
            transition = weights.diagonal(lag) / totals[:-lag]
            if float(reached.sum()) > 0:
                crp[MAX_LAG + lag] = (reached[:-lag] / reached.sum() * transition).sum()
        return crp
    drawn = weights[start] / weights[start].sum()
    crp[MAX_LAG] = (drawn**2).sum()
    for lag in range(1, MAX_LAG + 1):
        crp[MAX_LAG + lag] = crp[MAX_LAG - lag] = (drawn[:-lag] * drawn[lag:]).sum()
    return crp


def make_table() -> None:
    """Simulate every setting, each with a seed of its own, and write the table into `data/cmr`."""
    rows = [
        crp_of(*setting, generator=torch.Generator().manual_seed(SEED + index))
        for index, setting in enumerate(grid_parameters().tolist())
    ]
    directory = data_dir() / "cmr"
    directory.mkdir(exist_ok=True)
    save_file({"crp": torch.stack(rows).float()}, directory / TABLE)


if __name__ == "__main__":
    make_table()
