"""`head_importance`: every head's importance by gradients and by leaving it out, and whether the two agree."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.importance.ablation import ABLATIONS, leave_one_out
from circuits.importance.gates import GateSlopes, gate_slopes, normalised_by_layer, official_importance
from circuits.importance.objective import Measured, Objective, TaskObjective, TextObjective
from circuits.study import Study
from circuits.tasks import Task
from interp.errors import AnalysisWarning, InputError
from interp.heads import HeadRef
from interp.model.load import load
from interp.model.model import Inputs, Model
from interp.results import HeadScores
from interp.statistics import bootstrap_weights, layer_controls, percentile_interval, rank_correlation

GradientMethod = Literal["absolute", "signed", "official"]
GRADIENT_METHODS: tuple[GradientMethod, ...] = get_args(GradientMethod)
METHODS = (*GRADIENT_METHODS, *ABLATIONS)
BATCH_SIZE = 32


def head_importance(
    model: Model | str,
    task: str | Task = "ioi",
    *,
    text: Inputs | None = None,
    method: str = "absolute",
    ablations: Sequence[str] = ("zero",),
    normalise_layers: bool = True,
    n_prompts: int = 100,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    progress: bool | None = None,
) -> HeadScores:
    """Rank heads by how much a model's performance on a task or on text depends on them.

    *Formula*, for example x, its metric m and gate ``xi`` of a head (1 as it is, 0 left out):

        absolute    mean over x of ``|dm(x)/dxi|``, the importance I of the paper
        signed      mean over x of ``dm(x)/dxi``, a first-order estimate of what ablating the head costs
        official    the official BERT code's: absolute values per position, see `official_importance`
        zero, mean, uniform, resample    mean over x of ``m(x) - m(x, head ablated)``, see `Ablation`

    Source: Michel, Levy, Neubig 2019, arXiv 1905.10650. Differences: the loss is minus the task's metric (a logit or
    probability difference at END) or the next-token loss of a text, not a classifier's; per example by default, where
    the official code takes absolute values per position; all ablations beside the gradient.

    Arguments:
        model: a loaded causal language model, or a name for `interp.load`.
        task: a name (`circuits.tasks.task_names()`), or a task with options of its own.
        text: texts or tokens to take the language-model loss on, in place of a task. Every text is one example.
        method: the column that becomes the score, any of the names above; "absolute" is the paper's.
        ablations: in which ways every head is left out by itself, one forward pass per head and batch; () for none.
        normalise_layers: divide the score by the l2 norm of its layer, as the paper does and the official code offers.
            Only for gradients: they are estimates, ablations are not. `columns` are never divided.
        n_prompts: prompts of the task.
        seed: of the prompts, the bootstrap, and the texts that resample ablation draws from.
        batch_size: rows of one pass; changes speed and memory, never a number beyond rounding.
        progress: bars on stderr; None shows them on a terminal only.

    Returns:
        `scores` with a 95 % bootstrap interval over examples; 0 is a head that nothing depends on. `columns`: every
        method computed, in the metric's unit; ``kv group`` where query heads share keys and values (mean over x of
        ``|sum of dm/dxi over the group|``); ``layer mean`` and ``layer rank`` of the score (mean of the layer's other
        heads, share of them below). `notes`: metric and accuracy of the model and by chance, and by ablation the rank
        correlation of the gradients with it (``absolute`` with the mean of ``|m - m(ablated)|``), which says whether
        the gradients can be trusted here.

    Raises:
        InputError: an unknown task, method or ablation, or a model that cannot be asked this.

    Example:
        >>> import interp
        >>> scores = interp.head_importance("mini", "ioi", n_prompts=8)
        >>> sorted(scores.columns)[:3]
        ['absolute', 'kv group', 'layer mean']
    """
    check_names(method, ablations)
    objective = objective_of(
        model, task, text, n_prompts=n_prompts, seed=seed, batch_size=batch_size, progress=progress
    )
    found = measure_importance(objective, ablations)
    return head_scores(objective, found, method=method, normalise_layers=normalise_layers, seed=seed)


def check_names(method: str, ablations: Sequence[str]) -> None:
    """Refuse methods and ablations that there are not."""
    for name in ablations:
        if name not in ABLATIONS:
            raise InputError(f"Unknown ablation {name!r}; choose from {', '.join(ABLATIONS)}.")
    if method not in (*GRADIENT_METHODS, *ablations):
        hint = f" (name {method!r} among the ablations)" if method in ABLATIONS else ""
        raise InputError(f"Unknown method {method!r}; choose from {', '.join((*GRADIENT_METHODS, *ablations))}{hint}.")


def head_scores(
    objective: Objective, found: Importance, *, method: str, normalise_layers: bool, seed: int
) -> HeadScores:
    """What was measured of every example, as one score per head; the arguments are those of `head_importance`."""
    ablations = list(found.drops)
    normalise = normalise_layers and method in GRADIENT_METHODS
    score, low, high = _with_interval(found, method, normalise, seed)
    columns = {name: found.score(name) for name in (*GRADIENT_METHODS, *ablations)} | found.kv_groups(objective.model)
    layer_mean, layer_rank = layer_controls(score)
    problem = weakness(objective, found.whole)
    if problem is not None:
        warnings.warn(problem, AnalysisWarning, stacklevel=3)
    parameters = {"method": method, "ablations": list(ablations), "normalise_layers": normalise}
    return HeadScores(
        name=f"importance for {objective.name} ({method})",
        unit="share of the layer's norm" if normalise else objective.unit,
        scores=score.float(),
        ci_low=low,
        ci_high=high,
        chance=0.0,
        signed=method not in ("absolute", "official"),
        columns={name: values.float() for name, values in columns.items()}
        | {"layer mean": layer_mean.float(), "layer rank": layer_rank.float()},
        higher_is="more important",
        provenance=objective.provenance(parameters, [] if problem is None else [problem]),
        notes=summary(objective, found.whole) | {"agreement": found.agreement()},
    )


def objective_of(
    model: Model | str,
    task: str | Task = "ioi",
    text: Inputs | None = None,
    *,
    n_prompts: int = 100,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    progress: bool | None = None,
) -> Objective:
    """The examples that are asked for, as in `head_importance`: text where it is given, else prompts of the task."""
    if isinstance(model, str):
        model = load(model)
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: expected at least 1.")
    if text is not None:
        return TextObjective(model, text, batch_size=batch_size, progress=progress, seed=seed)
    return TaskObjective(
        Study.of(model, task, n_prompts=n_prompts, seed=seed, top=None, batch_size=batch_size, progress=progress)
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Importance:
    """Everything measured of every example.

    Attributes:
        whole: the model as it is.
        drops: by ablation, what the metric loses.
    """

    whole: Measured
    slopes: GateSlopes
    drops: Mapping[str, Float[Tensor, "example layer head"]]

    def score(
        self, method: str, weights: Float[Tensor, "sample example"] | None = None
    ) -> Float[Tensor, "layer head"] | Float[Tensor, "sample layer head"]:
        """The unnormalised score of a method: of all examples alike, or for each weighting of them."""

        def mean(values: Tensor) -> Tensor:
            values = values.double()
            return values.mean(0) if weights is None else torch.einsum("se,e...->s...", weights, values)

        if method == "absolute":
            return mean(self.slopes.signed.abs())
        if method == "signed":
            return mean(self.slopes.signed)
        if method == "official":
            return official_importance(mean(self.slopes.by_position), mean(self.slopes.n_tokens))
        return mean(self.drops[method])

    def agreement(self) -> dict[str, dict[str, float]]:
        """By ablation, Spearman's rank correlation of both gradients with what they estimate."""
        return {
            name: {
                "signed": rank_correlation(self.score("signed"), self.score(name)),
                "absolute": rank_correlation(self.score("absolute"), drops.double().abs().mean(0)),
            }
            for name, drops in self.drops.items()
        }

    def to_frame(self) -> pd.DataFrame:
        """One row per example and head: example, layer, head, label, then the metric of the example and every score.

        ``signed`` is the gradient of the example's metric at the head's gate, ``absolute`` its magnitude; an ablation's
        column is what the metric loses. No number is divided by the norm of its layer.
        """
        examples, layers, heads = np.indices(tuple(self.slopes.signed.shape)).reshape(3, -1)
        slopes = self.slopes.signed.double().cpu().flatten().numpy()
        return pd.DataFrame(
            {
                "example": examples,
                "layer": layers,
                "head": heads,
                "label": [HeadRef(layer, head).label for layer, head in zip(layers, heads, strict=True)],
                "metric": self.whole.metric.double().cpu().numpy()[examples],
                "signed": slopes,
                "absolute": abs(slopes),
                **{name: drops.double().cpu().flatten().numpy() for name, drops in self.drops.items()},
            }
        )

    def kv_groups(self, model: Model) -> dict[str, Float[Tensor, "layer head"]]:
        """The importance of the key-value group of every head; nothing where each head has its own."""
        if all(site.n_heads == site.n_kv_heads for site in model.main_sites):
            return {}
        importance = torch.full(self.slopes.signed.shape[1:], torch.nan, dtype=torch.float64)
        for site in model.main_sites:
            size = site.n_heads // site.n_kv_heads
            slopes = self.slopes.signed[:, site.layer, : site.n_heads].double()
            groups = slopes.unflatten(-1, (site.n_kv_heads, size)).sum(-1).abs().mean(0)
            importance[site.layer, : site.n_heads] = groups.repeat_interleave(size)
        return {"kv group": importance}


