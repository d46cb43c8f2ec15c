"""Comparison of models: the null by hand and by simulation, the circuit set by hand with and without its heads."""

import copy

import pytest
import torch

import interp
from circuits.importance.gates import gate_slopes, normalised_by_layer
from circuits.importance.objective import TextObjective
from interp import comparison
from interp.analyzers.copying import copying_from_weights
from interp.comparison import change_of, compare_models, split_differences
from interp.errors import AnalysisWarning, InputError
from interp.model.model import Model
from interp.results import HeadScores
from interp.scanning import scan
from tests.attention.models import loaded
from tests.hand_weighted import induction_model, letters_tokenizer
from tests.tiny_models import tiny_llama


def draws(n_parts: int, *, shift: float = 0, seed: int = 0, n_heads: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n_parts, 4, n_heads // 4, generator=generator)
    values[:, 0, 0] += shift
    return values


def test_the_null_has_the_spread_of_a_difference_of_means() -> None:
    found = split_differences(draws(20), draws(20, seed=1))
    assert found.null_sd.mean() == pytest.approx((2 / 20) ** 0.5, rel=0.1)


def test_false_alarms_in_the_whole_table_stay_at_the_level() -> None:
    """64 heads, 60 pairs of equal models: about 5 % of the *tables* may hold a p below 0.05, not 5 % of the heads."""
    alarms = sum(
        bool((split_differences(draws(20, seed=2 * i), draws(20, seed=2 * i + 1), n_splits=200).p < 0.05).any())
        for i in range(60)
    )
    assert alarms <= 9


def test_a_real_difference_is_found_and_nothing_else() -> None:
    found = split_differences(draws(20), draws(20, shift=3, seed=1))
    assert found.p[0, 0] < 0.01 and int((found.p < 0.05).sum()) == 1
    assert found.difference[0, 0] == pytest.approx(3, abs=1)


def test_a_model_against_itself_and_certain_differences() -> None:
    values = draws(10)
    assert (split_differences(values, values).p == 1).all()
    constant = torch.zeros(10, 1, 2)
    other = constant.clone()
    other[..., 1] = 0.5
    assert split_differences(constant, other).p.tolist()[0] == [1.0, pytest.approx(1 / 2001)]
    values[3, 1, 1] = torch.nan
    assert split_differences(values, draws(10, seed=1)).p.isnan().nonzero().tolist() == [[1, 1]]


@pytest.mark.parametrize(
    ("scores", "p", "highest", "word"),
    [
        ((0.0, 0.9), 0.01, 1.0, "emerged"),
        ((0.9, 0.0), 0.01, 1.0, "vanished"),
        ((0.9, 0.5), 0.01, 1.0, "weakened"),
        ((0.0, 0.1), 0.01, 1.0, "unchanged"),
        ((0.0, 0.9), 0.2, 1.0, "unchanged"),
        ((3.0, 2.0), 0.01, None, "weakened"),
        ((0.0, 0.9), float("nan"), 1.0, "not measured"),
    ],
)
def test_words_for_changes(scores: tuple[float, float], p: float, highest: float | None, word: str) -> None:
    assert change_of(*scores, p, 0.02, highest) == word


@pytest.fixture(scope="module")
def circuit(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return interp.load(induction_model(), letters_tokenizer(tmp_path_factory.mktemp("letters")))


@pytest.fixture(scope="module")
def broken(circuit: Model) -> Model:
    """The circuit without its previous-token head's output."""
    hf = copy.deepcopy(circuit.hf)
    with torch.no_grad():
        hf.transformer.h[0].attn.c_proj.weight.zero_()
    return interp.load(hf, circuit.tokenizer)


def compared(*models: Model) -> dict[str, HeadScores]:
    return compare_models(*models, analyzers=["induction", "previous-token"], n_parts=10, progress=False)


def test_induction_emerges_when_its_previous_token_head_speaks(circuit: Model, broken: Model) -> None:
    found = compared(broken, circuit)
    assert found["induction"].labels["change"] == (("unchanged",) * 2, ("unchanged", "emerged"))
    assert found["induction"].top(1, absolute=True)[0].label == "L1H1"
    assert found["induction"].columns["second"][1, 1] > 0.999
    # The head still looks back: what was broken is what it writes.
    assert found["previous-token"].notes["changes"] == {"unchanged": 4}
    back = compared(circuit, broken)["induction"]
    assert back.labels["change"][1][1] == "vanished" and back["L1H1"] == pytest.approx(-found["induction"]["L1H1"])


def test_a_model_against_itself_has_no_changes(circuit: Model) -> None:
    for scores in compared(circuit, circuit).values():
        assert scores.notes["changes"] == {"unchanged": 4} and (scores.scores == 0).all()
        assert scores.notes["rank correlation"] == pytest.approx(1)
        assert "Induction(normalisation='sum_per_query'" in scores.provenance.parameters["analyzers"]["induction"]


def test_the_head_whose_output_weights_were_changed_comes_first() -> None:
    """An update of rank one to W_O of L1H2: its importance and its copying find it; its attention is what it was."""
    base, tuned = tiny_llama(), tiny_llama()
    generator = torch.Generator().manual_seed(3)
    left, right = torch.randn(32, 1, generator=generator), torch.randn(1, 8, generator=generator)
    tuned.hf.model.layers[1].self_attn.o_proj.weight.data[:, 16:24] += left @ right
    tokens = torch.randint(3, 60, (72, 12), generator=torch.Generator().manual_seed(4))
    importance = [
        normalised_by_layer(
            gate_slopes(TextObjective(model, tokens, batch_size=24, progress=False, seed=0)).signed.abs()
        )
        for model in (base, tuned)
    ]
    found = split_differences(importance[0], importance[1])
    assert found.difference.argmax() == found.p.argmin() == 4 + 2 and found.p[1, 2] < 0.05
    again = split_differences(importance[0], importance[0])
    assert not again.difference.any() and bool((again.p == 1).all())
    copying = [copying_from_weights(model).scores for model in (base, tuned)]
    assert (copying[1] - copying[0]).nonzero().tolist() == [[1, 2]]
    for scores in compare_models(base, tuned, tokens, ["previous-token", "entropy"], progress=False).values():
        assert not scores.scores.any() and scores.notes["changes"] == {"unchanged": 8}


def test_models_that_see_different_keys_are_called_out() -> None:
    """A causal model beside an encoder of its shape: chance alone makes their scores differ."""
    models = [loaded(name) for name in ("gpt2", "bert")]
    tokens = torch.randint(5, 40, (8, 12), generator=torch.Generator().manual_seed(0))
    with pytest.warns(AnalysisWarning, match="gpt2 and bert see different keys: chance of previous-token is 0.191 in"):
        found = compare_models(*models, tokens, ["previous-token"], progress=False)["previous-token"]
    assert any("see different keys" in sentence for sentence in found.provenance.warnings)
    expected = scan(models[0], tokens, ["previous-token"])["previous-token"]
    assert isinstance(expected, HeadScores)
    torch.testing.assert_close(found.columns["score chance"], expected.chances)


def test_unusable_comparisons_are_refused(circuit: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without_scans:
        without_scans.setattr(comparison, "scan", pytest.fail)
        with pytest.raises(InputError, match="2 layers x 2 heads.*2 layers x 4 heads|x 2 heads, .* 2 x 4"):
            compare_models(circuit, tiny_llama(), progress=False)
    with pytest.raises(InputError, match="at least 8 examples"):
        compare_models(circuit, circuit, "w1 w2 w1 w2", progress=False)
    with pytest.raises(InputError, match="received-mass"):
        compare_models(circuit, circuit, ["w1 w2 w1"] * 8, ["received-mass"], progress=False)
