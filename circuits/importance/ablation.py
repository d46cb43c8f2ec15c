"""Leaving heads out, one at a time or many together, in any of four ways."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from circuits.importance.objective import Examples, HeadOutputs, Objective
from interp.attention.participants import Editor
from interp.errors import InputError
from interp.heads import HeadRef
from interp.interventions.ablate_heads import ablate_heads
from interp.interventions.uniform_attention import UniformAttention

AblationName = Literal["zero", "mean", "uniform", "resample"]
ABLATIONS: tuple[AblationName, ...] = get_args(AblationName)


class Ablation:
    """One way of leaving heads out, on the examples of one objective.

    zero: the head's output z is 0 at every position; the bias of the output projection stays.
    mean: z is its mean (of a task's prompts of the same template at the same position; of all tokens of texts).
    uniform: the head attends to all visible keys alike and keeps its values.
    resample: z is that of the corrupted prompt, or of another text.

    Raises:
        InputError: an unknown name.
    """

    def __init__(self, name: str, objective: Objective) -> None:
        if name not in ABLATIONS:
            raise InputError(f"Unknown ablation {name!r}; choose from {', '.join(ABLATIONS)}.")
        self.name = name
        self.objective = objective
        self._batch: Examples | None = None
        self._others: HeadOutputs = {}

    def editor(self, batch: Examples, heads: Bool[Tensor, "copies layer head"]) -> Editor:
        """An editor for as many copies of the batch below each other as `heads` has sets of heads to ablate."""
        copies, heads = len(heads), heads.repeat_interleave(len(batch.tokens), 0)
        if self.name == "uniform":
            return UniformAttention(heads)
        layers = heads.any(-1).any(0).nonzero().flatten().tolist()
        values = self._values(batch, layers)
        return ablate_heads(
            heads, {layer: z if len(z) == 1 else z.repeat(copies, 1, 1, 1) for layer, z in values.items()}
        )

    def _values(self, batch: Examples, layers: list[int]) -> HeadOutputs:
        if self.name == "zero":
            sites = {site.layer: site for site in self.objective.model.main_sites}
            return {layer: torch.zeros(1, 1, sites[layer].n_heads, sites[layer].d_head) for layer in layers}
        if self.name == "mean":
            return self.objective.means(batch, layers)
        if self._batch is not batch:
            self._batch, self._others = batch, self.objective.others(batch)
        return {layer: self._others[layer] for layer in layers}


def leave_one_out(
    objective: Objective, name: str, *, metric: Float[Tensor, " example"]
) -> Float[Tensor, "example layer head"]:
    """What every example's metric loses when one head is ablated; NaN for layers without heads.

    *Formula*: ``m - m(head ablated)``: positive where the head helps, in the metric's unit; no bounds.
    *Source*: Michel et al. 2019, arXiv 1905.10650, section 3.2 (zero ablation). Difference: other ablations as well.

    Arguments:
        name: one of `ABLATIONS`.
        metric: of the model as it is, from `Objective.measured`.
    """
    ablation = Ablation(name, objective)
    model = objective.model
    drops = torch.full((len(objective), model.n_layers, model.n_heads), torch.nan, dtype=metric.dtype)
    total = len(objective.heads) * len(objective)
    with (
        torch.no_grad(),
        tqdm(total=total, desc=f"{name} ablation", unit="run", disable=objective.bar_hidden) as bar,
    ):
        for batch in objective.batches():
            size = max(1, objective.batch_size // len(batch.tokens))
            for start in range(0, len(objective.heads), size):
                stack = objective.heads[start : start + size]
                editor = ablation.editor(batch, one_head_each(stack, objective))
                found = objective.measure(batch, editor, copies=len(stack)).metric.view(len(stack), -1)
                for head, left in zip(stack, found, strict=True):
                    drops[batch.rows, head.layer, head.head] = metric[batch.rows] - left
                bar.update(found.numel())
    return drops


def one_head_each(heads: list[HeadRef], objective: Objective) -> Bool[Tensor, "copies layer head"]:
    """For every copy of a batch one of these heads."""
    chosen = torch.zeros(len(heads), *objective.absent.shape, dtype=torch.bool)
    chosen[torch.arange(len(heads)), [head.layer for head in heads], [head.head for head in heads]] = True
    return chosen
