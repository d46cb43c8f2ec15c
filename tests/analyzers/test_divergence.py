"""Jensen-Shannon divergence between heads: published values, full maps, groups."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import interp
from interp.analyzers.divergence import (
    head_clusters,
    head_distances,
    head_embedding,
    jensen_shannon,
    pairwise_sums,
    row_entropy,
)
from interp.errors import InputError
from interp.head_distances import HeadDistances
from interp.model.model import Model
from interp.provenance import Provenance
from tests.attention.models import loaded

STORY = ["Tom and Sam saw a dog. The dog was big.", "One day, a bird flew."]


def one_hot(n: int, place: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(place), n).double()


@pytest.mark.parametrize(("n", "published"), [(10, 0.69157), (128, 0.69237)])
def test_the_published_values_with_the_smoothing_of_the_official_code(n: int, published: float) -> None:
    p, q = (0.999 * one_hot(n, place) + 0.001 / n for place in (0, 1))
    assert float(jensen_shannon(p, q)) == pytest.approx(published, abs=1e-5)


@pytest.mark.parametrize(("n", "published"), [(10, 0.0011262), (128, 0.0014945)])
def test_what_the_smoothing_of_the_official_code_adds_to_the_entropy_of_one_key(n: int, published: float) -> None:
    assert float(row_entropy(0.9999 * one_hot(n, 3) + 0.0001 / n)) == pytest.approx(published, abs=1e-7)


def test_divergence_of_known_rows() -> None:
    assert float(jensen_shannon(one_hot(10, 0), one_hot(10, 1))) == pytest.approx(math.log(2), abs=1e-12)
    even = torch.full((16,), 1 / 16, dtype=torch.float64)
    assert float(jensen_shannon(even, one_hot(16, 3))) == pytest.approx(0.574297, abs=1e-6)
    assert float(jensen_shannon(one_hot(10, 4), one_hot(10, 4))) == 0


def test_the_root_is_a_metric() -> None:
    rows = (4 * torch.randn(40, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).softmax(-1)
    rows = torch.cat([rows, torch.eye(9, dtype=torch.float64)])
    distance = jensen_shannon(*torch.broadcast_tensors(rows[:, None], rows[None])).sqrt()
    torch.testing.assert_close(distance, distance.T)
    assert bool((distance <= math.log(2) ** 0.5 + 1e-12).all())
    detours = (distance[:, :, None] + distance[None]).amin(1)
    assert bool((distance <= detours + 1e-9).all())


def test_pairs_are_sums_over_rows() -> None:
    rows = torch.rand(4, 5, 7).softmax(-1)
    sums = pairwise_sums(rows)
    for a in range(4):
        for b in range(4):
            assert float(sums[a, b]) == pytest.approx(float(jensen_shannon(rows[a], rows[b]).sum()), abs=1e-6)


def slow(model: Model, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Both divergences by the other formula, the mean of two relative entropies, over full maps in float64."""
    capture = interp.capture_patterns(model, tokens)
    maps = torch.cat([capture.patterns[layer][0] for layer in range(model.n_layers)]).double()
    causal = bool((maps.triu(1) == 0).all())
    visible = torch.ones_like(maps[0]).tril() if causal else torch.ones_like(maps[0])
    uniform = visible / visible.sum(-1, keepdim=True)

    def relative(p: Tensor, m: Tensor) -> Tensor:
        return torch.where(p > 0, p * (p / m.clamp_min(1e-300)).log(), 0).sum(-1)

    def divergence(p: Tensor, q: Tensor) -> Tensor:
        m = (p + q) / 2
        return ((relative(p, m) + relative(q, m)) / 2)[..., int(causal) :].mean(-1)

    return torch.stack([divergence(head, maps) for head in maps]), divergence(maps, uniform)


def test_rows_of_a_sliding_window_are_put_at_their_keys() -> None:
    model, tokens = loaded("mistral"), torch.arange(4, 16)[None]
    few, all_rows = (head_distances(model, tokens, max_bytes=size) for size in (2000, 2**26))
    torch.testing.assert_close(few.divergence, all_rows.divergence, atol=1e-6, rtol=0)
    torch.testing.assert_close(few.to_uniform, all_rows.to_uniform, atol=1e-6, rtol=0)


