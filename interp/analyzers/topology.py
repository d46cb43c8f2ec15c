"""Topological features of attention: each map as a weighted graph of tokens, cut at several thresholds.

A token is a vertex. At a threshold t there is an edge from query i to key j where ``A[i, j] >= t``. The undirected
graph joins two tokens where either looks at the other that strongly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import networkx as nx
import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from torch import Tensor
from tqdm.auto import tqdm

from interp.attention.participants import Reader
from interp.attention.rows import AttentionRows, LayerCall
from interp.attention.session import watch
from interp.errors import InputError
from interp.head_features import HeadFeatures
from interp.model.model import Inputs, Model
from interp.model.tokens import TokenBatch
from interp.scanning import batched

THRESHOLDS = (0.025, 0.05, 0.1, 0.25, 0.5, 0.75)
COUNTS = ("edges", "self_loops", "b0", "b1", "strong", "cycles", "chordal")
BARS = ("h0_sum", "h0_mean", "h0_sd", "h0_entropy", "h0_longest")
PATTERNS = ("self", "first", "previous", "next", "comma", "dot", "sep")


def undirected(pattern: Float[Tensor, "*map query key"]) -> Float[Tensor, "*map query key"]:
    """The larger attention of both directions, 0 from a token to itself."""
    both = torch.maximum(pattern, pattern.mT)
    return both.masked_fill(torch.eye(pattern.shape[-1], dtype=torch.bool, device=pattern.device), 0)


def spanning_weights(pattern: Float[Tensor, "query key"]) -> Float[Tensor, " edge"]:
    """Weights of a maximum spanning tree of the undirected graph, highest first; 0 where attention joins nothing.

    They hold all of the graph's connectedness: the finite bars of the Vietoris-Rips filtration on ``1 - A`` in
    dimension 0 are ``1 - weight``, and the graph cut at t has one component more than there are weights below t.

    Example:
        >>> spanning_weights(torch.tensor([[1.0, 0.0, 0.0], [0.75, 0.25, 0.0], [0.5, 0.5, 0.0]])).tolist()
        [0.75, 0.5]
    """
    weights = undirected(pattern).cpu().numpy()
    tree = minimum_spanning_tree(csr_array(-weights)).data
    missing = np.zeros(len(weights) - 1 - len(tree), dtype=tree.dtype)
    return torch.from_numpy(np.concatenate([np.sort(tree) * -1, missing])).to(pattern)


def bar_features(lengths: Float[Tensor, " bar"]) -> Float[Tensor, " feature"]:
    """Sum, mean, population standard deviation, entropy (nats, of the shares of the sum) and maximum of bar lengths."""
    shares = lengths / lengths.sum().clamp_min(torch.finfo(lengths.dtype).tiny)
    entropy = -torch.special.xlogy(shares, shares).sum()
    return torch.stack([lengths.sum(), lengths.mean(), lengths.std(correction=0), entropy, lengths.max()])


def chordal(adjacency: Bool[Tensor, "graph vertex vertex"]) -> Bool[Tensor, " graph"]:
    """Whether every cycle of four or more vertices has a chord, for many undirected graphs at once.

    Vertices are visited by maximum cardinality search; the graph is chordal exactly if at every visit the visited
    neighbours, without the latest of them, are all neighbours of the latest (Tarjan and Yannakakis 1984). Self-loops
    are ignored.

    Example:
        >>> square = torch.tensor([[[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]]]).bool()
        >>> chordal(square).item(), chordal(square[:, :3, :3]).item()
        (False, True)
    """
    n_graphs, n = adjacency.shape[:2]
    every = torch.arange(n_graphs, device=adjacency.device)
    adjacency = adjacency & ~torch.eye(n, dtype=torch.bool, device=adjacency.device)
    visited_at = torch.full((n_graphs, n), -1, device=adjacency.device)
    n_visited_neighbours = torch.zeros(n_graphs, n, dtype=torch.long, device=adjacency.device)
    perfect = torch.ones(n_graphs, dtype=torch.bool, device=adjacency.device)
    for step in range(n):
        vertex = n_visited_neighbours.masked_fill(visited_at >= 0, -1).argmax(-1)
        neighbours = adjacency[every, vertex]
        earlier = neighbours & (visited_at >= 0)
        latest = visited_at.masked_fill(~earlier, -1).argmax(-1)
        others = earlier.clone()
        others[every, latest] = False
        perfect &= ~(others & ~adjacency[every, latest]).any(-1)
        visited_at[every, vertex] = step
        n_visited_neighbours += neighbours
    return perfect


def count_cycles(adjacency: Bool[Tensor, "query key"], most: int) -> tuple[int, int]:
    """Strongly connected components, and directed simple cycles of two or more tokens, counted up to `most`.

    Example:
        >>> count_cycles(torch.tensor([[1, 1, 0], [1, 0, 1], [0, 0, 1]]).bool(), 500)
        (2, 1)
    """
    edges = adjacency.cpu().numpy() & ~np.eye(len(adjacency), dtype=bool)
    n_strong = int(connected_components(csr_array(edges), directed=True, connection="strong", return_labels=False))
    if n_strong == len(edges):
        return n_strong, 0
    cycles = nx.simple_cycles(nx.from_numpy_array(edges, create_using=nx.DiGraph))
    return n_strong, sum(1 for _ in islice(cycles, most))


def pattern_distance(
    pattern: Float[Tensor, "*map query key"], template: Float[Tensor, "query key"]
) -> Float[Tensor, "*map"]:
    """Distance between maps and a canonical pattern.

    *Formula*: ``||A - T||_F / sqrt(||A||_F^2 + ||T||_F^2)``. *Range* [0, sqrt 2]: 0 for the pattern itself, 1 where the
    two share no entry.

    Example:
        >>> round(pattern_distance(torch.full((10, 10), 0.1), torch.eye(10)).item(), 6)
        0.904534
    """
    difference = (pattern - template).square().sum((-2, -1))
    return (difference / (pattern.square().sum((-2, -1)) + template.square().sum())).sqrt()


def templates(
    n: int, comma: Sequence[int] = (), dot: Sequence[int] = (), sep: Sequence[int] = ()
) -> Float[Tensor, "template query key"]:
    """The canonical patterns of `PATTERNS`; every query divides its attention evenly over the named key positions."""
    places = [torch.eye(n), torch.zeros(n, n), torch.eye(n).roll(-1, 1).tril(-1), torch.eye(n).roll(1, 1).triu(1)]
    places[1][:, 0] = 1
    for positions in (comma, dot, sep):
        marked = torch.zeros(n, n)
        marked[:, list(positions)] = 1 / max(1, len(positions))
        places.append(marked)
    return torch.stack(places)


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Parameters of the features.

    Arguments:
        thresholds: where the graphs are cut, ascending, each above 0 and at most 1.
        max_cycles: directed cycles are counted up to this number, as there can be exponentially many; 0 counts none.
        floor: attention up to this value counts as none in the bars.
    """

    thresholds: tuple[float, ...] = THRESHOLDS
    max_cycles: int = 500
    floor: float = 1e-3

    def __post_init__(self) -> None:
        ascending = list(self.thresholds) == sorted(set(self.thresholds))
        if not self.thresholds or not ascending or not all(0 < threshold <= 1 for threshold in self.thresholds):
            raise InputError(f"thresholds={self.thresholds}; expected ascending numbers above 0, at most 1.")

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features in their order."""
        counts = [f"{name}@{threshold:g}" for threshold in self.thresholds for name in COUNTS]
        return (*counts, *BARS, *(f"to_{name}" for name in PATTERNS))


def map_features(
    pattern: Float[Tensor, "map query key"], canonical: Float[Tensor, "template query key"], topology: Topology
) -> Float[Tensor, "map feature"]:
    """All features of some maps of one text, in the order of ``topology.features``."""
    n = pattern.shape[-1]
    both = undirected(pattern)
    weights = torch.stack([spanning_weights(one) for one in pattern])
    columns: list[Tensor] = []
    for threshold in topology.thresholds:
        directed, joined = pattern >= threshold, both >= threshold
        loops = directed.diagonal(dim1=-2, dim2=-1).sum(-1)
        b0 = n - (weights >= threshold).sum(-1)
        b1 = joined.sum((-2, -1)) // 2 - n + b0
        cycles = torch.tensor([count_cycles(one, topology.max_cycles) for one in directed], device=pattern.device)
        columns += [directed.sum((-2, -1)) - loops, loops, b0, b1, cycles[:, 0], cycles[:, 1], chordal(joined)]
    bars = torch.stack([bar_features(1 - row * (row > topology.floor)) for row in weights])
    distances = torch.stack([pattern_distance(pattern, template.to(pattern)) for template in canonical], -1)
    return torch.cat([torch.stack(columns, -1).double(), bars.double(), distances.double()], -1)


def topological_features(
    model: Model,
    data: Inputs,
    topology: Topology | None = None,
    *,
    kind: str | None = None,
    prepend_bos: bool | None = None,
    seed: int | None = None,
    progress: bool | None = None,
) -> HeadFeatures:
    """Topological features of every head's map of every text.

    *Features*, with n tokens; ``@t`` is the threshold of the graph:
        edges, self_loops: directed edges between two tokens, and tokens that look at themselves.
        b0, b1: Betti numbers of the undirected graph: connected components, and independent cycles
            ``edges - n + b0`` without self-loops.
        strong: strongly connected components; n for a causal map, which has no way back.
        cycles: directed simple cycles of two or more tokens, up to `max_cycles`; 0 for a causal map.
        chordal: 1 where every cycle of four or more tokens has a chord.
        h0_sum, h0_mean, h0_sd, h0_entropy, h0_longest: lengths of the finite bars of the Vietoris-Rips filtration on
            ``1 - A`` (larger direction) in dimension 0, each in [0, 1]; entropy in nats.
        to_self, to_first, to_previous, to_next, to_comma, to_dot, to_sep: `pattern_distance` to canonical patterns;
            1 where the text has no such token, and for ``to_next`` in a causal map.
    *Control*: the same features of uniform attention, `HeadFeatures.uniform`, as a mean over layers where sliding
    windows make these differ.
    *Source*: Kushnareva et al. 2021, arXiv 2109.04825; Proskurina et al. 2023, "Can BERT eat RuCoLA?".
    *Differences from their code*: self-loops are not counted as cycles (their b1 is ours plus `self_loops`, their edge
    count likewise); counts keep all digits; patterns are compared over real tokens only; the matching number is left
    out, because theirs is that of some maximal matching, and bars of dimension 1, which need a library for persistent
    homology. Averages of degrees follow from the edge counts.

    The whole map of a head is needed: one layer's maps are held at a time, ``4 * heads * n ** 2`` bytes.

    Arguments:
        data: a text, several texts, a token tensor ``[batch, position]``, or a `TokenBatch`; at least two tokens each.
        topology: thresholds and limits.
        kind: kind of attention; None for the model's main one.
        prepend_bos: for texts; None for the tokenizer's own habit.
        seed: the seed the data was made with, for the record.
        progress: a bar on stderr; None shows it on a terminal only.
    """
    topology = topology or Topology()
    kind = kind or model.sites.main_kind
    sites = model.sites.of_kind(kind)
    if not sites or kind in ("cross", "vision"):
        raise InputError(
            f"{kind} attention of {model.name} makes no graphs of the tokens of a text. Choose another kind."
        )
    shape = (max(site.layer for site in sites) + 1, max(site.n_heads for site in sites), len(topology.features))
    texts = list(batched(model, data, 1, prepend_bos))
    if short := [index for index, text in enumerate(texts) if text.tokens.shape[1] < 2]:
        raise InputError(f"Text {short[0]} has one token, which makes no graph. Pass texts of two or more tokens.")
    readers: list[_Maps] = []
    bar = tqdm(texts, desc="topology", unit="text", disable=None if progress is None else not progress)
    with torch.inference_mode():
        for text in bar:
            readers.append(_Maps(kind, shape, text.tokens.shape[1], _canonical(model, text), topology))
            with watch(model, readers[-1]):
                model.hf(**model.forward_inputs(text))
    parameters = {"kind": kind, "thresholds": topology.thresholds, "max_cycles": topology.max_cycles}
    return HeadFeatures(
        name="topological features",
        values=torch.stack([reader.values for reader in readers]),
        uniform=torch.stack([torch.stack(reader.uniform).mean(0) for reader in readers]),
        features=topology.features,
        unit="",
        provenance=model.provenance(texts, seed=seed, parameters={**parameters, "floor": topology.floor}),
    )


def _canonical(model: Model, text: TokenBatch) -> Float[Tensor, "template query key"]:
    ids = text.tokens[0].tolist()
    words = [] if model.tokenizer is None else [word.strip() for word in model.to_str_tokens(ids)]
    comma, dot = ([i for i, word in enumerate(words) if word == mark] for mark in (",", "."))
    separator = getattr(model.tokenizer, "sep_token_id", None)
    return templates(len(ids), comma, dot, [i for i, token in enumerate(ids) if token == separator])


class _Maps(Reader):
    """Puts the maps of one layer together, takes their features, and forgets them."""

    def __init__(self, kind: str, shape: tuple[int, int, int], n: int, canonical: Tensor, topology: Topology) -> None:
        self.kinds = frozenset({kind})
        self.n, self.canonical, self.topology = n, canonical, topology
        self.values = torch.full(shape, torch.nan, dtype=torch.float64)
        self.uniform: list[Float[Tensor, " feature"]] = []
        self.maps: Tensor | None = None

    def read_rows(self, rows: AttentionRows) -> None:
        if self.maps is None:
            self.maps = rows.pattern.new_zeros(rows.pattern.shape[1] + 1, self.n, self.n)
        even = rows.visible / rows.n_visible[..., None].clamp_min(1)
        self.maps[:, rows.queries[:, None], rows.keys] = torch.cat([rows.pattern[0], even.to(rows.pattern)])

    def read_call(self, call: LayerCall) -> None:
        assert self.maps is not None
        features = map_features(self.maps, self.canonical.to(self.maps), self.topology).cpu()
        self.values[call.layer, : len(features) - 1] = features[:-1]
        self.uniform.append(features[-1])
        self.maps = None
