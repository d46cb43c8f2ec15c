"""In-context-learning score: a model without it, a circuit that has nothing else, and its control."""

import math

import pytest
import torch
from torch import Tensor

import interp
from interp.analyzers.in_context import _foreign, in_context_heads, in_context_score
from interp.errors import InputError
from interp.loss_curve import LossCurve
from interp.model.model import Model
from interp.stimuli import repeated_tokens
from tests.attention.models import ids, loaded
from tests.hand_weighted import induction_model, letters_tokenizer
from tests.tiny_models import tiny_llama


@pytest.fixture(scope="module")
def circuit(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return interp.load(induction_model(), letters_tokenizer(tmp_path_factory.mktemp("letters")))


@pytest.fixture(scope="module")
def documents(circuit: Model) -> Tensor:
    return repeated_tokens(circuit, seed=0, length=30, copies=2)


def test_a_model_that_predicts_nothing_has_score_zero() -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.hf.get_output_embeddings().weight.zero_()
    tokens = torch.randint(3, 60, (4, 40), generator=torch.Generator().manual_seed(0))
    found = in_context_score(model, tokens, early=5, late=30)
    assert found.score == pytest.approx(0, abs=1e-6) and found.control == pytest.approx(0, abs=1e-6)
    assert found.loss.mean() == pytest.approx(math.log(60), abs=1e-5)


def test_the_control_sees_as_many_own_tokens_as_the_early_position() -> None:
    """Position 2 is predicted from three tokens; so is position 5 from its own three, with others' before them."""
    tokens = torch.stack([torch.arange(7), torch.arange(10, 17)])
    assert _foreign(tokens, 2, 5).tolist() == [[0, 11, 12, 3, 4, 5, 6], [10, 1, 2, 13, 14, 15, 16]]


def test_the_circuit_set_by_hand_learns_in_context_and_its_control_does_not(circuit: Model, documents: Tensor) -> None:
    found = in_context_score(circuit, documents, early=10, late=50)
    assert found.score < -1 and found.ci_high < -1
    # Without the first copy there is nothing to gain: what foreign documents suggest is wrong.
    assert found.control > -0.5
    assert found.loss[40:].mean() < found.loss[:30].mean() - 1


def test_its_two_heads_carry_it(circuit: Model, documents: Tensor) -> None:
    found = in_context_heads(circuit, documents, early=10, late=50, progress=False)
    whole = in_context_score(circuit, documents, early=10, late=50)
    assert found["L1H1"] == pytest.approx(-whole.score, abs=0.2) and found["L0H0"] > 1
    assert found["L0H1"] == pytest.approx(0, abs=1e-6) and found["L1H0"] == pytest.approx(0, abs=1e-6)
    assert found.notes["score"] == pytest.approx(whole.score)
    assert found.columns["layer mean"][1, 0] == pytest.approx(found["L1H1"])


def test_with_patterns_kept_only_what_a_head_writes_counts(circuit: Model, documents: Tensor) -> None:
    """The previous-token head serves the keys of the induction head, which itself raises logits.

    No logit reads what the former writes; without it the final norm only leaves more to the others.
    """
    options = {"early": 10, "late": 50, "progress": False}
    full = in_context_heads(circuit, documents, **options)
    kept = in_context_heads(circuit, documents, **options, ablation="pattern-preserving", batch_size=3)
    assert kept["L0H0"] < 0 and full["L0H0"] > 1
    assert kept["L1H1"] == pytest.approx(full["L1H1"], abs=1e-5)
    assert kept.provenance.parameters["ablation"] == "pattern-preserving"


@pytest.mark.usefixtures("unchecked_annotations")
def test_an_unknown_ablation_is_refused(circuit: Model, documents: Tensor) -> None:
    with pytest.raises(InputError, match="no ablation 'zero'. Choose from full, pattern-preserving"):
        in_context_heads(circuit, documents, early=1, late=2, ablation="zero")  # type: ignore[arg-type]


def test_batch_size_and_saving_change_nothing(circuit: Model, documents: Tensor, tmp_path: object) -> None:
    one, many = (in_context_score(circuit, documents, early=3, late=40, batch_size=n) for n in (1, 8))
    torch.testing.assert_close(one.loss, many.loss, atol=1e-6, rtol=0)
    again = interp.load_result(many.save(f"{tmp_path}/curve"))
    assert isinstance(again, LossCurve)
    assert again.score == many.score and len(again.to_frame()) == 41 and "control" in repr(again)


def test_the_loss_is_that_of_the_model(circuit: Model, documents: Tensor) -> None:
    found = in_context_score(circuit, documents, early=3, late=40)
    logits = circuit(documents).detach().log_softmax(-1)
    expected = -torch.stack([logits[b, 7, documents[b, 8]] for b in range(len(documents))]).mean()
    assert found.loss[7] == pytest.approx(float(expected), abs=1e-5)


def test_unusable_documents_are_refused(circuit: Model, documents: Tensor) -> None:
    with pytest.raises(InputError, match="needs at least 2 of at least 102"):
        in_context_score(circuit, documents, early=50, late=100)
    with pytest.raises(InputError, match="1 documents"):
        in_context_score(circuit, documents[:1], early=5, late=20)
    with pytest.raises(InputError, match="expected 0 <= early < late"):
        in_context_score(circuit, documents, early=20, late=20)
    with pytest.raises(InputError, match="batch_size=0; expected at least 1"):
        in_context_score(circuit, documents, early=5, late=20, batch_size=0)


@pytest.mark.parametrize("name", ["bert", "t5", "vit"])
def test_models_that_predict_no_next_token_are_refused(name: str) -> None:
    for measure in (in_context_score, in_context_heads):
        with pytest.raises(InputError, match=f"{name} does not predict the next token of a text"):
            measure(loaded(name), ids(), early=1, late=5)
