"""`find_heads` on the embedded model: the heads it names are the task, whatever prompts it saw."""

import pytest

import interp
from circuits.effects import rank_correlation
from circuits.find_heads import find_heads
from circuits.groups import MeanAblation
from circuits.study import Study
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


def test_without_the_highest_heads_the_task_is_gone(ioi: HeadScores) -> None:
    group = ioi.notes["group"]
    assert group["ablated"]["accuracy"] < 0.65  # chance is 0.5


def test_without_random_heads_of_the_same_layers_it_is_not(ioi: HeadScores) -> None:
    accuracies = ioi.notes["group"]["random ablated"]["accuracy"]
    assert sum(accuracies) / len(accuracies) > 0.85
    assert min(accuracies) > ioi.notes["group"]["ablated"]["accuracy"]


def test_the_highest_heads_alone_beat_random_heads_of_the_same_layers(ioi: HeadScores) -> None:
    group = ioi.notes["group"]
    assert group["kept"]["accuracy"] > max(group["random kept"]["accuracy"]) + 0.1
    assert group["kept"]["metric"] > max(group["random kept"]["metric"])


def test_the_higher_half_of_the_heads_does_most_of_it(mini: Model, ioi: HeadScores) -> None:
    study = Study.of(mini, "ioi", n_prompts=N_PROMPTS, seed=0, top=None, batch_size=64, progress=False)
    kept = MeanAblation(study).performance(ioi.top()[len(ioi.heads) // 2 :])
    assert kept.accuracy > 0.85
    assert kept.metric > 0.6 * ioi.notes["clean"]["metric"]


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
    assert {scores.labels["role"][head.layer][head.head] for head in scores.top(8)} != {"other"}
