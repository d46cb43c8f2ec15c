"""Do the heads of `mini-sinks` that rest on the BOS write nothing there, and what makes the BOS a place to rest?"""

from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.training.sinks.process import is_trigger
from interp.analyzers.massive_activations import MassiveActivations, massive_entries, ratio_to_median
from interp.analyzers.sinks import Sinks
from interp.capture import capture_patterns
from interp.heads import HeadRef
from interp.model.model import Model
from interp.results import HeadScores, TokenMap
from interp.scanning import scan

LAST_QUERIES = 16
"""A token is seen by so many queries at least to be counted as a sink (as in `Sinks`)."""


def head_evidence(model: Model, tokens: Int[Tensor, "row token"]) -> list[dict[str, Any]]:
    """What each head does with the BOS, averaged over rows of text.

    Returns:
        For each head: `key norm` and `value norm` of the BOS over those of other tokens, and `no-op`, as
        `interp.analyzers.sinks.Sinks` has them; `written at words` and `written at triggers`, the length of what the
        head adds to the residual stream; `next sink`, the largest alpha of a token that is not the BOS.
    """
    scores = cast(HeadScores, scan(model, tokens, [Sinks()], progress=False)[Sinks.name])
    captured = capture_patterns(model, tokens, z=True)
    triggers = is_trigger(tokens)
    words = ~triggers
    words[:, 0] = False
    found: list[dict[str, Any]] = []
    for layer, site in enumerate(model.main_sites):
        weights = model.sites.output_weights(site)
        assert weights is not None
        written = torch.einsum("bthi,him->bthm", captured.z[layer].detach(), weights.detach()).norm(dim=-1)
        later = _alpha(captured.patterns[layer])[..., 1:-LAST_QUERIES].amax((0, 2))
        for head in range(model.n_heads):
            columns = {name: scores.columns[name][layer, head] for name in ("key norm", "value norm", "no-op")}
            at = {
                "written at words": written[words].mean(0)[head],
                "written at triggers": written[triggers].mean(0)[head],
            }
            numbers = columns | at | {"next sink": later[head]}
            found.append(
                {
                    "head": HeadRef(layer, head).label,
                    **{name: round(float(value), 4) for name, value in numbers.items()},
                }
            )
    return found


def _alpha(pattern: Float[Tensor, "row head query key"]) -> Float[Tensor, "row head key"]:
    """Mean attention that each key receives from the queries that see it."""
    n = pattern.shape[-1]
    return pattern.sum(2) / (n - torch.arange(n))


def massive_evidence(model: Model, row: Int[Tensor, "1 token"]) -> dict[str, Any]:
    """The largest entry of the residual stream of a row, over the median of its layer, where there is one.

    Returns:
        `massive`: number of massive entries as `MassiveActivations` counts them; `largest`: magnitude over the median
        of its layer; `token`: where it stands.
    """
    found = cast(TokenMap, scan(model, row, [MassiveActivations()], progress=False)[MassiveActivations.name])
    (largest,) = found.top(1)
    return {
        "massive": len(massive_entries(found)),
        "largest": round(ratio_to_median(largest.value, found.notes["medians"][largest.layer]), 1),
        "token": str(largest.key_token),
    }
