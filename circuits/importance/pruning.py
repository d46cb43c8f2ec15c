"""`pruning_curve`: leave heads out from the least important upwards, and compare with random orders."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from circuits.importance.ablation import ABLATIONS, Ablation
from circuits.importance.gates import gate_slopes, normalised_by_layer
from circuits.importance.objective import Objective
from circuits.importance.scores import (
    BATCH_SIZE,
    GRADIENT_METHODS,
    METHODS,
    Importance,
    measure_importance,
    objective_of,
    summary,
    weakness,
)
from circuits.tasks import Task
from interp.errors import AnalysisWarning, InputError
from interp.heads import HeadRef
from interp.model.model import Inputs, Model
from interp.pruning import RANDOM, PruningCurve


def pruning_curve(
    model: Model | str,
    task: str | Task = "ioi",
    *,
    text: Inputs | None = None,
    methods: Sequence[str] = ("absolute", "zero"),
    ablation: str = "zero",
    percent: int = 10,
    keep_per_layer: int = 0,
    recompute: bool = False,
    normalise_layers: bool = True,
    n_random: int = 10,
    n_prompts: int = 200,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    progress: bool | None = None,
) -> PruningCurve:
    """Prune heads step by step, the least important first, beside random orders.

    Half of the examples (every second one) rank the heads, the other half measure what is left.

    Source: Michel, Levy, Neubig 2019, arXiv 1905.10650, section 4 (greedy pruning by the gradient importance, zero
    ablation, steps of 10 %, the importance computed once). Differences: the random control; other rankings and
    ablations; two halves of the examples for training and development sets.

    Arguments:
        model, task, text, seed, batch_size, progress: as `head_importance` has them.
        methods: rankings to prune by, each a method of `head_importance`; leaving one head out by "zero" is the
            paper's other ranking.
        ablation: what pruning does with a head; "zero" is the paper's.
        percent: size of a step in percent of all heads, as the official code rounds it (downwards).
        keep_per_layer: the heads that every layer keeps, the last of it in the order; random orders keep as many.
        recompute: rank anew after every step with the heads pruned so far left out (the official code's exact
            pruning); only for "absolute" and "signed".
        normalise_layers: divide the gradients of each layer by their l2 norm before ranking, as the paper does.
        n_random: random orders, the control.
        n_prompts: prompts of the task, both halves together.

    Returns:
        The curves; `area_between` says how much better an order is than random ones. `notes`: what was measured on,
        of the second half.

    Raises:
        InputError: an unknown name, steps or counts out of range, or fewer than two examples.

    Example:
        >>> import interp
        >>> curve = interp.pruning_curve("mini", "ioi", methods=["absolute"], n_prompts=8, n_random=2, percent=50)
        >>> curve.orders, curve.n_pruned.tolist()
        (('absolute', 'random', 'random'), [0, 16, 32])
    """
    _check(methods, ablation, percent, keep_per_layer, recompute, n_random)
    objective = objective_of(
        model, task, text, n_prompts=n_prompts, seed=seed, batch_size=batch_size, progress=progress
    )
    ranking, evaluation = objective.halves()
    steps = pruning_steps(len(objective.heads), percent)
    if recompute:
        orders = [recomputed_order(ranking, name, ablation, steps, normalise_layers) for name in methods]
    else:
        found = measure_importance(ranking, [name for name in methods if name in ABLATIONS])
        orders = [ascending(_ranked_by(found, name, normalise_layers)) for name in methods]
    orders += random_orders(objective.heads, n_random, seed=seed)
    orders = [protected(order, keep_per_layer) for order in orders]
    steps = [n for n in steps if n <= len(orders[0])]
    metric, accuracy = _evaluate(evaluation, ablation, orders, steps)
    whole = evaluation.measured()
    problem = weakness(evaluation, whole)
    if problem is not None:
        warnings.warn(problem, AnalysisWarning, stacklevel=2)
    parameters = {
        "methods": list(methods),
        "ablation": ablation,
        "percent": percent,
        "keep_per_layer": keep_per_layer,
        "recompute": recompute,
        "normalise_layers": normalise_layers,
        "n_random": n_random,
    }
    return PruningCurve(
        name=f"pruning heads on {objective.name} ({ablation} ablation)",
        unit=objective.unit,
        orders=(*methods, *[RANDOM] * n_random),
        n_pruned=torch.tensor(steps),
        n_heads=len(objective.heads),
        metric=metric,
        accuracy=accuracy,
        chance_metric=objective.chance["metric"],
        chance_accuracy=objective.chance["accuracy"],
        pruned=tuple(tuple(head.label for head in order) for order in orders),
        provenance=objective.provenance(parameters, [] if problem is None else [problem]),
        notes=summary(evaluation, whole),
    )


def pruning_steps(n_heads: int, percent: int) -> list[int]:
    """How many heads are pruned at each step: none, then every `percent` percent rounded downwards, at last all.

    Example:
        >>> pruning_steps(144, 5)[:4], pruning_steps(4, 10)
        ([0, 7, 14, 21], [0, 1, 2, 3, 4])
    """
    return sorted({n_heads * share // 100 for share in range(0, 100, percent)} | {n_heads})


def ascending(importance: Float[Tensor, "layer head"]) -> list[HeadRef]:
    """The heads from the least to the most important; of equal ones the lower layer, then the lower head, first.

    Example:
        >>> [head.label for head in ascending(torch.tensor([[0.3, 0.1], [torch.nan, 0.2]]))]
        ['L0H1', 'L1H1', 'L0H0']
    """
    measured = (~importance.isnan()).nonzero().tolist()
    return sorted((HeadRef(layer, head) for layer, head in measured), key=lambda h: float(importance[h.layer, h.head]))


def protected(order: Sequence[HeadRef], keep_per_layer: int) -> list[HeadRef]:
    """The order without the last `keep_per_layer` heads of each layer."""
    kept = {
        head
        for layer in {head.layer for head in order}
        for head in [h for h in order if h.layer == layer][::-1][:keep_per_layer]
    }
    return [head for head in order if head not in kept]


def random_orders(heads: Sequence[HeadRef], n: int, *, seed: int) -> list[list[HeadRef]]:
    """`n` orders of all heads, each as probable as any other."""
    generator = torch.Generator().manual_seed(seed)
    return [[heads[i] for i in torch.randperm(len(heads), generator=generator).tolist()] for _ in range(n)]


def recomputed_order(
    objective: Objective, method: str, ablation: str, steps: Sequence[int], normalise_layers: bool
) -> list[HeadRef]:
    """The order in which heads go when the rest is ranked anew after every step."""
    gone: list[HeadRef] = []
    means = Ablation(ablation, objective)
    for n in steps[1:]:
        slopes = gate_slopes(objective, ablation=means, ablated=_mask(objective, gone)).signed.double()
        importance = (slopes.abs() if method == "absolute" else slopes).mean(0)
        left = importance.masked_fill(_mask(objective, gone), torch.nan)
        left = normalised_by_layer(left) if normalise_layers else left
        gone += ascending(left)[: n - len(gone)]
    return gone


def _ranked_by(found: Importance, method: str, normalise_layers: bool) -> Float[Tensor, "layer head"]:
    score = found.score(method)
    return normalised_by_layer(score) if normalise_layers and method in GRADIENT_METHODS else score


def _evaluate(
    objective: Objective, ablation: str, orders: Sequence[Sequence[HeadRef]], steps: Sequence[int]
) -> tuple[Float[Tensor, "order step"], Float[Tensor, "order step"]]:
    """Mean metric and accuracy of every order after every step."""
    sums = torch.zeros(2, len(orders), len(steps), dtype=torch.float64)
    editors = Ablation(ablation, objective)
    total = len(orders) * len(steps) * len(objective)
    with torch.no_grad(), tqdm(total=total, desc="pruning", unit="run", disable=objective.bar_hidden) as bar:
        for batch in objective.batches():
            for row, order in enumerate(orders):
                for column, n in enumerate(steps):
                    editor = editors.editor(batch, _mask(objective, order[:n])[None])
                    found = objective.measure(batch, editor)
                    sums[:, row, column] += torch.stack([found.metric.double().sum(), found.accuracy.double().sum()])
                    bar.update(len(batch.tokens))
    metric, accuracy = sums / len(objective)
    return metric, accuracy


def _mask(objective: Objective, heads: Sequence[HeadRef]) -> Bool[Tensor, "layer head"]:
    mask = torch.zeros_like(objective.absent)
    mask[[head.layer for head in heads], [head.head for head in heads]] = True
    return mask


def _check(
    methods: Sequence[str], ablation: str, percent: int, keep_per_layer: int, recompute: bool, n_random: int
) -> None:
    known = ("absolute", "signed") if recompute else METHODS
    unknown = [name for name in methods if name not in known]
    if unknown or not methods:
        raise InputError(f"Methods {unknown or 'none'} cannot rank here; choose from {', '.join(known)}.")
    if ablation not in ABLATIONS:
        raise InputError(f"Unknown ablation {ablation!r}; choose from {', '.join(ABLATIONS)}.")
    if not 1 <= percent <= 100 or keep_per_layer < 0 or n_random < 0:
        raise InputError(
            f"percent={percent}, keep_per_layer={keep_per_layer}, n_random={n_random}: expected a step of 1 to 100 "
            "percent and counts of 0 or more."
        )
    if recompute and keep_per_layer:
        raise InputError("recompute ranks anew what keep_per_layer protects. Give one of them.")
