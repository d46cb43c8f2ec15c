"""Topological features: the published example, networkx on random graphs, and the maps of real models."""

import math
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from torch import Tensor

import interp
from interp.analyzers.topology import (
    Topology,
    bar_features,
    chordal,
    count_cycles,
    map_features,
    pattern_distance,
    spanning_weights,
    templates,
    topological_features,
)
from interp.errors import InputError
from interp.head_features import HeadFeatures
from interp.model.model import Model
from tests.attention.models import loaded

PUBLISHED = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.4, 0.4, 0.1, 0.1], [0.1, 0.5, 0.3, 0.1], [0.1, 0.1, 0.4, 0.4]])
STORY = ["Tom saw a dog, a big dog.", "One day, a bird flew."]


def features_of(pattern: Tensor, topology: Topology) -> dict[str, float]:
    values = map_features(pattern[None], templates(len(pattern)), topology)[0].tolist()
    return dict(zip(topology.features, values, strict=True))


@pytest.mark.parametrize(
    ("threshold", "directed", "b0", "b1_with_loops"), [(0.25, 7, 1, 4), (0.4, 6, 1, 3), (0.5, 2, 3, 1)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_published_counts(threshold: float, directed: int, b0: int, b1_with_loops: int, dtype: torch.dtype) -> None:
    pattern = (PUBLISHED.double() * 10).round().div(10).to(dtype)
    found = features_of(pattern, Topology(thresholds=(threshold,)))
    assert found[f"edges@{threshold:g}"] + found[f"self_loops@{threshold:g}"] == directed
    assert found[f"b0@{threshold:g}"] == b0
    assert found[f"b1@{threshold:g}"] == 0
    assert found[f"b1@{threshold:g}"] + found[f"self_loops@{threshold:g}"] == b1_with_loops


def test_the_published_bars() -> None:
    lengths = 1 - spanning_weights(PUBLISHED)
    torch.testing.assert_close(lengths, torch.tensor([0.5, 0.6, 0.6]))
    expected = torch.tensor([1.7, 0.56667, 0.04714, 1.09508, 0.6])
    torch.testing.assert_close(bar_features(lengths), expected, atol=1e-5, rtol=0)


def test_bars_take_attention_up_to_the_floor_for_none() -> None:
    pattern = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.2, 0.8]])
    assert features_of(pattern, Topology())["h0_sum"] == pytest.approx(0.5 + 0.8)
    assert features_of(pattern, Topology(floor=0.2))["h0_sum"] == pytest.approx(0.5 + 1)


def test_distances_to_the_published_patterns() -> None:
    identity, previous = torch.eye(10), templates(10)[2]
    assert float(pattern_distance(identity, identity)) == 0
    assert float(pattern_distance(identity, previous)) == pytest.approx(1)
    assert float(pattern_distance(torch.full((10, 10), 0.1), identity)) == pytest.approx(0.904534, abs=1e-6)


def test_patterns_point_where_their_names_say() -> None:
    to_self, first, previous, following, comma, dot, sep = templates(4, comma=[1, 3], dot=[2])
    assert torch.equal(to_self, torch.eye(4)) and first.argmax(-1).tolist() == [0] * 4
    assert previous.nonzero().tolist() == [[1, 0], [2, 1], [3, 2]]
    assert following.nonzero().tolist() == [[0, 1], [1, 2], [2, 3]]
    assert comma[0].tolist() == [0, 0.5, 0, 0.5] and dot[3].tolist() == [0, 0, 1, 0] and not sep.any()


def test_chordal_graphs_and_cycles_agree_with_networkx() -> None:
    generator = torch.Generator().manual_seed(0)
    upper = torch.cat([torch.rand(60, 9, 9, generator=generator) < p for p in (0.15, 0.3, 0.7)]).triu(1)
    adjacency = upper | upper.mT
    expected = [nx.is_chordal(nx.from_numpy_array(graph.numpy())) for graph in adjacency]
    assert chordal(adjacency).tolist() == expected and 20 < sum(expected) < 160
    for graph in (torch.rand(40, 5, 5, generator=generator) < 0.3).unbind():
        plain = nx.from_numpy_array(graph.numpy() & ~np.eye(5, dtype=bool), create_using=nx.DiGraph)
        strong = nx.number_strongly_connected_components(plain)
        assert count_cycles(graph, 500) == (strong, sum(1 for _ in nx.simple_cycles(plain)))
    assert count_cycles(torch.ones(6, 6, dtype=torch.bool), 7) == (1, 7)


@pytest.fixture(scope="module")
def model(stories260k: Path) -> Model:
    return interp.load(stories260k)


