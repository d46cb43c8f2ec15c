"""Composition from weights: which later heads read what an earlier head writes, through query, key or value."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.FactoredMatrix import FactoredMatrix

from interp.analyzers.head_weights import HeadWeights, head_weights, weights_provenance
from interp.errors import InputError, ModelNotSupported
from interp.head_pairs import HeadPairs
from interp.model.model import Model
from interp.results import HeadScores
from interp.scanning import scan
from interp.stimuli import repeated_tokens

Mode = Literal["Q", "K", "V"]


def composition(model: Model, mode: Mode) -> HeadPairs:
    """Composition of every pair of an earlier and a later head.

    *Formula*, with ``W_OV = W_V W_O`` of the earlier head and ``W_QK = W_Q W_K^T`` of the later one, row vectors:
    Q ``||W_OV W_QK|| / (||W_OV|| ||W_QK||)``, K the same with ``W_QK^T``, V with the later head's ``W_OV``; Frobenius
    norms. *Range* [0, 1]; large also means that the two write and read few directions. NaN unless the source is in an
    earlier layer, and for heads whose weights are zero.

    *Chance*: ``1 / sqrt(d_model)``, the root mean square over all rotations of one head's subspace against the other's,
    whatever their spectra (`rotation_null`); `z` is how many standard deviations of that null the squared score lies
    above it. Raw scores of unrelated heads are near chance, not near 0.

    Weights are folded (`HeadWeights`), so that norms' gains count. Heads are query heads: with grouped keys and values
    all heads of a group share W_V as sources and W_K as destinations. Rotary positions turn W_QK by the distance of
    query and key; Q and K scores are those of distance 0, and the result's provenance says so. MLPs in between are not
    considered.

    *Source*: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits; computed as TransformerLens'
    ``all_composition_scores``. Differences: folded weights, a null, NaN in place of 0 for pairs that cannot compose.

    Raises:
        InputError: no such mode.
        ModelNotSupported: see `head_weights`; or attention in one layer only.
    """
    if mode not in get_args(Mode):
        raise InputError(f"There is no composition {mode!r}. Choose from {', '.join(get_args(Mode))}.")
    weights = head_weights(model)
    if len(weights.layers) < 2:
        raise ModelNotSupported(
            f"{model.name} has attention in one layer only, so no head reads what an earlier one writes. Composition "
            "needs a model of two layers or more."
        )
    left, right = factors(weights, mode)
    scores, z = composition_scores(left, right)
    n_layers, n_heads = model.n_layers, model.n_heads
    shape = (n_layers, n_heads, n_layers, n_heads)
    layers = torch.tensor(weights.layers)
    place = (layers[:, None, None, None], torch.arange(n_heads)[:, None, None], layers[:, None], torch.arange(n_heads))
    warnings = weights.warnings if mode != "V" else ()
    return HeadPairs(
        name=f"{mode}-composition",
        unit="",
        value_range=(0.0, 1.0),
        scores=torch.full(shape, torch.nan).index_put(place, scores.cpu()),
        z=torch.full(shape, torch.nan).index_put(place, z.cpu()),
        chance=1 / math.sqrt(weights.W_E.shape[1]),
        provenance=weights_provenance(model, mode=mode).with_warnings(*warnings),
    )


def factors(weights: HeadWeights, mode: Mode) -> tuple[FactoredMatrix, FactoredMatrix]:
    """What earlier heads write (``W_OV``) and what later heads read it with."""
    written = FactoredMatrix(weights.W_V, weights.W_O)
    if mode == "V":
        return written, written
    read = FactoredMatrix(weights.W_Q, weights.W_K.transpose(-2, -1))
    return written, read if mode == "Q" else read.T


def composition_scores(
    left: FactoredMatrix, right: FactoredMatrix
) -> tuple[Float[Tensor, "source_layer source_head layer head"], Float[Tensor, "source_layer source_head layer head"]]:
    """Scores and their z, one destination layer at a time; NaN unless the source layer is earlier."""
    written, read = left.collapse_l(), right.collapse_r()
    d_model = written.shape[-1]
    written, read = _unit(written), _unit(read)
    scores = written.new_full((*written.shape[:2], *read.shape[:2]), torch.nan)
    for layer in range(1, read.shape[0]):
        product = torch.einsum("lhdm,gmk->lhgdk", written[:layer], read[layer])
        scores[:layer, :, layer] = product.flatten(-2).norm(dim=-1)
    spread = rotation_null(_concentration(written)[:, :, None, None], _concentration(read.mT), d_model)
    return scores, (scores.square() - 1 / d_model) / spread


def _unit(matrix: Float[Tensor, "layer head *shape"]) -> Float[Tensor, "layer head *shape"]:
    """Divided by the Frobenius norm; NaN for a zero matrix."""
    norm = matrix.flatten(-2).norm(dim=-1)
    return matrix / norm.masked_fill(norm == 0, torch.nan)[..., None, None]


def _concentration(matrix: Float[Tensor, "layer head rank d_model"]) -> Float[Tensor, "layer head"]:
    """``tr(P^2)`` of ``P = matrix^T matrix`` with ``tr(P) = 1``: one over the number of directions in use."""
    return (matrix @ matrix.mT).flatten(-2).square().sum(-1)


def rotation_null(
    written: Float[Tensor, "*#pair"], read: Float[Tensor, "*#pair"], d_model: int
) -> Float[Tensor, "*pair"]:
    """Standard deviation of the squared score when one head's subspace is rotated uniformly; its mean is 1 / d_model.

    *Formula*: for unit Frobenius norms and ``Q`` uniform over rotations, ``||A Q B||^2`` has mean ``1 / d`` and
    variance ``2 (p - 1/d) (r - 1/d) / ((d + 2) (d - 1))`` with ``p = tr((A^T A)^2)`` and ``r = tr((B B^T)^2)``.

    Arguments:
        written, read: p and r.
    """
    variance = 2 * (written - 1 / d_model) * (read - 1 / d_model) / ((d_model + 2) * (d_model - 1))
    return variance.clamp_min(0).sqrt()


def strongest_source(pairs: HeadPairs) -> HeadScores:
    """For every head the strongest of its compositions with earlier heads; NaN in the first layer.

    Labels ``source`` name the earlier head; column ``z`` says how far the score lies above its null. The largest of
    many scores lies above chance by chance, and the null has a longer tail than a normal one: over all pairs of heads
    with independent Gaussian weights the largest z is mostly 3 to 4, at times 6 (4 x 8 to 12 x 12 heads).
    """
    flat = pairs.scores.flatten(0, 1)
    best = flat.nan_to_num(-torch.inf).argmax(0)
    scores = flat.gather(0, best[None])[0]
    n_heads = pairs.scores.shape[1]
    names = [
        [f"L{index // n_heads}H{index % n_heads}" if score == score else "" for index, score in zip(*row, strict=True)]
        for row in zip(best.tolist(), scores.tolist(), strict=True)
    ]
    return HeadScores(
        name=pairs.name,
        scores=scores,
        unit=pairs.unit,
        value_range=pairs.value_range,
        chance=pairs.chance,
        columns={"z": pairs.z.flatten(0, 1).gather(0, best[None])[0]},
        labels={"source": tuple(tuple(row) for row in names)},
        higher_is="more composition",
        provenance=pairs.provenance,
    )


def prefix_matching_from_weights(model: Model, *, seed: int = 0) -> HeadScores:
    """Whether a head's QK circuit looks for the token whose previous-token copy equals the query's own token.

    *Formula*: with ``p_k`` the previous-token score of every earlier head on random tokens, ``X = W_QK (sum_k p_k
    W_OV^k)^T`` and ``E = W_E^T W_E``: the trace of the ``[vocab, vocab]`` term ``W_E X W_E^T`` is ``tr(X E)``, and the
    score ``tr(X E) / (||X|| ||E||)``. *Range* [-1, 1]; *chance* 0, column ``z`` in standard deviations of the trace
    when X is turned at random (``||X E|| / sqrt(d_model)``); column ``trace`` is not normalised. NaN in the first
    layer, where nobody has written a previous token. Only pure K-composition with heads is seen, and rotary positions
    are left out.

    *Source*: Olsson et al. 2022, arXiv 2209.11895 (trace of the previous-token term of the QK circuit).

    Raises:
        ModelNotSupported: see `head_weights`.
    """
    weights = head_weights(model)
    tokens = repeated_tokens(model, seed=seed, copies=1)
    previous = scan(model, tokens, ["previous-token"], seed=seed, progress=False)["previous-token"]
    assert isinstance(previous, HeadScores)
    attention = previous.scores[list(weights.layers)].to(weights.W_E)
    shape = (len(weights.layers), model.n_heads)
    cosine, trace, z = (torch.full(shape, torch.nan) for _ in range(3))
    embedding = weights.W_E.T @ weights.W_E
    written = torch.zeros_like(embedding)
    for layer in range(1, shape[0]):
        written += torch.einsum("h,hmd,hdn->mn", attention[layer - 1], weights.W_V[layer - 1], weights.W_O[layer - 1])
        matched = weights.W_Q[layer] @ (weights.W_K[layer].mT @ written.T)
        products = matched @ embedding
        trace[layer] = products.diagonal(dim1=-2, dim2=-1).sum(-1).cpu()
        cosine[layer] = trace[layer] / (matched.flatten(1).norm(dim=1) * embedding.norm()).cpu()
        z[layer] = trace[layer] * math.sqrt(len(embedding)) / products.flatten(1).norm(dim=1).cpu()
    return HeadScores(
        name="prefix matching (weights)",
        scores=weights.spread(cosine, model),
        unit="",
        value_range=(-1.0, 1.0),
        signed=True,
        chance=0.0,
        columns={name: weights.spread(values, model) for name, values in (("trace", trace), ("z", z))},
        higher_is="more prefix matching",
        provenance=model.provenance([model.batch(tokens)], seed=seed, warnings=weights.warnings),
    )
