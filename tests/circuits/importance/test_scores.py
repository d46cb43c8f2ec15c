"""The result of `head_importance`: columns, normalisation, intervals, controls, agreement, refusals."""

import math
from typing import Literal

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from circuits.importance.gates import gate_slopes, official_importance
from circuits.importance.objective import TextObjective
from circuits.importance.scores import head_importance, measure_importance, objective_of
from interp.errors import AnalysisWarning, InputError
from interp.model.model import Model
from interp.results import HeadScores
from interp.statistics import layer_controls
from tests.tiny_models import tiny_llama


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_llama()


def tokens(n: int = 6) -> Tensor:
    return torch.randint(3, 60, (n, 9), generator=torch.Generator().manual_seed(5))


def measure(model: Model, **options: object) -> HeadScores:
    with pytest.warns(AnalysisWarning, match="no better than chance on text"):
        return head_importance(model, text=tokens(), progress=False, **options)  # type: ignore[arg-type]


def test_columns_are_means_over_examples(model: Model) -> None:
    scores = measure(model, ablations=("zero", "uniform"))
    slopes = gate_slopes(TextObjective(model, tokens(), batch_size=6, progress=False, seed=0))
    torch.testing.assert_close(scores.columns["absolute"], slopes.signed.abs().mean(0), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(scores.columns["signed"], slopes.signed.mean(0), atol=1e-6, rtol=1e-5)
    official = official_importance(slopes.by_position.mean(0), slopes.n_tokens.float().mean())
    torch.testing.assert_close(scores.columns["official"], official, atol=1e-6, rtol=1e-5)
    assert {"zero", "uniform"} < set(scores.columns)
    torch.testing.assert_close(scores.scores.norm(dim=-1), torch.ones(2))
    norms = scores.columns["absolute"].norm(dim=-1, keepdim=True)
    torch.testing.assert_close(scores.scores, scores.columns["absolute"] / norms)
    mean, rank = layer_controls(scores.scores.double())
    torch.testing.assert_close(scores.columns["layer mean"], mean.float())
    torch.testing.assert_close(scores.columns["layer rank"], rank.float())


def test_every_example_has_its_own_numbers(model: Model) -> None:
    scores = measure(model, ablations=("zero",))
    found = measure_importance(objective_of(model, text=tokens(), progress=False), ["zero"])
    frame = found.to_frame()
    assert len(frame) == 6 * scores.scores.numel() and frame["metric"].nunique() == 6
    means = frame.groupby("label")[["signed", "absolute", "zero"]].mean()
    for name, column in means.items():
        for label, value in column.items():
            layer, head = scores.heads[[head.label for head in scores.heads].index(str(label))][:2]
            assert value == pytest.approx(float(scores.columns[str(name)][layer, head]), abs=1e-6)


@pytest.mark.parametrize("method", ["absolute", "signed", "official", "zero"])
def test_the_method_chooses_the_score(model: Model, method: str) -> None:
    scores = measure(model, method=method, normalise_layers=False)
    assert torch.equal(scores.scores, scores.columns[method])
    assert scores.unit == "nats per token" and scores.signed == (method in ("signed", "zero"))
    assert scores.ci_low is not None and scores.ci_high is not None
    assert (scores.ci_low < scores.scores).all() and (scores.scores < scores.ci_high).all()


def test_ablations_are_never_normalised(model: Model) -> None:
    scores = measure(model, method="zero")
    assert torch.equal(scores.scores, scores.columns["zero"]) and scores.unit == "nats per token"


def test_notes_say_what_was_measured_and_whether_gradients_agree(model: Model) -> None:
    scores = measure(model)
    notes = scores.notes
    assert notes["objective"] == "text" and notes["examples"] == 6
    assert notes["chance"]["metric"] == pytest.approx(-math.log(60))
    assert notes["chance"]["accuracy"] == pytest.approx(1 / 60)
    assert set(notes["agreement"]) == {"zero"} and -1 <= notes["agreement"]["zero"]["signed"] <= 1
    assert scores.provenance.warnings and scores.provenance.parameters["ablations"] == ("zero",)


def test_one_example_has_no_interval(model: Model) -> None:
    with pytest.warns(AnalysisWarning):
        scores = head_importance(model, text=tokens(1), ablations=(), progress=False)
    assert scores.ci_low is None and scores.ci_high is None


def test_the_seed_decides_the_interval(model: Model) -> None:
    first, same, other = (measure(model, ablations=(), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.ci_low, same.ci_low)  # type: ignore[arg-type]
    assert not torch.equal(first.ci_low, other.ci_low)  # type: ignore[arg-type]
    assert torch.equal(first.scores, other.scores)


@pytest.mark.parametrize("kind", ["task", "text"])
def test_padding_and_batches_change_no_number(word_tokenizer: PreTrainedTokenizerBase, kind: str) -> None:
    """Grouped keys, in float64, where only the definitions are compared."""
    grouped = tiny_llama(tokenizer=word_tokenizer) if kind == "task" else tiny_llama()
    grouped.hf.double()
    rows = [row[: 4 + start].tolist() for start, row in enumerate(tokens())]

    def found(side: Literal["left", "right"], batch_size: int) -> HeadScores:
        options = {"n_prompts": 5, "ablations": ("zero", "mean", "uniform"), "progress": False}
        text = None if kind == "task" else grouped.pad(rows, padding_side=side)
        with pytest.warns(AnalysisWarning, match="no better than chance"):
            return head_importance(grouped, text=text, batch_size=batch_size, **options)  # type: ignore[arg-type]

    expected = found("right", 1)
    for side, batch_size in (("right", 64), ("left", 4)):
        again = found(side, batch_size)
        torch.testing.assert_close(again.scores, expected.scores, atol=1e-6, rtol=0)
        for name, column in expected.columns.items():
            torch.testing.assert_close(again.columns[name], column, atol=1e-6, rtol=0, msg=name)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "size"}, "Unknown method 'size'; choose from absolute, signed, official, zero"),
        ({"method": "mean"}, "name 'mean' among the ablations"),
        ({"ablations": ("knockout",)}, "Unknown ablation 'knockout'"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_what_makes_no_sense_is_refused(model: Model, options: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        head_importance(model, text=tokens(), progress=False, **options)  # type: ignore[arg-type]