def measure_importance(objective: Objective, ablations: Sequence[str]) -> Importance:
    """Run everything.

    Example:
        >>> found = measure_importance(objective_of("mini", "ioi", n_prompts=4, progress=False), ["zero"])
        >>> found.to_frame().columns.tolist()
        ['example', 'layer', 'head', 'label', 'metric', 'signed', 'absolute', 'zero']
    """
    whole = objective.measured()
    return Importance(
        whole=whole,
        slopes=gate_slopes(objective),
        drops={name: leave_one_out(objective, name, metric=whole.metric) for name in ablations},
    )


def _with_interval(
    found: Importance, method: str, normalise: bool, seed: int
) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"] | None, Float[Tensor, "layer head"] | None]:
    """The score and its interval from resampling the examples; a single example has none."""
    finish: Callable[[Tensor], Tensor] = normalised_by_layer if normalise else torch.Tensor.double
    score = finish(found.score(method))
    n = len(found.whole.metric)
    if n < 2:
        return score, None, None
    low, high = percentile_interval(finish(found.score(method, bootstrap_weights(n, seed=seed))))
    return score, low.float(), high.float()


def weakness(objective: Objective, whole: Measured) -> str | None:
    """What speaks against the results in one sentence; None when nothing does."""
    metric, chance = float(whole.metric.mean()), float(objective.chance["metric"])
    if metric > chance:
        return None
    return (
        f"The model is no better than chance on {objective.name}: {objective.metric_name} {metric:.3g}, chance "
        f"{chance:.3g}; importance for what it cannot do means little."
    )


def summary(objective: Objective, whole: Measured) -> dict[str, Any]:
    """What was measured on, for the notes of a result."""
    return {
        "objective": objective.name,
        "metric": objective.metric_name,
        "unit": objective.unit,
        "examples": len(objective),
        "model": {"metric": float(whole.metric.mean()), "accuracy": float(whole.accuracy.mean())},
        "chance": objective.chance,
    }
