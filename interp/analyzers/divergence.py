"""Which heads look alike: Jensen-Shannon divergence between all heads of a model, and groups of them."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import cut_tree, linkage
from scipy.spatial.distance import squareform
from sklearn.manifold import smacof
from sklearn.metrics import silhouette_samples
from torch import Tensor
from tqdm.auto import tqdm

from interp.attention.participants import Reader
from interp.attention.rows import AttentionRows
from interp.attention.session import watch
from interp.errors import InputError
from interp.head_distances import HeadDistances
from interp.heads import HeadRef
from interp.model.model import Inputs, Model
from interp.model.tokens import TokenBatch
from interp.results import HeadScores
from interp.scanning import batched

DEFAULT_BYTES = 2**26
MOST_CLUSTERS = 10


def row_entropy(rows: Float[Tensor, "*row key"]) -> Float[Tensor, "*row"]:
    """Shannon entropy in nats along the last axis."""
    return -torch.special.xlogy(rows, rows).sum(-1)


def jensen_shannon(p: Float[Tensor, "*row key"], q: Float[Tensor, "*row key"]) -> Float[Tensor, "*row"]:
    """Jensen-Shannon divergence of rows in nats.

    *Formula*: ``H((p + q) / 2) - (H(p) + H(q)) / 2``. *Range* [0, log 2]: 0 for equal rows, log 2 for rows without a
    common key. Its square root is a metric.
    *Difference from the official code* of arXiv 1906.04341: that one first mixes 0.001 of uniform attention into every
    row, so that disjoint rows of 128 keys reach 0.69237; the three entropies need no such thing.

    Example:
        >>> p, q = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> round(jensen_shannon(p, q).item(), 4), jensen_shannon(p, p).item()
        (0.6931, 0.0)
    """
    return (row_entropy((p + q) / 2) - (row_entropy(p) + row_entropy(q)) / 2).clamp_min(0)


def pairwise_sums(rows: Float[Tensor, "head query key"]) -> Float[Tensor, "head head"]:
    """Jensen-Shannon divergence between every two heads, summed over the queries; each head's entropy is taken once."""
    entropy = row_entropy(rows)
    sums = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for head in range(len(rows) - 1):
        mixed = row_entropy((rows[head] + rows[head + 1 :]) / 2)
        divergence = (mixed - (entropy[head] + entropy[head + 1 :]) / 2).clamp_min(0)
        sums[head, head + 1 :] = divergence.double().sum(-1)
    return sums + sums.T


def head_distances(
    model: Model,
    data: Inputs,
    *,
    kind: str | None = None,
    prepend_bos: bool | None = None,
    seed: int | None = None,
    max_bytes: int = DEFAULT_BYTES,
    progress: bool | None = None,
) -> HeadDistances:
    """Jensen-Shannon divergence between every two heads of all layers, on the same rows of the same texts.

    *Formula*: ``jensen_shannon(A_a[i, :], A_b[i, :])``, mean over the queries of a text that see more than one key,
    then over texts. *Range* [0, log 2] nats. The mass that a sink logit takes counts as one more key.
    *Control*: `HeadDistances.to_uniform`.
    *Source*: Clark et al. 2019, arXiv 1906.04341, whose code sums over rows and so grows with the length of the text.

    Rows of all layers must be compared at once, so each text runs once per run of rows that fits in `max_bytes`; time
    grows with the square of the number of heads.

    Arguments:
        data: a text, several texts, a token tensor ``[batch, position]``, or a `TokenBatch`.
        kind: kind of attention; None for the model's main one.
        prepend_bos: for texts; None for the tokenizer's own habit.
        seed: the seed the data was made with, for the record.
        max_bytes: memory for the rows of all heads; changes speed, never a number.
        progress: a bar on stderr; None shows it on a terminal only.
    """
    kind = kind or model.sites.main_kind
    sites = model.sites.of_kind(kind)
    heads = [HeadRef(site.layer, head) for site in sites for head in range(site.n_heads)]
    if len(heads) < 2 or kind in ("cross", "vision"):
        raise InputError(
            f"{model.name} has {len(heads)} heads of {kind} attention: expected at least two, over the tokens of one "
            "text. Choose another kind."
        )
    texts = list(batched(model, data, 1, prepend_bos))
    divergences, uniforms = [], []
    with torch.inference_mode():
        for text in tqdm(texts, desc="head distances", unit="text", disable=None if progress is None else not progress):
            if text.tokens.shape[1] < 2:
                raise InputError("A text has one token, which leaves nothing to compare. Pass texts of two or more.")
            reader = _compared(model, text, kind, max_bytes)
            divergences.append(reader.sums.cpu() / reader.n_rows)
            uniforms.append(reader.uniform_sums.cpu() / reader.n_rows)
    return HeadDistances(
        name="head distances",
        divergence=torch.stack(divergences).mean(0),
        to_uniform=torch.stack(uniforms).mean(0),
        labels=tuple(head.label for head in heads),
        unit="nats",
        value_range=(0.0, float(np.log(2))),
        provenance=model.provenance(texts, seed=seed, parameters={"kind": kind}),
        notes={"texts": len(texts)},
    )


