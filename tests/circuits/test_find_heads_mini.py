"""`find_heads` on the embedded model: the heads it names are the task, whatever prompts it saw."""

import pytest

import interp
from circuits.effects import rank_correlation
from circuits.find_heads import find_heads
from circuits.tasks import get_task
from interp.model.model import Model
from interp.results import HeadScores

N_PROMPTS = 60


@pytest.fixture(scope="module")
def mini() -> Model:
    return interp.load("mini")


@pytest.fixture(scope="module")
def ioi(mini: Model) -> HeadScores:
    return find_heads(mini, "ioi", n_prompts=N_PROMPTS, progress=False)


def test_the_model_does_the_task_and_the_corruption_takes_it_away(ioi: HeadScores) -> None:
    assert ioi.notes["clean"]["accuracy"] >= 0.9
    assert ioi.notes["clean"]["metric"] > ioi.notes["corrupted"]["metric"] + 1
    assert ioi.provenance.warnings == ()


def test_the_highest_heads_matter_more_than_random_heads_of_the_same_layers(ioi: HeadScores) -> None:
    """This `mini` does the task in many heads at once: without the highest ones it gets worse, but not to chance."""
    group = ioi.notes["group"]
    assert group["ablated"]["accuracy"] < min(group["random ablated"]["accuracy"]) - 0.1
    assert group["ablated"]["metric"] < 0.5 * min(group["random ablated"]["metric"])


def test_the_highest_heads_alone_do_more_than_random_heads_of_the_same_layers(ioi: HeadScores) -> None:
    group = ioi.notes["group"]
    assert group["kept"]["metric"] > max(group["random kept"]["metric"])


@pytest.mark.slow
def test_the_ranking_is_stable_across_disjoint_prompts(mini: Model, ioi: HeadScores) -> None:
    task = get_task("ioi")
    first, second = (set(task.prompts(mini.tokenizer, n=N_PROMPTS, seed=seed).texts) for seed in (0, 1))
    assert not first & second
    other = find_heads(mini, "ioi", n_prompts=N_PROMPTS, seed=1, n_random=0, progress=False)
    assert rank_correlation(ioi.scores, other.scores) >= 0.9


def test_attribution_finds_the_same_highest_heads(mini: Model, ioi: HeadScores) -> None:
    estimated = find_heads(mini, "ioi", n_prompts=N_PROMPTS, method="attribution", top=4, n_random=0, progress=False)
    assert set(estimated.top(3)) == set(ioi.top(3))
    assert rank_correlation(estimated.columns["attribution"], ioi.scores) > 0.7


@pytest.mark.parametrize("task", ["greater-than", "relations", "induction"])
def test_every_task_has_heads_with_roles(mini: Model, task: str) -> None:
    scores = find_heads(mini, task, n_prompts=40, n_random=0, progress=False)
    assert scores.provenance.warnings == ()
    best = scores.top(1)[0]
    assert scores[best] > 0.1
    assert all(scores.labels["evidence"][head.layer][head.head] for head in scores.top(8))
