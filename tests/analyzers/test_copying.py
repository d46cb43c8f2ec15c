"""Copying by weights and by direct logits: known matrices, dense reimplementations, the circuit set by hand."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import interp
from interp.analyzers.copying import (
    copying_from_logits,
    copying_from_weights,
    eigenvalue_score,
    null_scores,
    ov_circuits,
    raised_share,
)
from interp.analyzers.head_weights import HeadWeights, head_weights
from interp.errors import InputError, ModelNotSupported
from interp.model.model import Model
from interp.stimuli import repeated_tokens
from tests.architectures import ARCHITECTURES
from tests.hand_weighted import induction_model, letters_tokenizer
from tests.tiny_models import tiny_llama

BUILD = {architecture.name: architecture.build for architecture in ARCHITECTURES}


@pytest.fixture(scope="module")
def circuit(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return interp.load(induction_model(), letters_tokenizer(tmp_path_factory.mktemp("letters")))


def test_eigenvalue_score_of_known_matrices() -> None:
    identity = torch.eye(6, dtype=torch.float64)
    quarter_turns = torch.block_diag(*[torch.tensor([[0.0, -1.0], [1.0, 0.0]])] * 3).double()
    matrices = torch.stack([identity, -identity, quarter_turns, torch.zeros(6, 6)])
    torch.testing.assert_close(eigenvalue_score(matrices), torch.tensor([1.0, -1.0, 0.0, 0.0]).double())


def weights_of(value: Tensor, output: Tensor, embedding: Tensor, unembedding: Tensor) -> HeadWeights:
    """A head with these weights, which looks at nothing."""
    head = value[None, None]
    return HeadWeights(
        layers=(0,), W_Q=torch.zeros_like(head), W_K=torch.zeros_like(head), W_V=head, W_O=output[None, None],
        W_E=embedding, W_U=unembedding, warnings=(),
    )  # fmt: skip


QUARTER_TURN = torch.block_diag(*[torch.tensor([[0.0, -1.0], [1.0, 0.0]])] * 3)


@pytest.mark.parametrize(
    ("output", "expected"), [(torch.eye(6), 1.0), (-torch.eye(6), -1.0), (QUARTER_TURN, 0.0), (torch.zeros(6, 6), 0.0)]
)
def test_copying_of_known_heads_on_orthonormal_embeddings(output: Tensor, expected: float) -> None:
    embedding = torch.linalg.qr(torch.randn(9, 6))[0]  # 9 tokens
    circuits = ov_circuits(weights_of(torch.eye(6), output, embedding, embedding.T))
    assert float(eigenvalue_score(circuits)) == pytest.approx(expected, abs=1e-6)


def test_the_eigenvalues_of_the_vocabulary_matrix_without_building_it() -> None:
    """Random weights, for which ``W_E W_U`` in place of ``W_U W_E`` has other eigenvalues, or no shape at all."""
    value, output, embedding, unembedding = (
        torch.randn(shape).double() for shape in ((8, 3), (3, 8), (12, 8), (8, 12))
    )
    dense = torch.linalg.eigvals(embedding @ value @ output @ unembedding)
    found = torch.linalg.eigvals(ov_circuits(weights_of(value, output, embedding, unembedding))[0, 0])
    largest = dense[dense.abs().argsort(descending=True)[:3]]
    assert dense.abs().sort().values[:-3].max() < 1e-12
    # The same three numbers in some order: equal sums of powers.
    for power in (1, 2, 3):
        torch.testing.assert_close((found**power).sum(), (largest**power).sum(), atol=1e-11, rtol=1e-13)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma"])
def test_circuits_have_the_eigenvalues_of_the_dense_vocabulary_matrix(name: str) -> None:
    """Random weights, so that a swapped W_U and W_E shows; norms' gains are drawn too."""
    hf = BUILD[name]()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in hf.named_parameters():
            if parameter.dim() == 1 and "bias" not in key:
                parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
    weights = head_weights(interp.load(hf))
    dense = weights.W_E.double() @ weights.W_V.double() @ weights.W_O.double() @ weights.W_U.double()
    torch.testing.assert_close(eigenvalue_score(ov_circuits(weights)), _dense_score(dense), atol=1e-6, rtol=0)


def _dense_score(matrix: Tensor) -> Tensor:
    eigenvalues = torch.linalg.eigvals(matrix)
    return eigenvalues.real.sum(-1) / eigenvalues.abs().sum(-1)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma"])
