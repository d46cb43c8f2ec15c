"""Copying: heads that raise the logit of what they attend to, by their weights and by what they write."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.analyzers.head_weights import HeadWeights, head_weights, weights_provenance
from interp.attention.participants import Reader
from interp.attention.rows import AttentionRows, LayerCall, Stream
from interp.attention.session import watch
from interp.errors import InputError
from interp.model.model import Model
from interp.results import HeadScores
from interp.statistics import mean_interval
from interp.stimuli import first_tokens, repeated_tokens

N_NULL = 20
NULL_STEP = 64
"""Random matrices at a time."""
SILENT = 1e-6
"""A circuit this small beside its factors is the rounding of weights in single precision."""
ROUNDING = 1e-5
"""So are logits this small beside their factors."""


def eigenvalue_score(matrix: Float[Tensor, "*batch size size"]) -> Float[Tensor, "*batch"]:
    """How positive the eigenvalues of a matrix are.

    *Formula*: ``sum_k Re(lambda_k) / sum_k |lambda_k|``; 0 where all are 0.
    *Range* [-1, 1]: 1 for positive eigenvalues only, -1 for negative only, 0 for rotations by a right angle.

    Example:
        >>> eigenvalue_score(torch.tensor([[2.0, 0.0], [0.0, -1.0]]))
        tensor(0.3333)
    """
    eigenvalues = torch.linalg.eigvals(matrix)
    total = eigenvalues.abs().sum(-1)
    return eigenvalues.real.sum(-1) / total.masked_fill(total == 0, 1)


def copying_from_weights(model: Model, *, seed: int = 0, n_null: int = N_NULL) -> HeadScores:
    """Copying score of the full OV circuit ``W_E W_V W_O W_U``: does what a token writes raise that token's own logit?

    *Formula*: ``sum Re(lambda) / sum |lambda|`` over the eigenvalues of the ``[vocab, vocab]`` matrix, computed from
    the ``[d_head, d_head]`` matrix ``W_O (W_U W_E) W_V``, which has the same non-zero ones. Weights are folded
    (`HeadWeights`). *Range* [-1, 1]: positive is copying, negative anti-copying. *Unit*: none.

    *Chance*: mean over `n_null` random matrices of the same singular values (the left singular vectors turned at
    random). Columns ``null sd`` and ``z`` say how far the score lies outside them.

    *Source*: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits; Olsson et al. 2022, arXiv
    2209.11895. Differences: computed without any vocabulary-sized matrix, and compared with random matrices. The
    embedding is the token embedding itself; where the first MLP rewrites it (GPT-2), `copying_from_logits`, which reads
    activations, sees copying that the eigenvalues miss.

    Raises:
        InputError: fewer than two random matrices, which have no spread.
        ModelNotSupported: see `head_weights`.
    """
    if n_null < 2:
        raise InputError(f"n_null={n_null}: expected at least 2 random matrices, for the spread of their scores.")
    weights = head_weights(model)
    circuits = ov_circuits(weights)
    null = null_scores(circuits, n_null, seed)
    scores, mean, spread = eigenvalue_score(circuits), null.mean(0), null.std(0)
    columns = {"null sd": spread, "z": (scores - mean) / spread}
    return HeadScores(
        name="copying (OV eigenvalues)",
        scores=weights.spread(scores, model),
        unit="",
        value_range=(-1.0, 1.0),
        signed=True,
        chance=weights.spread(mean, model),
        columns={name: weights.spread(values, model) for name, values in columns.items()},
        higher_is="more copying",
        provenance=weights_provenance(model, seed=seed, n_null=n_null),
    )


def ov_circuits(weights: HeadWeights) -> Float[Tensor, "layer head d_head d_head"]:
    """``W_O (W_U W_E) W_V`` of every head in double precision on the CPU; 0 where it is nothing but rounding."""
    middle = weights.W_U.double() @ weights.W_E.double()
    circuits = weights.W_O.double() @ middle @ weights.W_V.double()
    scale = middle.norm() * weights.W_O.double().norm(dim=(-2, -1)) * weights.W_V.double().norm(dim=(-2, -1))
    silent = circuits.norm(dim=(-2, -1)) <= SILENT * scale
    return circuits.masked_fill(silent[..., None, None], 0).cpu()


def null_scores(
    circuits: Float[Tensor, "layer head size size"], n_null: int, seed: int
) -> Float[Tensor, "null layer head"]:
    """Scores of matrices with the same singular values whose left singular vectors were turned at random."""
    _, values, right = torch.linalg.svd(circuits.flatten(0, 1))
    stretched = values[..., None] * right
    generator = torch.Generator().manual_seed(seed)
    rows: list[Tensor] = []
    for _ in range(n_null):
        turned = [_rotations(len(part), part.shape[-1], generator) @ part for part in stretched.split(NULL_STEP)]
        rows.append(eigenvalue_score(torch.cat(turned)).view(circuits.shape[:2]))
    return torch.stack(rows)


def _rotations(n: int, size: int, generator: torch.Generator) -> Float[Tensor, "n size size"]:
    """Orthogonal matrices drawn uniformly: QR of Gaussian ones with the signs of R's diagonal undone."""
    q, r = torch.linalg.qr(torch.randn(n, size, size, generator=generator, dtype=torch.float64))
    return q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]


