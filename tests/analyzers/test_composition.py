"""Composition scores: known matrices, the rotation null by simulation, TransformerLens, the circuit set by hand."""

import copy
import math
from typing import get_args

import pytest
import torch
from torch import Tensor
from transformer_lens.FactoredMatrix import FactoredMatrix

import interp
from interp.analyzers.composition import (
    Mode,
    composition,
    composition_scores,
    prefix_matching_from_weights,
    rotation_null,
    strongest_source,
)
from interp.errors import InputError, ModelNotSupported
from interp.head_pairs import HeadPairs
from interp.heads import HeadRef
from interp.model.bridge import bridge_view
from interp.model.model import Model
from interp.model_scores import MODEL_SCORES, score_model
from tests.hand_weighted import D_MODEL, induction_model, letters_tokenizer
from tests.tiny_models import tiny_llama


@pytest.fixture(scope="module")
def circuit(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return interp.load(induction_model(), letters_tokenizer(tmp_path_factory.mktemp("letters")))


def pair(left: Tensor, right: Tensor) -> tuple[float, float]:
    """Score and z of one matrix of layer 0 with one of layer 1."""
    eye = torch.eye(len(left))
    two = [FactoredMatrix(torch.stack([m, m])[:, None], torch.stack([eye, eye])[:, None]) for m in (left, right)]
    scores, z = composition_scores(*two)
    assert scores[1, 0, 0, 0].isnan() and scores[0, 0, 0, 0].isnan()
    return float(scores[0, 0, 1, 0]), float(z[0, 0, 1, 0])


def test_known_matrices() -> None:
    d = 16
    u, v, w = torch.linalg.qr(torch.randn(d, 3, generator=torch.Generator().manual_seed(0)))[0].T
    assert pair(torch.eye(d), torch.eye(d))[0] == pytest.approx(1 / math.sqrt(d), abs=1e-6)
    assert pair(torch.outer(u, v), torch.outer(v, w))[0] == pytest.approx(1, abs=1e-5)
    assert pair(torch.outer(u, v), torch.outer(w, u))[0] == pytest.approx(0, abs=1e-5)
    left, right = torch.randn(2, d, d, generator=torch.Generator().manual_seed(1))
    assert pair(3 * left, right / 7)[0] == pytest.approx(pair(left, right)[0], abs=1e-6)
    assert pair(left, right)[0] == pytest.approx(float((left @ right).norm() / left.norm() / right.norm()), abs=1e-6)


def test_rotation_null_against_random_rotations() -> None:
    d, n = 12, 4000
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(3, d, generator=generator), torch.randn(d, 2, generator=generator)
    left, right = left / left.norm(), right / right.norm()
    q, r = torch.linalg.qr(torch.randn(n, d, d, generator=generator))
    rotations = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]
    squared = (left @ rotations @ right).flatten(1).square().sum(-1)
    p, s = float((left @ left.T).square().sum()), float((right.T @ right).square().sum())
    sd = float(rotation_null(torch.tensor(p), torch.tensor(s), d))
    assert squared.mean() == pytest.approx(1 / d, abs=4 * sd / math.sqrt(n))
    assert squared.std() == pytest.approx(sd, rel=0.08)


@pytest.mark.parametrize(
    ("d_model", "d_head", "expected", "spread"), [(256, 32, 0.0626, 0.0016), (768, 64, 0.0361, 0.0006)]
)
def test_published_baselines_of_gaussian_matrices(d_model: int, d_head: int, expected: float, spread: float) -> None:
    """``1 / sqrt(d_model)`` whatever the heads' width, which the spread depends on."""
    generator = torch.Generator().manual_seed(0)
    factors = [
        FactoredMatrix(
            torch.randn(2, 8, d_model, d_head, generator=generator),
            torch.randn(2, 8, d_head, d_model, generator=generator),
        )
        for _ in range(2)
    ]
    scores, z = (found[0, :, 1] for found in composition_scores(*factors))
    assert scores.mean() == pytest.approx(expected, abs=2e-4) == pytest.approx(1 / math.sqrt(d_model), abs=2e-4)
    assert 0.5 * spread < scores.std() < 1.15 * spread
    assert abs(z.mean()) < 0.3 and z.std() == pytest.approx(1, abs=0.3)