def test_folded_weights_are_those_that_transformer_lens_folds(name: str) -> None:
    """On a copy: folding changes weights. Its OV and unembedding agree up to what no probability notices."""
    hf = BUILD[name]()
    ours = head_weights(interp.load(hf))
    folded = interp.load(BUILD[name]()).bridge
    folded.enable_compatibility_mode(no_processing=False)
    theirs = folded.OV.A.float() @ folded.OV.B.float()
    read = torch.randn(7, hf.config.hidden_size, generator=torch.Generator().manual_seed(0))
    read = read - read.mean(-1, keepdim=True) if name == "gpt2" else read
    torch.testing.assert_close(read @ (ours.W_V @ ours.W_O), read @ theirs, atol=1e-4, rtol=1e-4)
    unembedded = read @ folded.W_U.float()
    torch.testing.assert_close(read @ ours.W_U, unembedded - unembedded.mean(-1, keepdim=True), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["bert", "gemma2", "olmo2", "t5", "deepseek_v3"])
def test_models_whose_weights_do_not_add_up_are_refused(name: str) -> None:
    with pytest.raises(ModelNotSupported, match="Use scores from attention instead|Attention can still be read"):
        head_weights(interp.load(BUILD[name]()))


def test_random_matrices_of_the_same_spectrum_score_around_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    positive = torch.randn(1, 1, 24, 24, generator=generator, dtype=torch.float64)
    positive = positive @ positive.mT
    assert eigenvalue_score(positive).item() == pytest.approx(1)
    null = null_scores(positive, 200, seed=0)
    assert abs(null.mean()) < 3 * null.std() / 200**0.5 and null.abs().max() < 0.6
    assert torch.equal(null, null_scores(positive, 200, seed=0))


def test_raised_share_by_hand() -> None:
    logits = torch.tensor([[3.0, 0.0, 0.0, 0.0], [0.0, 2.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    own, other = raised_share(logits, torch.tensor([0, 1, 0]))
    # Row 2: both raised by 1, so r = 1 of 2: 4 / 3 - 1; the others have 1/3, -1, -1.
    torch.testing.assert_close(own, torch.tensor([1.0, 1 / 3, torch.nan]), equal_nan=True)
    torch.testing.assert_close(other[:2], torch.tensor([-1.0, (1 / 3 - 2) / 3]))
    assert raised_share(logits[0], torch.tensor(1))[0] == -1


def test_the_circuit_set_by_hand_copies_in_its_induction_head_alone(circuit: Model) -> None:
    by_weights, by_logits = copying_from_weights(circuit), copying_from_logits(circuit)
    assert by_weights["L1H1"] == pytest.approx(1, abs=1e-6)
    assert by_weights["L0H0"] == by_weights["L0H1"] == by_weights["L1H0"] == 0
    assert by_logits["L1H1"] == pytest.approx(1, abs=1e-5)
    assert {head.label for head in by_logits.unmeasured} == {"L0H0", "L0H1", "L1H0"}
    assert isinstance(by_logits.chance, Tensor) and by_logits.chance[1, 1] == pytest.approx(-1, abs=1e-5)


def test_direct_logits_against_a_loop_over_full_maps() -> None:
    model = tiny_llama()
    found = copying_from_logits(model)
    weights = head_weights(model)
    tokens = repeated_tokens(model, seed=0, copies=1)
    capture = interp.capture_patterns(model, tokens)
    all_values = _values(model, tokens)
    for layer, head in ((0, 1), (1, 2)):
        scores: list[float] = []
        for example, ids in enumerate(tokens.tolist()):
            pattern = capture.patterns[layer][example, head]
            values = all_values[layer][example, head // 2]
            total = weight = 0.0
            for key, token in enumerate(ids):
                logits = values[key] @ weights.W_O[layer, head] @ weights.W_U[:, ids]
                raised = (logits - logits.mean()).clamp_min(0)
                share = raised[ids.index(token)]
                received = float(pattern[:, key].sum())
                total += received * float(4 * share / (share + raised.sum()) - 1)
                weight += received
            scores.append(total / weight)
        assert found.scores[layer, head] == pytest.approx(sum(scores) / len(scores), abs=1e-5)


def _values(model: Model, tokens: Tensor) -> list[Tensor]:
    _, cache = model.bridge.run_with_cache(tokens, prepend_bos=False)
    return [cache["v", layer].transpose(1, 2).detach() for layer in range(model.n_layers)]


def test_a_null_without_a_spread_is_refused(circuit: Model) -> None:
    with pytest.raises(InputError, match="n_null=1: expected at least 2 random matrices"):
        copying_from_weights(circuit, n_null=1)


def test_both_scores_say_what_they_are_beside(stories260k: Path) -> None:
    model = interp.load(stories260k)
    for scores in (copying_from_weights(model, n_null=5), copying_from_logits(model)):
        assert isinstance(scores.chance, Tensor) and not scores.chance.isnan().any()
        assert scores.scores.abs().max() <= 1 and not scores.unmeasured
        assert scores.provenance.seed == 0