def raised_share(
    logits: Float[Tensor, "*key token"], own: Int[Tensor, "*key"], scale: Float[Tensor, "*#key"] | float = 0.0
) -> tuple[Float[Tensor, "*key"], Float[Tensor, "*key"]]:
    """How much of what is raised is the attended token, and how much another token of the sample is on average.

    *Formula*: ``r = relu(logits - mean)``; of token v ``4 r[v] / (r[v] + sum r) - 1``. *Range* [-1, 1]: 1 when v alone
    is raised, -1 when it is not. NaN where nothing is raised (at most ROUNDING times `scale`).

    Arguments:
        logits: contributions to the logits of the sample's tokens.
        own: index of the attended token among them.
        scale: what the contributions are rounded against.

    Example:
        >>> raised_share(torch.tensor([3.0, 0.0, 0.0]), torch.tensor(0))
        (tensor(1.), tensor(-1.))
    """
    raised = (logits - logits.mean(-1, keepdim=True)).clamp_min(0)
    total = raised.sum(-1, keepdim=True)
    total = total.masked_fill(total <= ROUNDING * torch.as_tensor(scale)[..., None], torch.nan)
    shares = 4 * raised / (raised + total) - 1
    attended = shares.gather(-1, own[..., None]).squeeze(-1)
    return attended, (shares.sum(-1) - attended) / (logits.shape[-1] - 1)


def copying_from_logits(model: Model, *, seed: int = 0) -> HeadScores:
    """Copying by direct logit effect: does a head raise the logits of the tokens that it attends to?

    Ten samples of 25 different random tokens. What a key adds to a head's output, ``A[i, j] v_j W_O``, is read by the
    unembedding over the sample's tokens; `raised_share` says how much of what it raises is the key's own token. It does
    not depend on ``A[i, j]``, nor on the scale of the final norm, so one number per key remains, and the score is its
    mean weighted by the attention that keys receive. The first token (BOS) is no key of its own. NaN for a head that
    raises nothing.

    *Range* [-1, 1]. *Chance*: the same with the tokens permuted, exactly: the mean over the sample's other tokens.
    *Interval*: Student's, of the mean over samples.

    *Source*: Olsson et al. 2022, arXiv 2209.11895, copying evaluator; its text gives the range of a ratio from 0 to 0.5
    rescaled to [-1, 1], no code. Differences: a start token where the tokenizer puts one, as the authors advise; each
    attended key is judged by its own contribution, so that a head which copies several tokens at once is not taken for
    one that raises the wrong ones. amazon-science/llm-interpret judges the query's own value instead, after a softmax
    and with the output bias in every head.

    Raises:
        ModelNotSupported: see `head_weights`.
    """
    weights = head_weights(model)
    tokens = repeated_tokens(model, seed=seed, copies=1)
    reader = _DirectEffect(weights, n_lead=len(first_tokens(model)))
    batch = model.batch(tokens)
    with torch.inference_mode(), watch(model, reader):
        model(batch)
    own, other = (torch.stack([found[layer] for layer in weights.layers], 1) for found in (reader.own, reader.other))
    mean, low, high = mean_interval(own, within=(-1.0, 1.0))
    return HeadScores(
        name="copying (direct logits)",
        scores=weights.spread(mean, model),
        unit="",
        value_range=(-1.0, 1.0),
        signed=True,
        chance=weights.spread(other.nanmean(0), model),
        ci_low=weights.spread(low, model),
        ci_high=weights.spread(high, model),
        higher_is="more copying",
        provenance=model.provenance([batch], seed=seed),
        notes={"examples": len(tokens)},
    )


class _DirectEffect(Reader):
    """What keys add to the logits of their sample, by layer: ``own`` and ``other`` token, ``[example, head]``."""

    def __init__(self, weights: HeadWeights, n_lead: int) -> None:
        self.weights, self.n_lead = weights, n_lead
        self.received: dict[int, Float[Tensor, "example head key"]] = {}
        self.own: dict[int, Float[Tensor, "example head"]] = {}
        self.other: dict[int, Float[Tensor, "example head"]] = {}

    def begin(self, stream: Stream) -> None:
        assert stream.tokens is not None
        self.tokens = stream.tokens[:, self.n_lead :]

    def read_rows(self, rows: AttentionRows) -> None:
        n_keys = self.tokens.shape[1] + self.n_lead
        received = self.received.setdefault(rows.layer, rows.pattern.new_zeros(*rows.pattern.shape[:2], n_keys))
        received[..., rows.keys] += rows.pattern.sum(2)

    def read_call(self, call: LayerCall) -> None:
        place = self.weights.layers.index(call.layer)
        directions = self.weights.W_U.T[self.tokens]
        read = torch.einsum("hdm,btm->bhdt", self.weights.W_O[place], directions)
        value = call.value[:, :, self.n_lead :].float()
        value = value.repeat_interleave(read.shape[1] // value.shape[1], 1)
        logits = value @ read
        scale = value.norm(dim=-1) * self.weights.W_O[place].norm(dim=(-2, -1))[:, None] * directions.norm(dim=-1).max()
        keys = torch.arange(logits.shape[-2], device=logits.device).expand(logits.shape[:-1])
        shares = raised_share(logits, keys, scale)
        received = self.received[call.layer][..., self.n_lead :]
        known = received * ~shares[0].isnan()
        self.own[call.layer], self.other[call.layer] = (
            ((known * share.nan_to_num(0)).sum(-1) / known.sum(-1)).double().cpu() for share in shares
        )