def head_clusters(distances: HeadDistances, n_clusters: int | None = None) -> HeadScores:
    """Groups of heads that attend alike, by average linkage on ``distances.distance``.

    Arguments:
        n_clusters: how many groups; None for the number from 2 to 10 with the highest mean silhouette.

    Returns:
        The silhouette of each head in [-1, 1]: 1 far nearer to its own group than to the next one, 0 between two groups
        or alone in its group, -1 nearer to another group. Column ``cluster`` counts the groups from 0 in the order of
        their first heads, ``to_uniform`` is the divergence from uniform attention.
    """
    n = len(distances.labels)
    if n < 3 or not (n_clusters is None or 2 <= n_clusters < n):
        raise InputError(f"n_clusters={n_clusters} of {n} heads; expected three heads or more and 2 to {n - 1} groups.")
    distance = distances.distance.double().numpy()
    tree = linkage(squareform(distance, checks=False), "average")
    sizes = range(2, min(MOST_CLUSTERS, n - 1) + 1) if n_clusters is None else [n_clusters]
    groupings = [_renumbered(cut_tree(tree, size)[:, 0]) for size in sizes]
    silhouettes = [np.asarray(silhouette_samples(distance, groups, metric="precomputed")) for groups in groupings]
    best = max(range(len(groupings)), key=lambda index: silhouettes[index].mean())
    columns = {"cluster": torch.from_numpy(groupings[best]).double(), "to_uniform": distances.to_uniform.double()}
    return HeadScores(
        name="head clusters",
        scores=_per_head(distances, torch.from_numpy(silhouettes[best])),
        unit="silhouette",
        value_range=(-1.0, 1.0),
        signed=True,
        chance=0.0,
        columns={name: _per_head(distances, values) for name, values in columns.items()},
        higher_is="more clearly in its group",
        provenance=distances.provenance,
        notes={"clusters": int(groupings[best].max()) + 1, "mean silhouette": float(silhouettes[best].mean())},
    )


def head_embedding(distances: HeadDistances, *, seed: int = 0) -> Float[Tensor, "head 2"]:
    """Points in the plane whose distances are as near as possible to ``distances.distance`` (metric MDS).

    *Source*: arXiv 1906.04341, with its settings (5 starts, 1,000 steps); its code embeds the summed divergences rather
    than their root.
    """
    points = smacof(
        distances.distance.double().numpy(),
        n_components=2,
        n_init=5,
        max_iter=1000,
        eps=1e-10,
        random_state=seed,
    )[0]
    return torch.from_numpy(points)


def _per_head(distances: HeadDistances, values: Float[Tensor, " one"]) -> Float[Tensor, "layer head"]:
    """One value per head as a map over layers and heads; NaN where there is no head."""
    heads = distances.heads
    shape = max(head.layer for head in heads) + 1, max(head.head for head in heads) + 1
    spread = torch.full(shape, torch.nan, dtype=values.dtype)
    spread[[head.layer for head in heads], [head.head for head in heads]] = values
    return spread


def _renumbered(labels: np.ndarray) -> np.ndarray:
    """Groups counted from 0 in the order of their first members."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _compared(model: Model, text: TokenBatch, kind: str, max_bytes: int) -> _Comparison:
    """All rows of one text, run by run."""
    n_tokens = text.tokens.shape[1]
    reader = _Comparison(model, kind, n_tokens)
    size = max(1, max_bytes // (4 * len(reader.layer_of_head) * (n_tokens + 1)))
    for run in torch.arange(n_tokens).split(size):
        reader.start(run)
        with watch(model, reader):
            model.hf(**model.forward_inputs(text))
        reader.finish()
    return reader


class _Comparison(Reader):
    """Holds one run of rows of all layers at a time and sums by how much they differ."""

    def __init__(self, model: Model, kind: str, n_tokens: int) -> None:
        self.kinds = frozenset({kind})
        self.layer_of_head = [site.layer for site in model.sites.of_kind(kind) for _ in range(site.n_heads)]
        self.n_tokens, self.device = n_tokens, model.device
        n_heads = len(self.layer_of_head)
        self.sums = torch.zeros(n_heads, n_heads, dtype=torch.float64, device=self.device)
        self.uniform_sums = torch.zeros(n_heads, dtype=torch.float64, device=self.device)
        self.n_rows = 0

    def start(self, run: Int[Tensor, " query"]) -> None:
        """Make room for these rows. The last column is the mass that a sink logit takes."""
        self.queries = run
        self.rows = torch.zeros(len(self.layer_of_head), len(run), self.n_tokens + 1, device=self.device)
        self.counted = torch.zeros(len(run), dtype=torch.bool, device=self.device)

    def read_rows(self, rows: AttentionRows) -> None:
        first = self.layer_of_head.index(rows.layer)
        heads = slice(first, first + rows.pattern.shape[1])
        assert self.queries is not None
        places, keys = (rows.queries.to(self.device) - int(self.queries[0])), rows.keys.to(self.device)
        block = self.rows.new_zeros(rows.pattern.shape[1], len(places), self.n_tokens + 1)
        block[..., keys] = rows.pattern[0].to(block)
        if rows.sink_logit:
            block[..., -1] = (1 - block[..., :-1].sum(-1)).clamp_min(0)
        uniform = torch.zeros_like(block)
        uniform[..., keys] = (rows.visible[0] / rows.n_visible[0, :, None].clamp_min(1)).to(block)
        counted = (rows.n_visible[0] > 1).to(self.device)
        self.rows[heads, places] = block * counted[:, None]
        self.counted[places] |= counted
        self.uniform_sums[heads] += (jensen_shannon(block, uniform) * counted).double().sum(-1)

    def finish(self) -> None:
        """Compare the rows of all heads."""
        self.sums += pairwise_sums(self.rows)
        self.n_rows += int(self.counted.sum())
