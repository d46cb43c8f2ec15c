"""Head importance from gates: how steeply a measure of performance depends on each head's presence.

A gate ``xi`` multiplies the output z of a head at every position, and is 1. By the chain rule
``dm/dxi = sum over positions of z . dm/dz``, so one backward pass gives every head of every example its own slope.

Source: Michel, Levy, Neubig 2019, arXiv 1905.10650, equation 2; official code in the branch `paul` of
`pmichel31415/pytorch-pretrained-BERT`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from circuits.importance.ablation import Ablation
from circuits.importance.objective import Objective
from interp.interventions.scale_heads import ScaleHeads


@dataclass(frozen=True, kw_only=True, eq=False)
class GateSlopes:
    """Slopes of every example's metric at its gates; NaN for layers without heads.

    Attributes:
        signed: ``dm/dxi``, ``[example, layer, head]``, in the metric's unit; positive where more of the head helps.
        by_position: sum over positions of ``|z . dm/dz|``; at least ``|signed|``.
        n_tokens: tokens of each example, padding left out.
    """

    signed: Float[Tensor, "example layer head"]
    by_position: Float[Tensor, "example layer head"]
    n_tokens: Int[Tensor, " example"]


def gate_slopes(
    objective: Objective, *, ablation: Ablation | None = None, ablated: Bool[Tensor, "layer head"] | None = None
) -> GateSlopes:
    """The slope of every example's metric at the gate of every head, one backward pass per batch.

    Arguments:
        ablation, ablated: heads that are already ablated, and how.
    """
    model = objective.model
    signed, by_position, n_tokens = [], [], []
    with tqdm(total=len(objective), desc="gradients", unit="example", disable=objective.bar_hidden) as bar:
        for batch in objective.batches():
            before = () if ablation is None or ablated is None else (ablation.editor(batch, ablated[None]),)
            gates = torch.ones(*batch.tokens.shape, model.n_layers, model.n_heads, requires_grad=True)
            with torch.enable_grad():
                metric = objective.measure(batch, *before, ScaleHeads(gates)).metric
                # Examples do not see each other, so the gradient of the sum holds each one's own.
                (slopes,) = torch.autograd.grad(metric.sum(), gates)
            signed.append(slopes.sum(1))
            by_position.append(slopes.abs().sum(1))
            n_tokens.append(batch.n_tokens)
            bar.update(len(batch.tokens))
    absent = objective.absent
    return GateSlopes(
        signed=torch.cat(signed).masked_fill(absent, torch.nan),
        by_position=torch.cat(by_position).masked_fill(absent, torch.nan),
        n_tokens=torch.cat(n_tokens),
    )


def official_importance(
    by_position: Float[Tensor, "*sample layer head"], n_tokens: Float[Tensor, "*sample"]
) -> Float[Tensor, "*sample layer head"]:
    """The importance of the official BERT code, before any normalisation by layer.

    *Formula*: ``sum_x sum_positions |z . dL/dz|``, divided by the number of tokens, in the last layer by the number of
    examples (in BERT classification only [CLS] has a gradient there). The paper takes the absolute value of each
    example's sum instead, which is never larger per example.

    Arguments:
        by_position: mean over examples of `GateSlopes.by_position`.
        n_tokens: mean number of tokens of an example.

    Example:
        >>> official_importance(torch.tensor([[6.0], [6.0]]), torch.tensor(3.0)).tolist()
        [[2.0], [6.0]]
    """
    divisor = n_tokens[..., None].expand(by_position.shape[:-1]).clone()
    divisor[..., -1] = 1
    return by_position / divisor[..., None]


def normalised_by_layer(importance: Float[Tensor, "*sample layer head"]) -> Float[Tensor, "*sample layer head"]:
    """Every layer divided by its l2 norm, as the paper does because gradients differ in size between layers.

    A layer whose heads are all 0 stays 0; heads without a value (NaN) stay so and do not count.

    Example:
        >>> normalised_by_layer(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    norm = importance.nan_to_num(0).norm(dim=-1, keepdim=True)
    return importance / torch.where(norm == 0, 1, norm)
