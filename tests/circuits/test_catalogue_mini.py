"""Heads of the embedded models: what the catalogue calls them is what the model loses without them.

Nothing here depends on which heads of today's weights these are. Random controls are matched by layer: as many other
heads of the same layers. Where a layer has too few, because nearly all of its heads are of the type (in today's models
all heads of layer 1 are induction heads), the missing ones come from other layers.
"""

import json
from collections import Counter
from collections.abc import Sequence
from random import Random
from statistics import median

import pytest
import torch

import interp
from circuits.catalogue import catalogue
from circuits.groups import MeanAblation
from circuits.patching import attention_heads
from circuits.retrieval import Needle, needle_heads, needle_prompts
from circuits.study import Study
from circuits.tasks import Task, get_task
from interp.analyzers.in_context import in_context_heads
from interp.head_catalogue import HeadCatalogue
from interp.heads import HeadRef
from interp.interventions.scale_heads import ScaleHeads
from interp.model.model import Model
from interp.paths import data_dir
from interp.results import HeadScores
from interp.statistics import rank_correlation
from interp.stimuli import repeated_tokens

N_RANDOM = 5
CIRCUIT = ("previous-token", "induction")


@pytest.fixture(scope="module", params=("mini", "mini-b"))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name: str) -> Model:
    return interp.load(name)


@pytest.fixture(scope="module")
def found(model: Model) -> HeadCatalogue:
    return catalogue(model, types=[*CIRCUIT, "sink"], progress=False)


def of_circuit(found: HeadCatalogue) -> set[HeadRef]:
    return {head for kind in CIRCUIT for head in found.heads_of(kind)}


def controls(model: Model, heads: Sequence[HeadRef], spared: set[HeadRef]) -> list[list[HeadRef]]:
    """Random groups with as many heads in each layer, none of them `spared`; what a layer lacks comes from others."""
    random, groups = Random(0), list[list[HeadRef]]()
    others = [head for head in attention_heads(model) if head not in spared]
    for _ in range(N_RANDOM):
        group: list[HeadRef] = []
        for layer, count in sorted(Counter(head.layer for head in heads).items()):
            inside = [head for head in others if head.layer == layer]
            group += random.sample(inside, min(count, len(inside)))
        elsewhere = [head for head in others if head not in group]
        groups.append(group + random.sample(elsewhere, len(heads) - len(group)))
    return groups


def check_that_the_task_needs(model: Model, task: Task, heads: Sequence[HeadRef], spared: set[HeadRef]) -> None:
    """Without the heads the task is done worse than without any control, and less than half as well as without most."""
    study = Study.of(model, task, n_prompts=40, seed=0, top=None, batch_size=20, progress=False)
    ablation = MeanAblation(study)
    without = ablation.performance(heads).accuracy
    without_random = [ablation.performance(group).accuracy for group in controls(model, heads, spared)]
    assert without < min(without_random)
    assert without < 0.5 * median(without_random)


def test_both_kinds_of_heads_are_found(found: HeadCatalogue) -> None:
    assert all(found.heads_of(kind) for kind in CIRCUIT)
    assert found.measures["induction"].max() > 0.7
    earliest = min(head.layer for head in found.heads_of("previous-token"))
    assert all(head.layer > earliest for head in found.heads_of("induction"))


@pytest.mark.parametrize("kind", CIRCUIT)
def test_repetition_needs_the_heads_of_either_kind(model: Model, found: HeadCatalogue, kind: str) -> None:
    check_that_the_task_needs(model, get_task("induction"), found.heads_of(kind), of_circuit(found))


def test_induction_heads_find_nothing_without_the_previous_token_heads(model: Model, found: HeadCatalogue) -> None:
    previous, inductive = (found.heads_of(kind) for kind in CIRCUIT)

    def prefix_matching(ablated: Sequence[HeadRef]) -> float:
        gates = torch.ones(model.n_layers, model.n_heads)
        for head in ablated:
            gates[head.layer, head.head] = 0
        with interp.watch(model, ScaleHeads(gates)):
            scores = interp.scan(model, repeated_tokens(model, seed=0), ["induction"], progress=False)["induction"]
        assert isinstance(scores, HeadScores)
        return sum(scores[head] for head in inductive) / len(inductive)

    whole, without = prefix_matching([]), prefix_matching(previous)
    without_random = [prefix_matching(group) for group in controls(model, previous, of_circuit(found))]
    assert without < 0.5 * whole
    assert without < min(without_random) and median(without_random) > 0.8 * whole


def test_previous_token_heads_serve_patterns_and_not_logits(model: Model, found: HeadCatalogue) -> None:
    """With all patterns kept as they are, hardly anything is lost with the head that makes repetition predictable."""
    documents = repeated_tokens(model, seed=0, length=25, copies=2)
    options = {"early": 10, "late": 40, "progress": False}
    full, kept = (
        in_context_heads(model, documents, **options, ablation=ablation) for ablation in ("full", "pattern-preserving")
    )
    best = max(found.heads_of("previous-token"), key=lambda head: full[head])
    assert full.notes["score"] < -1 and full[best] > 1
    assert abs(kept[best]) < 0.2 * full[best]


def test_retrieval_heads_are_those_whose_ablation_breaks_the_needle_task(model: Model) -> None:
    task = get_task("needle", length=(80, 120))
    people = ("Mary", "John", "Sarah", "Tom", "Emily", "Paul")
    hay = " ".join(f"{name} lives in {city}. {name} has a dog." for name in people for city in ("Paris", "Oslo"))
    needles = [
        Needle(
            text=f"The {kind} of {name} is {code}.",
            question=f"What is the {kind} of {name}?",
            answer=code,
        )
        for kind, name, code in (
            ("secret code", "Kevin", "river stone candle"),
            ("password", "Laura", "tiger bridge piano"),
            ("magic word", "Peter", "window camera garden"),
        )
    ]
    template = "{context}\nQuestion: {question}\nAnswer: {answer}"
    prompts = needle_prompts(model, hay, needles, lengths=[90], depths=[0.0, 0.5, 1.0], template=template)
    scores = needle_heads(model, prompts, progress=False)
    retrieval = [head for head in attention_heads(model) if scores[head] > max(0.1, float(scores.chance or 0))]
    heads = [head for head in scores.top(8) if head in retrieval]
    assert heads
    check_that_the_task_needs(model, task, heads, set(retrieval))


def test_sinks_are_those_of_the_card(name: str, found: HeadCatalogue) -> None:
    """The card reads training documents, the catalogue text that the model writes itself."""
    metrics = json.loads((data_dir() / "models" / name / "metrics.json").read_text(encoding="utf-8"))
    card = torch.tensor(metrics["first_token_mass"], dtype=torch.float64)
    sinks = found.scores[found.types.index("sink")]
    assert rank_correlation(sinks, card) > 0.7
    called = set(found.heads_of("sink", "yes", "uncertain"))
    for head in found.heads:
        mass = float(card[head.layer, head.head])
        assert not (mass > 0.6 and head not in called), (head.label, mass)
        assert not (mass < 0.1 and head in called), (head.label, mass)
