"""RazorAttention: echo and induction heads on repeated random tokens as the heads that need the whole cache."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.forward import check_language_model
from interp.errors import InputError
from interp.model.model import Model
from interp.results import HeadScores
from interp.scanning import scan
from interp.stimuli import first_tokens, repeated_tokens

BLOCK, COPIES = 2500, 4
INDUCTION_SHARE, ECHO_SHARE = 0.14, 0.01


def razor_heads(
    model: Model,
    *,
    block: int = BLOCK,
    induction_share: float = INDUCTION_SHARE,
    echo_share: float = ECHO_SHARE,
    seed: int = 0,
    progress: bool | None = None,
) -> HeadScores:
    """Score heads by induction on random tokens repeated four times, and choose the KV heads to keep whole.

    *Formula*: induction and echo (duplicate-token) scores of the analyzers `induction` and `duplicate-token`, the
    highest of a group of query heads for all of them; then the highest 14 % of the KV heads by induction and the
    highest 1 % by echo are retrieval heads. *Range* [0, 1]. *Chance*: uniform attention.
    *Source*: Tang et al. 2024, arXiv 2407.15891. Differences from the code published with it: real patterns instead of
    products from before the rotary embedding; ``sum_per_query`` normalisation (a perfect head has 1, not 0.5); equal
    scores never make the budget larger.

    Arguments:
        block: random tokens before they repeat; less where the context or the vocabulary is too small for four copies,
            and two copies where these would have fewer than eight tokens each.
        induction_share, echo_share: shares of the KV heads to choose.
        seed: of the tokens.

    Returns:
        `scores`: induction of the group. `columns`: ``echo`` of the group, ``retrieval`` (1 if chosen, else 0).
        `notes`: tokens per block, and the chance level of echo.

    Raises:
        InputError: not a causal language model, or fewer than two tokens to repeat.
    """
    check_language_model(model)
    if block < 2:
        raise InputError(f"block={block}: expected at least two tokens to repeat.")
    tokens = repeated_tokens(model, seed=seed, length=block, copies=COPIES, n_examples=1)
    found = scan(model, tokens, ["induction", "duplicate-token"], seed=seed, progress=progress)
    induction, echo = found["induction"], found["duplicate-token"]
    assert isinstance(induction, HeadScores) and isinstance(echo, HeadScores)
    group = model.n_heads // model.n_kv_heads
    by_induction, by_echo = group_max(induction.scores, group), group_max(echo.scores, group)
    chosen = highest(by_induction, induction_share) | highest(by_echo, echo_share)
    length = len(tokens.unique()) - len(first_tokens(model))  # no token stands twice in a block
    parameters = {"block": length, "induction_share": induction_share, "echo_share": echo_share}
    return HeadScores(
        name="razor attention",
        unit="attention mass",
        scores=by_induction.repeat_interleave(group, 1),
        value_range=(0.0, 1.0),
        chance=induction.chance,
        columns={
            "echo": by_echo.repeat_interleave(group, 1),
            "retrieval": chosen.repeat_interleave(group, 1).double(),
        },
        provenance=model.provenance([model.batch(tokens)], seed=seed, parameters=parameters),
        notes={"block": length, "chance echo": float(echo.chances.nanmean()), "query heads per KV head": group},
    )


def group_max(scores: Float[Tensor, "layer head"], group: int) -> Float[Tensor, "layer kv_head"]:
    """The highest score of the query heads that share a KV head.

    Example:
        >>> group_max(torch.tensor([[0.1, 0.9, 0.2, 0.3]]), 2).tolist()
        [[0.8999999761581421, 0.30000001192092896]]
    """
    return scores.unflatten(1, (-1, group)).amax(-1)


def highest(scores: Float[Tensor, "layer kv_head"], share: float) -> Bool[Tensor, "layer kv_head"]:
    """The highest ``round(share * heads)`` of all heads; of equal ones the lower layer, then the lower head.

    Example:
        >>> int(highest(torch.rand(1, 10), 0.14).sum()), int(highest(torch.rand(4, 10), 0.01).sum())
        (1, 0)
    """
    values = scores.flatten().nan_to_num(-torch.inf)
    n_chosen = round(share * int((~scores.isnan()).sum()))
    chosen = torch.zeros_like(values, dtype=torch.bool)
    chosen[values.argsort(descending=True, stable=True)[:n_chosen]] = True
    return chosen.view_as(scores)