def slow(pattern: Tensor, topology: Topology) -> dict[str, float]:
    """The definitions by networkx."""
    n = len(pattern)
    found: dict[str, float] = {}
    for t in topology.thresholds:
        directed = nx.DiGraph((i, j) for i in range(n) for j in range(n) if pattern[i, j] >= t)
        directed.add_nodes_from(range(n))
        found[f"self_loops@{t:g}"] = nx.number_of_selfloops(directed)
        directed.remove_edges_from(list(nx.selfloop_edges(directed)))
        graph = directed.to_undirected()
        components = nx.number_connected_components(graph)
        found |= {
            f"edges@{t:g}": directed.number_of_edges(),
            f"b0@{t:g}": components,
            f"b1@{t:g}": len(nx.cycle_basis(graph)),
            f"strong@{t:g}": nx.number_strongly_connected_components(directed),
            f"chordal@{t:g}": float(nx.is_chordal(graph)),
        }
    distance = 1 - torch.where(torch.maximum(pattern, pattern.T) > topology.floor, torch.maximum(pattern, pattern.T), 0)
    whole = nx.Graph()
    whole.add_weighted_edges_from((i, j, float(distance[i, j])) for i in range(n) for j in range(i))
    bars = [weight for _, _, weight in nx.minimum_spanning_tree(whole).edges(data="weight")]
    return found | {"h0_sum": sum(bars), "h0_longest": max(bars), "h0_sd": float(np.std(bars))}


@pytest.mark.parametrize("side", ["left", "right"])
def test_real_text_equals_slow_definitions(model: Model, side: str) -> None:
    topology = Topology(thresholds=(0.05, 0.25))
    found = topological_features(model, model.batch(STORY, padding_side=side), topology)  # type: ignore[arg-type]
    frame = found.to_frame().set_index(["text", "label"])
    for text, words in enumerate(STORY):
        maps = interp.capture_patterns(model, words)
        for label in ("L0H0", "L2H3", "L4H7"):
            for name, value in slow(maps[label][0], topology).items():
                assert frame.loc[(text, label), name] == pytest.approx(value, abs=1e-5), (label, name)
    n = model.to_tokens(STORY[0]).shape[1]
    assert (found.values[0, ..., found.features.index("strong@0.05")] == n).all()
    assert (found.scores("cycles@0.05").scores == 0).all()
    assert ((frame["to_next"] - 1).abs() < 1e-6).all()
    comma = frame["to_comma"].unstack("label")
    assert (comma < 0.999).any(axis=1).all()  # both texts have one


def test_an_encoder_has_directed_cycles() -> None:
    model = loaded("bert")
    tokens = torch.randint(3, 40, (1, 7), generator=torch.Generator().manual_seed(0))
    topology = Topology(thresholds=(0.2,), max_cycles=50)
    found = topological_features(model, tokens, topology)
    assert found.scores("cycles@0.2").scores.max() > 0
    maps = interp.capture_patterns(model, tokens)
    frame = found.to_frame().set_index("label")
    for name, value in slow(maps["L1H0"][0], topology).items():
        assert frame.loc["L1H0", name] == pytest.approx(value, abs=1e-5), name


def test_uniform_attention_stands_beside_every_feature(model: Model) -> None:
    found = topological_features(model, STORY[1], Topology(thresholds=(0.25,)))
    n = model.to_tokens(STORY[1]).shape[1]
    chance = dict(zip(found.features, found.uniform[0].tolist(), strict=True))
    assert chance["self_loops@0.25"] == 4 and chance["edges@0.25"] == 6  # queries with at most four visible keys
    assert chance["b0@0.25"] == n - 3 and chance["b1@0.25"] == 3
    scores = found.scores("b0@0.25")
    assert scores.chance == n - 3 and scores.ci_low is None
    both = topological_features(model, STORY, Topology(thresholds=(0.25,)))
    other = model.to_tokens(STORY[0]).shape[1]
    assert both.scores("b0@0.25").chance == (n + other) / 2 - 3 and n != other
    with pytest.raises(InputError, match="no feature 'b9'"):
        found.scores("b9")


def test_uniform_attention_is_that_of_all_layers() -> None:
    """A window of five tokens in the first of two layers; edges lead to every token of rows with at most nine."""
    found = topological_features(loaded("gemma2"), torch.arange(4, 16)[None], Topology(thresholds=(0.105,)))
    windowed, whole = 1 + 2 + 3 + 4 * 8, sum(range(9))
    assert found.uniform[0, found.features.index("edges@0.105")] == (windowed + whole) / 2


def test_tables_and_storage(model: Model, tmp_path: Path) -> None:
    found = topological_features(model, STORY, Topology(thresholds=(0.1,)))
    n_features = len(found.features)
    assert found.to_frame().shape == (2 * 40, 4 + n_features)
    matrix = found.to_matrix()
    assert matrix.shape == (2, 40 * n_features)
    assert matrix.loc[1, "L2H3 b0@0.1"] == found.values[1, 2, 3, found.features.index("b0@0.1")]
    restored = interp.load_result(found.save(tmp_path))
    assert isinstance(restored, HeadFeatures)
    assert torch.equal(restored.values, found.values) and restored.features == found.features


def test_what_makes_no_graph_is_refused(model: Model) -> None:
    with pytest.raises(InputError, match="Text 0 has one token"):
        topological_features(model, torch.tensor([[1]]))
    for thresholds in ((0.5, 0.1), (0.0,), (1.1,), (math.nan,), ()):
        with pytest.raises(InputError, match="ascending numbers above 0, at most 1"):
            Topology(thresholds=thresholds)
    with pytest.raises(InputError, match="vision attention of .* makes no graphs"):
        topological_features(model, "One day", kind="vision")