def test_gaussian_heads_score_one_over_the_root_of_the_width() -> None:
    scores = composition(tiny_llama(n_layers=4, n_kv_heads=4), "Q").scores
    measured = scores[~scores.isnan()]
    assert len(measured) == 6 * 16
    assert measured.mean() == pytest.approx(1 / math.sqrt(32), rel=0.1)


@pytest.mark.parametrize("mode", ["Q", "K", "V"])
def test_agrees_with_transformer_lens_where_norms_have_no_gain(mode: str) -> None:
    model = tiny_llama(n_layers=3)  # grouped keys and values
    ours = composition(model, mode)  # type: ignore[arg-type]
    theirs = model.bridge.all_composition_scores(mode).scores.detach()
    torch.testing.assert_close(ours.scores.nan_to_num(0), theirs, atol=1e-5, rtol=0)
    later = torch.arange(3)[:, None, None, None] < torch.arange(3)[None, None, :, None]
    assert torch.equal(~ours.scores.isnan(), later.expand(ours.scores.shape))
    assert bool(ours.provenance.warnings) == (mode != "V")


def test_agrees_with_transformer_lens_on_the_folded_weights_of_a_trained_model() -> None:
    model = interp.load("mini")
    folded = bridge_view(copy.deepcopy(model.hf), model.tokenizer, "mini")
    folded.enable_compatibility_mode()
    for mode in get_args(Mode):
        theirs = folded.all_composition_scores(mode).scores.detach()
        torch.testing.assert_close(composition(model, mode).scores.nan_to_num(0), theirs, atol=1e-6, rtol=0)


def test_a_previous_token_head_of_mini_composes_with_an_induction_head_through_keys() -> None:
    """L0H5 looks at the token before, L1H3 is among the induction heads."""
    pairs = composition(interp.load("mini"), "K")
    (source, destination), *_ = pairs.top(1, "z")
    assert (source, destination.layer) == (HeadRef(0, 5), 1)
    assert pairs.z[0, 5, 1, 3] > 40


def test_the_highest_of_the_pairs_of_random_heads() -> None:
    """What `strongest_source` and the command say of z."""
    highest = []
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        factors = [
            FactoredMatrix(
                torch.randn(4, 8, 96, 12, generator=generator), torch.randn(4, 8, 12, 96, generator=generator)
            )
            for _ in range(2)
        ]
        highest.append(float(composition_scores(*factors)[1].nan_to_num(0).max()))
    assert 3 < sum(highest) / len(highest) < 4.2 and min(highest) > 2.5 and max(highest) < 6


def test_the_circuit_set_by_hand_composes_through_keys_alone(circuit: Model) -> None:
    pairs = {mode: composition(circuit, mode) for mode in ("Q", "K", "V")}  # type: ignore[arg-type]
    found = pairs["K"]["L0H0", "L1H1"]
    # 64 directions of equal strength, all of them read: 1 / sqrt(64).
    assert found == pytest.approx(1 / 8, rel=0.02)
    assert found > 1.9 * pairs["K"].chance and pairs["K"].z[0, 0, 1, 1] > 100
    assert pairs["K"].chance == pytest.approx(1 / math.sqrt(D_MODEL))
    for mode in ("Q", "V"):
        assert not pairs[mode]["L0H0", "L1H1"] > pairs[mode].chance
    assert pairs["K"].top(1)[0][0].label == "L0H0" and pairs["K"].top(1)[0][1].label == "L1H1"
    strongest = strongest_source(pairs["K"])
    assert strongest.labels["source"] == (("", ""), ("", "L0H0"))
    assert {head.label for head in strongest.unmeasured} == {"L0H0", "L0H1", "L1H0"}


