"""Entropy of attention rows: the published values, and what must hold for every map."""

import math

import pytest
import torch
from torch import Tensor

from interp.analyzers.positional import Entropy, FirstTokenMass
from interp.analyzers.shape import MeanDistance, NormalisedEntropy
from tests.analyzers.hand_made import first, key_bias, previous, score, uniform


@pytest.mark.parametrize("analyzer", [Entropy(), NormalisedEntropy()], ids=lambda a: a.name)
@pytest.mark.parametrize("pattern", [torch.eye(20), previous(20), first(20)], ids=["itself", "previous", "first"])
def test_one_key_per_row_has_no_entropy(analyzer: Entropy, pattern: Tensor) -> None:
    assert score(analyzer, pattern) == pytest.approx(0, abs=1e-6)


def test_uniform_rows_have_the_logarithm_of_their_keys() -> None:
    assert score(Entropy(), uniform(64)) == pytest.approx(3.205753, abs=1e-6)
    for n in (2, 5, 30):
        assert score(Entropy(), torch.full((n, n), 1 / n), causal=False) == pytest.approx(math.log(n), abs=1e-6)


def test_two_equal_keys_have_the_logarithm_of_two() -> None:
    """The first row has one key and no entropy: it counts for the plain score and not for the normalised one."""
    pattern = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    assert 2 * score(Entropy(), pattern) == pytest.approx(0.693147, abs=1e-6)
    assert score(NormalisedEntropy(), pattern) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("analyzer", [Entropy(), NormalisedEntropy()], ids=lambda a: a.name)
def test_the_order_of_the_keys_does_not_matter(analyzer: Entropy) -> None:
    pattern = (3 * torch.randn(12, 12, generator=torch.Generator().manual_seed(0))).softmax(-1)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    expected = score(analyzer, pattern, causal=False)
    assert score(analyzer, pattern[:, order], causal=False) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("analyzer", [Entropy(), NormalisedEntropy()], ids=lambda a: a.name)
def test_a_bias_on_one_key_lowers_the_entropy(analyzer: Entropy) -> None:
    curve = [score(analyzer, key_bias(64, c)) for c in (0, 1, 2, 3, 5, 8, 12)]
    assert all(low < high for high, low in zip(curve, curve[1:], strict=False))


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-9), (torch.float32, 5e-3)])
@pytest.mark.parametrize("c", [4.0, 12.0, 18.0])
def test_weights_that_half_precision_would_lose_are_counted(c: float, dtype: torch.dtype, rel: float) -> None:
    """``H(q) = log Z - c e^c / Z`` with ``Z = e^c + q``; below 6e-8, as e^-18 is, a weight is 0 in fp16.

    In float32 the largest weight itself is rounded, which is 0.3 % of what little entropy there is at c = 18.
    """
    partition = [math.exp(c) + q for q in range(64)]
    expected = sum(math.log(z) - c * math.exp(c) / z for z in partition) / 64
    assert score(Entropy(), key_bias(64, c, dtype)) == pytest.approx(expected, rel=rel, abs=0)


def test_low_entropy_alone_does_not_make_a_sink() -> None:
    """The previous-token head and the sink head are told apart by where they look."""
    sink, other = first(40), previous(40)
    assert score(FirstTokenMass(), sink) == 1 and score(FirstTokenMass(), other) == pytest.approx(1 / 39)
    assert score(MeanDistance(), sink) == pytest.approx(19.5) and score(MeanDistance(), other) == pytest.approx(39 / 40)
