"""Known answers of `find_heads`: a circuit set by hand, and the embedded model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerBase

import interp
from circuits.find_heads import find_heads
from circuits.head_types import head_types
from circuits.tasks.induction import Induction
from interp.errors import AnalysisWarning, InputError
from interp.interventions.scale_heads import ScaleHeads
from interp.model.model import Model
from interp.results import HeadScores
from interp.stimuli import repeated_tokens
from tests.hand_weighted import INDUCTION_HEAD, PREVIOUS_TOKEN_HEAD
from tests.tiny_models import tiny_llama


@pytest.fixture(scope="module")
def found(circuit: Model) -> HeadScores:
    return find_heads(circuit, "induction", n_prompts=40, progress=False)


def test_exactly_the_two_heads_are_found(found: HeadScores) -> None:
    assert found["L1H1"] == pytest.approx(1, abs=1e-4)
    # Without a match the induction head looks everywhere, and so at the answer a little: the effect is not quite one.
    assert found["L0H0"] == pytest.approx(1, abs=0.05)
    others = found.scores.clone()
    others[PREVIOUS_TOKEN_HEAD] = others[INDUCTION_HEAD] = 0
    assert others.abs().max() < 1e-6
    assert {head.label for head in found.top(2)} == {"L0H0", "L1H1"}
    assert found.ci_low is not None and min(found.ci_low[0, 0], found.ci_low[1, 1]) > 0.9


def test_their_roles_and_nobody_elses(found: HeadScores) -> None:
    assert found.labels["role"] == (("previous-token", "other"), ("other", "induction"))
    assert found.labels["evidence"][0][0].startswith("previous-token 1.00 (chance 0.04)")


def test_type_scores_of_the_two_heads(found: HeadScores, circuit: Model) -> None:
    assert found.columns["previous-token"][PREVIOUS_TOKEN_HEAD] > 0.999
    assert found.columns["induction"][INDUCTION_HEAD] > 0.999
    assert found.columns["duplicate-token"][INDUCTION_HEAD] < 1e-3
    gates = torch.ones(2, 2)
    gates[PREVIOUS_TOKEN_HEAD] = 0
    with interp.watch(circuit, ScaleHeads(gates)):
        without = head_types(circuit, seed=0, progress=False)["induction"]
    assert without["L1H1"] == pytest.approx(float(without.chance), abs=1e-3)


def test_only_the_induction_head_writes_the_answer(found: HeadScores) -> None:
    direct = found.columns["direct logit"]
    assert direct[INDUCTION_HEAD] == pytest.approx(found.notes["clean"]["metric"], rel=1e-4)
    assert direct[0].abs().max() < 1e-4


def test_the_two_heads_are_the_task(circuit: Model) -> None:
    group = find_heads(circuit, "induction", n_prompts=40, top=2, progress=False).notes["group"]
    assert set(group["heads"]) == {"L0H0", "L1H1"}
    assert group["ablated"]["accuracy"] < 0.1
    assert group["kept"]["accuracy"] == 1
    assert min(group["random ablated"]["accuracy"]) == 1
    assert max(group["random kept"]["accuracy"]) < 0.1


def test_replacing_what_follows_touches_the_induction_head_only(circuit: Model) -> None:
    """The previous-token head says the same of the token before, whatever follows it."""
    scores = find_heads(circuit, Induction(corruption="successor"), n_prompts=20, n_random=0, progress=False)
    assert scores["L1H1"] == pytest.approx(1, abs=1e-4)
    assert scores["L0H0"] == pytest.approx(0, abs=1e-6)
    assert scores.labels["role"][0][0] == "previous-token"


def test_attribution_confirms_the_highest_heads_exactly(circuit: Model, found: HeadScores) -> None:
    scores = find_heads(circuit, "induction", n_prompts=40, method="attribution", top=1, progress=False)
    assert scores.notes["method"] == "attribution"
    assert int(scores.columns["exact"].sum()) == 2
    for head in scores.heads:
        if scores.columns["exact"][head.layer, head.head]:
            assert scores[head] == pytest.approx(found[head], abs=1e-5)


def test_a_result_can_be_saved_and_says_where_it_came_from(found: HeadScores, tmp_path: Path) -> None:
    again = interp.load_result(found.save(tmp_path / "heads"))
    assert isinstance(again, HeadScores)
    torch.testing.assert_close(again.scores, found.scores)
    assert again.labels == found.labels
    provenance = again.provenance
    assert provenance.seed == 0 and provenance.prepend_bos and provenance.prompt_hash
    assert provenance.parameters["method"] == "exact" and provenance.parameters["n_prompts"] == 40
    assert set(found.to_frame().columns) >= {"noising", "denoising", "END->A1+1", "role", "evidence", "layer mean"}


def test_the_same_seed_gives_the_same_numbers(word_tokenizer: PreTrainedTokenizerBase) -> None:
    model = tiny_llama(tokenizer=word_tokenizer)
    with pytest.warns(AnalysisWarning):
        first, same, other = (find_heads(model, n_prompts=8, n_random=2, seed=s, progress=False) for s in (0, 0, 1))
    assert torch.equal(first.scores, same.scores) and torch.equal(first.ci_low, same.ci_low)
    assert first.notes == same.notes
    assert not torch.equal(first.scores, other.scores)
    assert first.provenance.prompt_hash != other.provenance.prompt_hash


def test_a_model_that_cannot_do_the_task_is_called_out(word_tokenizer: PreTrainedTokenizerBase) -> None:
    model = tiny_llama(tokenizer=word_tokenizer)
    with pytest.warns(AnalysisWarning) as caught:
        scores = find_heads(model, "induction", n_prompts=8, n_random=1, progress=False)
    assert any("no better than chance" in str(warning.message) for warning in caught)
    assert tuple(str(warning.message) for warning in caught) == scores.provenance.warnings


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "chess"}, "Unknown task 'chess'"),
        ({"method": "guess"}, "Unknown method 'guess'"),
        ({"n_prompts": 0}, "n_prompts=0"),
        ({"top": 0}, "top=0"),
        ({"task": "ioi"}, "names are a single token"),
    ],
)
def test_unusable_arguments_are_refused(circuit: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_heads(circuit, **({"task": "induction", "progress": False} | options))


def test_models_that_do_not_continue_text_are_refused(word_tokenizer: PreTrainedTokenizerBase) -> None:
    config = BertConfig(
        vocab_size=len(word_tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    with pytest.raises(InputError, match="not a language model"):
        find_heads(interp.load(BertForMaskedLM(config), word_tokenizer))
    with pytest.raises(InputError, match="no tokenizer"):
        find_heads(tiny_llama())


def test_repeated_tokens_fit_the_context(circuit: Model) -> None:
    tokens = repeated_tokens(circuit, seed=0)
    assert tokens.shape == (10, 101)
    assert (tokens[:, 0] == 0).all()
    assert torch.equal(tokens[:, 1:26], tokens[:, 76:])
    assert all(len(set(row[1:26].tolist())) == 25 for row in tokens)
    assert torch.equal(repeated_tokens(circuit, seed=0), tokens)