def test_the_induction_head_looks_for_the_token_before(circuit: Model) -> None:
    scores = prefix_matching_from_weights(circuit)
    assert scores["L1H1"] > 0.9 and scores.columns["z"][1, 1] > 5
    assert scores.scores[0].isnan().all()


def test_the_trace_of_prefix_matching_against_the_vocabulary_matrix() -> None:
    from interp.analyzers.head_weights import head_weights
    from interp.stimuli import repeated_tokens

    model = tiny_llama(n_layers=3)
    scores = prefix_matching_from_weights(model)
    weights = head_weights(model)
    previous = interp.scan(model, repeated_tokens(model, seed=0, copies=1), ["previous-token"])["previous-token"]
    assert isinstance(previous, interp.HeadScores)
    layer, head = 2, 3
    dense = torch.zeros(60, 60)
    for earlier in range(layer):
        for k in range(4):
            ov = weights.W_V[earlier, k] @ weights.W_O[earlier, k]
            qk = weights.W_Q[layer, head] @ weights.W_K[layer, head].T
            dense += float(previous.scores[earlier, k]) * weights.W_E @ qk @ ov.T @ weights.W_E.T
    assert scores.columns["trace"][layer, head] == pytest.approx(float(dense.trace()), rel=1e-4)


def test_pairs_are_saved_ranked_and_framed(circuit: Model, tmp_path: object) -> None:
    pairs = composition(tiny_llama(), "K")
    again = interp.load_result(pairs.save(f"{tmp_path}/pairs"))
    assert isinstance(again, HeadPairs)
    torch.testing.assert_close(again.scores, pairs.scores, equal_nan=True)
    frame = pairs.to_frame()
    assert len(frame) == 16 and frame["score"].max() == pytest.approx(pairs[pairs.top(1)[0]])
    assert "16 pairs, highest" in repr(pairs)
    best = pairs.top(1)[0]
    assert pairs.top(3, head=best[1])[0] == best and len(pairs.top(99, head="L0H0")) == 4
    by_z = [float(pairs.z[*source[:2], *destination[:2]]) for source, destination in pairs.top(16, "z")]
    assert by_z == sorted(by_z, reverse=True)


@pytest.mark.parametrize(
    ("head", "further", "said"),
    [
        ("L2H0", {}, "no head L2H0 among these pairs: expected one from L0H0 to L1H3"),
        ("EL0H0", {}, "no head EL0H0"),
        ("L0H0", {"k": 0}, r"top\(k=0, by='score'\): expected a positive number of pairs"),
        ("L0H0", {"by": "rank"}, "by='rank'.*by 'score' or 'z'"),
    ],
)
def test_pairs_that_cannot_be_had(head: str, further: dict[str, int | str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        composition(tiny_llama(), "K").top(head=head, **further)  # type: ignore[arg-type]
    if not further:
        with pytest.raises(InputError, match=said):
            composition(tiny_llama(), "K")[head, "L0H0"]


def test_one_layer_composes_with_nothing() -> None:
    with pytest.raises(ModelNotSupported, match="has attention in one layer only.*two layers or more"):
        composition(tiny_llama(n_layers=1), "K")


@pytest.mark.usefixtures("unchecked_annotations")
def test_bad_names_are_refused(circuit: Model) -> None:
    with pytest.raises(InputError, match="no composition 'O'. Choose from Q, K, V"):
        composition(circuit, "O")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no model score 'copy'. Choose from copying-weights"):
        score_model(circuit, ["copy"])


def test_every_model_score_is_had_by_name(circuit: Model) -> None:
    found = score_model(circuit)
    assert list(found) == list(MODEL_SCORES)
    assert all(scores.chance is not None for scores in found.values())
