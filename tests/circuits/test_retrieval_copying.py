"""Retrieval scores on hand-made rows, and agreement between rankings: pure functions with known answers."""

from itertools import combinations
from pathlib import Path

import pytest
import torch

from circuits.retrieval.agreement import agreement, top_jaccard
from circuits.retrieval.copying import copy_chance, copy_hits, copy_mass, copy_recall, rouge_recall
from interp.agreement import Agreement, chance_jaccard
from interp.errors import InputError
from interp.provenance import Provenance
from interp.results import load_result

NEEDLE = torch.arange(50, 55)
START = 10
OUTSIDE = 30


def recall(*places: int, answer: torch.Tensor = NEEDLE) -> float:
    hits = copy_hits(torch.tensor([[places]]), answer, NEEDLE, START)
    return float(copy_recall(hits, answer, NEEDLE))


def test_the_score_is_the_share_of_the_needle_that_was_copied() -> None:
    assert recall(10, 11, 12, 13, 14) == 1
    assert recall(10, 0, 0, 13, 0) == pytest.approx(0.4)
    assert recall(11, 12, 13, 14, 10) == 0  # inside the needle, but other tokens
    assert recall(*[OUTSIDE] * 5) == 0  # the same tokens may stand elsewhere


def test_repeating_a_copied_token_does_not_raise_the_score() -> None:
    answer = torch.tensor([50, 51, 50, 51, 50, 51, 50])
    assert recall(10, 11, 10, 11, 10, 11, 10, answer=answer) == pytest.approx(0.4)


def test_a_token_that_stands_twice_in_the_needle_counts_once() -> None:
    needle, answer = torch.tensor([7, 8, 7]), torch.tensor([7, 8, 7])
    hits = copy_hits(torch.tensor([[[START + 2, 0, 0]]]), answer, needle, START)
    assert float(copy_recall(hits, answer, needle)) == 0.5


def test_soft_score_is_the_mass_on_the_right_token() -> None:
    mass = torch.tensor([[[0.5, 0.1, 0.2], [0.3, 0.4, 0.0], [0.9, 0.0, 0.0]]])
    needle = torch.tensor([7, 8, 7])
    # 7 stands twice; 9 is not in the needle and does not count.
    assert float(copy_mass(mass, torch.tensor([7, 8, 9]), needle)) == pytest.approx((0.7 + 0.4) / 2)
    assert copy_mass(mass, torch.tensor([9, 9, 9]), needle).isnan().all()


def test_chance_is_a_random_key_and_uniform_attention() -> None:
    visible = torch.full((5,), 20.0, dtype=torch.float64)
    seen = torch.ones(len(visible), len(NEEDLE), dtype=torch.bool)
    assert copy_chance(seen, visible, NEEDLE, NEEDLE) == pytest.approx((1 / 20, 1 / 20))
    twice = copy_chance(seen[:2], visible[:2], torch.tensor([50, 50]), NEEDLE)
    assert twice == pytest.approx(((1 - (19 / 20) ** 2) / 5, 1 / 20))
    seen[:, :2] = False  # beyond a sliding window
    assert copy_chance(seen, visible, NEEDLE, NEEDLE) == pytest.approx((3 / 5 / 20, 3 / 5 / 20))


def test_rouge_recall() -> None:
    assert rouge_recall("", "a b") == 0
    assert rouge_recall("b b a", "a b c d") == 0.5


@pytest.mark.parametrize(("k", "n"), [(1, 4), (2, 6), (3, 5)])
def test_chance_of_overlap_by_enumeration(k: int, n: int) -> None:
    sets = [set(chosen) for chosen in combinations(range(n), k)]
    overlaps = [len(a & b) / len(a | b) for a in sets for b in sets]
    assert chance_jaccard(k, n) == pytest.approx(sum(overlaps) / len(overlaps))


def test_ties_are_not_decided_by_the_order_of_heads() -> None:
    flat, best = torch.zeros(1, 4), torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    assert top_jaccard(flat, best, 1) == pytest.approx(0.25 / 1.75)
    assert top_jaccard(flat, best.flip(1), 1) == pytest.approx(0.25 / 1.75)


def test_agreement_of_rankings(provenance: Provenance, tmp_path: Path) -> None:
    scores = torch.rand(4, 5)
    holes = scores.clone()
    holes[0, 0] = torch.nan
    found = agreement({"a": scores, "same order": scores.exp(), "reverse": -scores, "holes": holes},
                      provenance=provenance, k=3)  # fmt: skip
    assert found.n_heads == 19
    assert found.spearman[0].tolist() == pytest.approx([1, 1, -1, 1])
    assert float(found.jaccard[0, 1]) == 1 and float(found.jaccard[0, 2]) == 0
    frame = found.to_frame()
    assert len(frame) == 6 and frame["jaccard chance"].unique().tolist() == [chance_jaccard(3, 19)]
    saved = load_result(found.save(tmp_path / "agreement"))
    assert isinstance(saved, Agreement)
    torch.testing.assert_close(saved.spearman, found.spearman)
    assert saved.methods == found.methods


def test_agreement_refuses_what_cannot_be_compared(provenance: Provenance) -> None:
    with pytest.raises(InputError, match="at least two methods"):
        agreement({"a": torch.rand(1, 2)}, provenance=provenance)
    with pytest.raises(InputError, match="0 heads were measured by all of a, b; expected at least two"):
        agreement({"a": torch.rand(1, 4), "b": torch.full((1, 4), torch.nan)}, provenance=provenance)
    with pytest.raises(InputError, match="k=4 of 4 heads"):
        agreement({"a": torch.rand(1, 4), "b": torch.rand(1, 4)}, provenance=provenance, k=4)
