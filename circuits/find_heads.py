"""`find_heads`: the heads that do a task, ranked by causal effect, each with its role and the evidence for it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from jaxtyping import Bool, Float
from torch import Tensor

from circuits.attribution import attribute_heads
from circuits.effects import HeadEffects, head_effects
from circuits.groups import RANDOM_GROUPS, group_test
from circuits.head_evidence import EvidenceTable
from circuits.patching import PatchedMetrics, attention_heads, patch_heads
from circuits.study import Study
from circuits.tasks import Task
from interp.errors import AnalysisWarning, InputError
from interp.heads import HeadRef
from interp.model.load import load
from interp.model.model import Model
from interp.results import HeadScores
from interp.statistics import rank_correlation

Method = Literal["auto", "exact", "attribution"]

EXACT_WORK: Mapping[str, float] = {"cpu": 5e12, "cuda": 1e15}
"""Most multiplications and additions that "auto" spends on exact patching: minutes on one CPU core or one GPU."""


def find_heads(
    model: Model | str,
    task: str | Task = "ioi",
    *,
    n_prompts: int = 100,
    seed: int = 0,
    method: Method = "auto",
    top: int | None = None,
    n_random: int = RANDOM_GROUPS,
    batch_size: int = 64,
    progress: bool | None = None,
) -> HeadScores:
    """Find the attention heads that do a task.

    Arguments:
        model: a loaded causal language model, or a name for `interp.load`.
        task: a name (`circuits.tasks.task_names()`), or a task with options of its own.
        n_prompts: test prompts; a task that has fewer is asked with all it has.
        seed: of the prompts, of the bootstrap and of the random groups.
        method: "exact" patches every head; "attribution" estimates every head by one backward pass per direction and
            patches the highest ones exactly; "auto" is exact where that takes minutes at most.
        top: how many of the highest heads the group test ablates and keeps (and twice as many are patched exactly
            after attribution); None for a quarter of all heads, at most 10.
        n_random: random groups to compare with; 0 leaves the group test out.
        batch_size: rows of one forward pass; changes speed and memory, never a number beyond rounding.
        progress: bars on stderr; None shows them on a terminal only.

    Returns:
        `scores`, with a bootstrap interval over several prompts: the causal effect of each head, mean of noising and
        denoising, as a share of what the corruption does to the metric (`circuits.effects`); 0 no part, 1 all of it,
        negative against it.
        `columns`: both parts; ``direct logit`` (nats); ``layer mean`` and ``layer rank`` (mean effect of the layer's
        other heads, share of them below); attention between named positions (``END->IO``); type scores on random
        tokens; ``exact`` (patched, not estimated). `labels`: ``role`` and ``evidence``.
        `notes`: metric and accuracy on clean and corrupted prompts, and the test of the highest heads as a group.

    Raises:
        InputError: an unknown task or method, a model that is not a causal language model, or a tokenizer that writes
            too few of the task's words as single tokens.

    Example:
        >>> import interp
        >>> scores = interp.find_heads("mini", task="ioi", n_prompts=8, n_random=1)
        >>> len(scores.top(3))
        3
    """
    if isinstance(model, str):
        model = load(model)
    study = Study.of(model, task, n_prompts=n_prompts, seed=seed, top=top, batch_size=batch_size, progress=progress)
    chosen = _chosen_method(method, study)
    metrics, attribution = _measure(study, chosen)
    effects = head_effects(metrics, seed=seed)
    evidence = EvidenceTable.gather(study, effects)
    notes = _notes(study, chosen, effects) | evidence.chances()
    columns = evidence.columns()
    if attribution is not None:
        columns |= {"attribution": attribution.estimates.float(), "exact": attribution.exact}
        notes["attribution"] = attribution.agreement(effects)
    group = _ranked(effects.effect)[: study.top]
    if group and n_random:
        notes["group"] = group_test(study, group, n_random=n_random)
    problems = [text for text in (effects.warning, _weakness(notes), evidence.direct.warning) if text is not None]
    for text in problems:
        warnings.warn(text, AnalysisWarning, stacklevel=2)
    return HeadScores(
        name=f"causal effect on {study.task.name}",
        unit="share of the corruption's effect",
        scores=effects.effect.float(),
        ci_low=effects.ci_low.float() if len(study.prompts) > 1 else None,
        ci_high=effects.ci_high.float() if len(study.prompts) > 1 else None,
        chance=0.0,
        signed=True,
        columns=columns,
        labels=evidence.labels(),
        higher_is="more of the task",
        provenance=study.provenance({"method": chosen, "n_random": n_random}, problems),
        notes=notes,
    )


def _chosen_method(method: str, study: Study) -> Literal["exact", "attribution"]:
    if method == "exact":
        return "exact"
    if method == "attribution":
        return "attribution"
    if method != "auto":
        raise InputError(f"Unknown method {method!r}; choose from {', '.join(get_args(Method))}.")
    weights = sum(parameter.numel() for parameter in study.model.hf.parameters())
    tokens = 2 * len(attention_heads(study.model)) * int(study.prompts.attention_mask.sum())
    device = study.model.device.type
    return "exact" if 2 * weights * tokens <= EXACT_WORK.get(device, EXACT_WORK["cpu"]) else "attribution"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Attribution:
    """Estimated effects of all heads, and which heads were patched after all."""

    estimates: Float[Tensor, "layer head"]
    exact: Bool[Tensor, "layer head"]

    def agreement(self, effects: HeadEffects) -> dict[str, int | float]:
        """How the estimates of the patched heads relate to their effects."""
        correlation = rank_correlation(self.estimates[self.exact], effects.effect[self.exact])
        return {"patched": int(self.exact.sum()), "rank correlation": correlation}


def _measure(study: Study, method: str) -> tuple[PatchedMetrics, _Attribution | None]:
    """Patched metrics; after attribution, estimated ones except for the highest heads."""
    model, task, prompts = study.model, study.task, study.prompts
    options: dict[str, Any] = {"batch_size": study.batch_size, "progress": study.progress}
    if method == "exact":
        return patch_heads(model, task, prompts, **options), None
    estimated = attribute_heads(model, task, prompts, **options)
    estimates = head_effects(estimated, seed=study.seed, resamples=1).effect
    highest = _ranked(estimates.abs())[: 2 * study.top] or attention_heads(model)
    patched = patch_heads(model, task, prompts, heads=highest, **options)
    exact = ~patched.noised.isnan().any(-1)
    return estimated.updated(patched), _Attribution(estimates=estimates, exact=exact)


def _ranked(values: Float[Tensor, "layer head"]) -> list[HeadRef]:
    """The heads that have a value, highest first; of equal ones the lower layer, then the lower head."""
    measured = [
        (value, HeadRef(layer, head))
        for layer, row in enumerate(values.tolist())
        for head, value in enumerate(row)
        if value == value
    ]
    return [head for _, head in sorted(measured, key=lambda pair: -pair[0])]


def _notes(study: Study, method: str, effects: HeadEffects) -> dict[str, Any]:
    notes: dict[str, Any] = {"task": study.task.name, "metric": study.task.metric_name, "method": method}
    notes |= {"prompts": len(study.prompts), **study.baseline()}
    notes["gap"] = {"mean": effects.gap, "ci_low": effects.gap_low, "ci_high": effects.gap_high}
    return notes


def _weakness(notes: Mapping[str, Any]) -> str | None:
    accuracy, chance = notes["clean"]["accuracy"], notes["chance"]["accuracy"]
    if accuracy > chance:
        return None
    return f"The model is no better than chance at {notes['task']}: accuracy {accuracy:.2f}, chance {chance:.2f}."
