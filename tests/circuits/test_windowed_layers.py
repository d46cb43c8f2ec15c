"""Studies of a model whose layers see differently far measure every head against the chance level of its own layer."""

import pytest
import torch
from pytest import MonkeyPatch
from transformers import PreTrainedTokenizerBase

import interp
from circuits.catalogue import catalogue
from circuits.effects import HeadEffects
from circuits.emergence import measure_emergence
from circuits.head_evidence import EvidenceTable
from circuits.retrieval import needle, needle_heads, random_needle_prompts, razor_heads
from circuits.retrieval.needle import Scoring
from circuits.study import Study
from interp.comparison import compare_models
from interp.model.model import Model
from interp.results import HeadScores
from interp.stimuli import repeated_tokens
from tests.tiny_models import tiny_windowed


@pytest.fixture(scope="module")
def model(word_tokenizer: PreTrainedTokenizerBase) -> Model:
    return tiny_windowed(word_tokenizer)


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(4, 60, (8, 40), generator=torch.Generator().manual_seed(0))


def scanned(model: Model, tokens: torch.Tensor, name: str) -> HeadScores:
    found = interp.scan(model, tokens, [name], progress=False)[name]
    assert isinstance(found, HeadScores) and isinstance(found.chance, torch.Tensor)
    return found


def test_the_catalogue(model: Model, tokens: torch.Tensor) -> None:
    """Ten tokens are all that a window of eight sees: there no head can be local for a reason."""
    found = catalogue(model, tokens, types=["local", "previous-token"], progress=False)
    for index, name in enumerate(("previous-token", "local-mass")):
        torch.testing.assert_close(found.chance[index], scanned(model, tokens, name).chances)
    assert bool((found.chance[1, 0] == 1).all()) and not found.counts()["local"][0]
    assert bool((found.chance[1, 1] < 0.6).all())


def test_delimiters_that_are_not_there(model: Model, tokens: torch.Tensor) -> None:
    marks = [model.tokenizer.convert_tokens_to_ids(mark) for mark in (".", ",")]
    without = torch.where(torch.isin(tokens, torch.tensor(marks)), 50, tokens)
    found = catalogue(model, without, types=["delimiter", "local"], progress=False)
    assert found.types == ("local",) and "no full stops" in found.notes["left out"]["delimiter"]
    without[:, 3] = marks[0]
    assert "delimiter" in catalogue(model, without, types=["delimiter"], progress=False).types


def test_razor_attention(word_tokenizer: PreTrainedTokenizerBase) -> None:
    model = tiny_windowed(word_tokenizer, window=20)
    found = razor_heads(model, block=12)
    expected = scanned(model, repeated_tokens(model, seed=0, length=12, copies=4, n_examples=1), "induction")
    torch.testing.assert_close(found.chances, expected.chances, equal_nan=True)
    assert 0 < found.notes["chance echo"] < 0.2


def test_a_block_beyond_the_window_leaves_its_layer_unmeasured(model: Model) -> None:
    found = razor_heads(model, block=12, induction_share=0.5)
    assert [head.layer for head in found.unmeasured] == [0] * 4 and isinstance(found.chance, float)
    assert found.columns["retrieval"].sum(-1).tolist() == [0, 2]


@pytest.mark.parametrize("scoring", ["teacher-forced", "decode"])
def test_needles_beyond_the_window_have_no_chance(model: Model, scoring: Scoring, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(needle, "ANSWERED", -1)  # whatever this random model answers is counted
    prompts = random_needle_prompts(model, lengths=[60], depths=[0.0, 0.5], n_needles=2, cue=3, answer=5)
    found = needle_heads(model, prompts, scoring=scoring, max_new_tokens=5, progress=False)
    assert not found.chances[0].any() and not found.scores[0].any()
    if scoring == "teacher-forced":
        expected = sum(1 / (60 + step) for step in range(5)) / 5
        assert found.chances[1].tolist() == pytest.approx([expected] * 4)
        assert found.notes["chance soft"] == pytest.approx(expected / 2)


def test_evidence_on_heads(model: Model) -> None:
    study = Study.of(model, "induction", n_prompts=4, seed=0, top=None, batch_size=4, progress=False)
    every = torch.ones(2, 4)
    effects = HeadEffects(
        noising=every, denoising=every, effect=every, ci_low=every, ci_high=every, gap=1.0, gap_low=1.0, gap_high=1.0
    )
    table = EvidenceTable.gather(study, effects)
    chances = table.types["previous-token"].chances
    for layer in (0, 1):
        (looks,) = [look for look in table._of(layer, 2).random_types if look.label == "previous-token"]
        assert looks.chance == pytest.approx(float(chances[layer, 2]))
    assert chances[0, 2] > 1.5 * chances[1, 2]
    assert table.chances()["type chance"]["previous-token"] == pytest.approx(float(chances.mean()))


def test_comparison_and_emergence(model: Model, tokens: torch.Tensor) -> None:
    same = compare_models(model, model, tokens, ["previous-token"], n_parts=8, progress=False)["previous-token"]
    assert same.notes["changes"] == {"unchanged": 8}
    curves = measure_emergence({0: model.hf, 1: model.hf}, ["previous-token"], text=tokens, progress=False)
    expected = scanned(model, tokens, "previous-token").chances.mean()
    assert curves["previous-token"].chance == pytest.approx(float(expected))