def test_the_mass_of_a_sink_logit_is_one_more_key() -> None:
    """Sliding windows in the first layer of two, and rows that sum to less than 1."""
    gpt_oss, tokens = loaded("gpt_oss"), torch.arange(4, 16)[None]
    maps = torch.cat(list(interp.capture_patterns(gpt_oss, tokens).patterns.values()), 1)[0].double()
    rest = 1 - maps.sum(-1, keepdim=True)
    assert float(rest.mean()) > 0.05
    whole = torch.cat([maps, rest], -1)[:, 1:]
    expected = torch.stack([jensen_shannon(head.expand_as(whole), whole).mean(-1) for head in whole])
    found = head_distances(gpt_oss, tokens, max_bytes=2000)
    torch.testing.assert_close(found.divergence, expected, atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def model(stories260k: Path) -> Model:
    return interp.load(stories260k)


@pytest.mark.parametrize(("max_bytes", "side"), [(2**26, "right"), (20_000, "left")])
def test_real_text_equals_full_maps_whatever_the_memory(model: Model, max_bytes: int, side: str) -> None:
    data = model.batch(STORY, padding_side=side)  # type: ignore[arg-type]
    found = head_distances(model, data, max_bytes=max_bytes)
    pairs, uniforms = zip(*(slow(model, model.to_tokens(text)) for text in STORY), strict=True)
    torch.testing.assert_close(found.divergence, torch.stack(pairs).mean(0), atol=2e-6, rtol=0)
    torch.testing.assert_close(found.to_uniform, torch.stack(uniforms).mean(0), atol=2e-6, rtol=0)
    assert found.labels[8] == "L1H0" and found.notes["texts"] == 2


def test_an_encoder_equals_full_maps() -> None:
    model = loaded("bert")
    tokens = torch.randint(3, 40, (1, 9), generator=torch.Generator().manual_seed(0))
    found = head_distances(model, tokens, max_bytes=2000)
    pairs, uniforms = slow(model, tokens)
    torch.testing.assert_close(found.divergence, pairs, atol=2e-6, rtol=0)
    torch.testing.assert_close(found.to_uniform, uniforms, atol=2e-6, rtol=0)


@pytest.fixture
def three_groups(provenance: Provenance) -> HeadDistances:
    """Two layers of three heads: L0H0 and L1H1 alike, L0H1, L0H2 and L1H0 alike, L1H2 alone."""
    groups = torch.tensor([0, 1, 1, 1, 0, 2])
    divergence = torch.where(groups[:, None] == groups, 0.01, 0.6).fill_diagonal_(0).double()
    labels = tuple(f"L{layer}H{head}" for layer in range(2) for head in range(3))
    return HeadDistances(
        name="by hand", unit="nats", divergence=divergence, to_uniform=torch.zeros(6), labels=labels,
        provenance=provenance,
    )  # fmt: skip


def test_groups_are_found_with_their_number(three_groups: HeadDistances) -> None:
    found = head_clusters(three_groups)
    assert found.columns["cluster"].tolist() == [[0, 1, 1], [1, 0, 2]]
    assert found["L0H0"] == pytest.approx(1 - 0.1 / math.sqrt(0.6)) and found["L1H2"] == 0  # alone: 0 by definition
    assert head_clusters(three_groups, 2).notes["clusters"] == 2
    with pytest.raises(InputError, match="and 2 to 5 groups"):
        head_clusters(three_groups, 6)


def test_points_in_the_plane_keep_groups_together(three_groups: HeadDistances) -> None:
    points = head_embedding(three_groups, seed=1)
    apart = torch.cdist(points, points)
    assert apart[0, 4] < 0.3 < 0.5 < apart[0, 1]
    assert torch.equal(points, head_embedding(three_groups, seed=1))


def test_nearest_heads_frame_and_storage(three_groups: HeadDistances, tmp_path: Path) -> None:
    ((head, distance),) = three_groups.nearest("L0H0", 1)
    assert (head.label, distance) == ("L1H1", pytest.approx(0.1))
    assert len(three_groups.to_frame()) == 15
    restored = interp.load_result(three_groups.save(tmp_path))
    assert isinstance(restored, HeadDistances)
    assert torch.equal(restored.divergence, three_groups.divergence) and restored.labels == three_groups.labels
    with pytest.raises(InputError, match="expected a head from L0H0 to L1H2"):
        three_groups.nearest("L5H0")


def test_what_cannot_be_compared_is_refused(model: Model) -> None:
    with pytest.raises(InputError, match="A text has one token"):
        head_distances(model, torch.tensor([[1]]))
    with pytest.raises(InputError, match="0 heads of encoder attention"):
        head_distances(model, "One day", kind="encoder")
