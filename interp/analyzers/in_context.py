"""In-context learning: how much better late tokens are predicted than early ones, and which heads matter for it."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from interp.attention.participants import Editor
from interp.attention.session import watch
from interp.errors import InputError
from interp.interventions.frozen_patterns import FrozenPatterns
from interp.interventions.scale_heads import ScaleHeads
from interp.loss_curve import LossCurve
from interp.model.model import Inputs, Model
from interp.results import HeadScores
from interp.scanning import batched
from interp.statistics import layer_controls, mean_interval

EARLY, LATE = 50, 500
Ablation = Literal["full", "pattern-preserving"]


def in_context_score(
    model: Model, data: Inputs, *, early: int = EARLY, late: int = LATE, batch_size: int = 8
) -> LossCurve:
    """In-context-learning score of a model, with a control.

    *Formula*: mean over documents of ``loss[late] - loss[early]``, ``loss[k]`` the cross-entropy of token ``k + 1``
    given tokens ``0..k``. *Unit*: nats. Negative: more context helps. 0 for a model that does not use it.

    *Control*: the same documents with the tokens in front of the last `early` ones before `late` taken from the next
    document; the predicted token, its position and its near context stay. What is left of the score there is not
    learned from the document's own beginning.

    *Source*: Olsson et al. 2022, arXiv 2209.11895 (500th against 50th token of 512, 10,000 documents); positions count
    from 0 as in the code of arXiv 2405.14992. Difference: the control.

    Arguments:
        data: documents of at least ``late + 2`` tokens each; `interp.data.sequences` cuts them.

    Raises:
        InputError: positions that are not ``0 <= early < late``, documents that are too short, or fewer than two; a
            model that does not predict next tokens.
    """
    tokens = _documents(model, data, early, late, batch_size)
    losses = _losses(model, tokens, batch_size)
    difference = losses[:, late] - losses[:, early]
    foreign = _losses(model, _foreign(tokens, early, late), batch_size)[:, late]
    score, low, high = map(float, mean_interval(difference))
    return LossCurve(
        name="in-context learning",
        unit="nats",
        loss=losses.mean(0),
        early=early,
        late=late,
        score=score,
        ci_low=low,
        ci_high=high,
        control=float((foreign - losses[:, early]).mean()),
        provenance=model.provenance([model.batch(tokens)], parameters={"early": early, "late": late}),
        notes={"examples": len(tokens)},
    )


def in_context_heads(
    model: Model,
    data: Inputs,
    *,
    early: int = EARLY,
    late: int = LATE,
    ablation: Ablation = "full",
    batch_size: int = 8,
    progress: bool | None = None,
) -> HeadScores:
    """How much of a model's in-context learning each head carries: its score without the head minus its score.

    *Formula*: ``(loss'[late] - loss'[early]) - (loss[late] - loss[early])``, primes with the head's output zeroed.
    *Unit*: nats; positive: the head helps late predictions more than early ones. *Chance* 0; ``layer mean`` is the mean
    of the layer's other heads, the control for heads that merely matter. Columns ``late`` and ``early`` are the two
    changes of loss. *Interval*: 95 % over documents.

    *Source*: Olsson et al. 2022, arXiv 2209.11895. arXiv 2405.14992 zeroes value vectors, which grouped heads share;
    zeroing z is the same where they do not. One forward pass per head and batch.

    Arguments:
        ablation: ``"full"``: everything behind the head is computed again. ``"pattern-preserving"``: all heads keep the
            attention patterns of the untouched model, so only what the head itself writes is lost; a previous-token
            head that serves the keys of later ones then counts for nothing. Twice the arithmetic.

    Raises:
        InputError: as in `in_context_score`, or an unknown ablation.
    """
    if ablation not in get_args(Ablation):
        raise InputError(f"There is no ablation {ablation!r}. Choose from {', '.join(get_args(Ablation))}.")
    tokens = _documents(model, data, early, late, batch_size)
    whole = _losses(model, tokens, batch_size)[:, [early, late]]
    shape = (model.n_layers, model.n_heads)
    changes = torch.full((len(tokens), *shape, 2), torch.nan, dtype=torch.float64)
    heads = [(site.layer, head) for site in model.main_sites for head in range(site.n_heads)]
    for layer, head in tqdm(heads, desc="ablate", unit="head", disable=None if progress is None else not progress):
        gates = torch.ones(shape)
        gates[layer, head] = 0
        losses = _losses(model, tokens, batch_size, gates, frozen=ablation == "pattern-preserving")
        changes[:, layer, head] = losses[:, [early, late]] - whole
    effects = changes[..., 1] - changes[..., 0]
    mean, low, high = mean_interval(effects)
    others, _ = layer_controls(mean)
    return HeadScores(
        name="in-context learning",
        scores=mean,
        unit="nats",
        signed=True,
        chance=0.0,
        ci_low=low,
        ci_high=high,
        columns={"late": changes[..., 1].mean(0), "early": changes[..., 0].mean(0), "layer mean": others},
        higher_is="more in-context learning by the head",
        provenance=model.provenance(
            [model.batch(tokens)], parameters={"early": early, "late": late, "ablation": ablation}
        ),
        notes={"examples": len(tokens), "score": float((whole[:, 1] - whole[:, 0]).mean())},
    )


def _documents(model: Model, data: Inputs, early: int, late: int, batch_size: int) -> Int[Tensor, "document position"]:
    """The first ``late + 2`` tokens of every document, where all can be measured."""
    if not model.predicts_next_token:
        raise InputError(f"{model.name} does not predict the next token of a text. Use a decoder-only model.")
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}; expected at least 1.")
    if not 0 <= early < late:
        raise InputError(f"early={early}, late={late}; expected 0 <= early < late.")
    batches = list(batched(model, data, 1))
    shortest = min(int(batch.mask.sum()) for batch in batches)
    if shortest < late + 2 or len(batches) < 2:
        raise InputError(
            f"{len(batches)} documents of at least {shortest} tokens were given; the in-context-learning score needs "
            f"at least 2 of at least {late + 2}. Give longer texts, or lower late=."
        )
    return torch.stack([batch.tokens[0][batch.mask[0].bool()][: late + 2] for batch in batches])


def _foreign(tokens: Int[Tensor, "document position"], early: int, late: int) -> Int[Tensor, "document position"]:
    """Every document's tokens, those before its last ``early + 1`` seen at `late` from the next document."""
    own = torch.arange(tokens.shape[1], device=tokens.device) >= late - early
    own[0] = True  # the BOS, or where there is none a token like any other
    return torch.where(own, tokens, tokens.roll(-1, 0))


@torch.inference_mode()
def _losses(
    model: Model,
    tokens: Int[Tensor, "document position"],
    batch_size: int,
    gates: Float[Tensor, "layer head"] | None = None,
    *,
    frozen: bool = False,
) -> Float[Tensor, "document predicted"]:
    """Cross-entropy of every next token in nats, on the CPU; heads times their gates, patterns as without gates."""
    rows: list[Tensor] = []
    for part in tokens.split(batch_size):
        with watch(model, *_editors(len(part), gates, frozen)):
            logits = model(torch.cat([part, part]) if frozen else part)[-len(part) :, :-1].float()
        rows.append(torch.nn.functional.cross_entropy(logits.mT, part[:, 1:], reduction="none").double().cpu())
    return torch.cat(rows)


def _editors(n_documents: int, gates: Float[Tensor, "layer head"] | None, frozen: bool) -> list[Editor]:
    """What scales the heads; with frozen patterns, in the second half of a batch of the same documents twice."""
    if gates is None:
        return []
    if not frozen:
        return [ScaleHeads(gates)]
    own = torch.stack([torch.ones_like(gates), gates]).repeat_interleave(n_documents, 0)
    return [FrozenPatterns(torch.arange(n_documents).repeat(2)), ScaleHeads(own)]
