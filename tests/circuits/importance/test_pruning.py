"""Pruning curves: their steps and areas by hand, their ends, and the circuit that no good order breaks early."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from circuits.importance.objective import Objective, TextObjective
from circuits.importance.pruning import (
    ascending,
    protected,
    pruning_curve,
    pruning_steps,
    random_orders,
    recomputed_order,
)
from interp.errors import AnalysisWarning, InputError, ResultFormatError
from interp.heads import HeadRef
from interp.interventions.scale_heads import ScaleHeads
from interp.model.load import load
from interp.model.model import Model
from interp.provenance import Provenance
from interp.pruning import PruningCurve
from interp.results import load_result
from tests.hand_weighted import induction_model, letters_tokenizer
from tests.tiny_models import tiny_llama

EVERY = [HeadRef(layer, head) for layer in range(2) for head in range(4)]


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_llama()


@pytest.fixture(scope="module")
def circuit(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(induction_model(), letters_tokenizer(tmp_path_factory.mktemp("letters")))


def tokens() -> Tensor:
    return torch.randint(3, 60, (6, 9), generator=torch.Generator().manual_seed(5))


def objective(model: Model) -> Objective:
    return TextObjective(model, tokens(), batch_size=4, progress=False, seed=0)


def by_hand(provenance: Provenance) -> PruningCurve:
    return PruningCurve(
        name="pruning",
        unit="nats",
        orders=("absolute", "random", "random"),
        n_pruned=torch.tensor([0, 2, 4]),
        n_heads=4,
        metric=torch.tensor([[4.0, 4.0, 0.0], [4.0, 2.0, 0.0], [4.0, 1.0, 0.0]]),
        accuracy=torch.tensor([[1.0, 1.0, 0.5], [1.0, 0.5, 0.5], [1.0, 0.5, 0.5]]),
        chance_metric=0.0,
        chance_accuracy=0.5,
        pruned=(("L0H0",), ("L0H1",), ("L0H2",)),
        provenance=provenance,
    )


def test_steps_of_the_official_code() -> None:
    steps = pruning_steps(144, 5)
    assert steps[:3] == [0, 7, 14] and steps[-1] == 144 and len(steps) == 21
    assert all(few < many for few, many in zip(steps, steps[1:], strict=False))
    assert pruning_steps(96, 10) == [0, 9, 19, 28, 38, 48, 57, 67, 76, 86, 96]
    assert pruning_steps(10, 30) == [0, 3, 6, 9, 10]


def test_the_least_important_goes_first_and_ties_go_by_place() -> None:
    importance = torch.tensor([[0.5, 0.0, 0.5], [torch.nan, 0.0, -1.0]])
    assert [head.label for head in ascending(importance)] == ["L1H2", "L0H1", "L1H1", "L0H0", "L0H2"]


def test_every_layer_keeps_the_last_heads_of_the_order() -> None:
    order = [HeadRef(0, 2), HeadRef(1, 1), HeadRef(0, 0), HeadRef(1, 0), HeadRef(0, 1)]
    assert protected(order, 1) == [HeadRef(0, 2), HeadRef(1, 1), HeadRef(0, 0)]
    assert protected(order, 2) == [HeadRef(0, 2)]
    assert protected(order, 0) == order


def test_random_orders_hold_every_head_once_and_depend_on_the_seed() -> None:
    state = torch.get_rng_state()
    orders = random_orders(EVERY, 5, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(sorted(order) == EVERY for order in orders) and len({tuple(order) for order in orders}) == 5
    assert random_orders(EVERY, 5, seed=1) == orders != random_orders(EVERY, 5, seed=2)


def test_areas_by_hand(provenance: Provenance) -> None:
    """Trapezoids over 0, 1/2, 1: 3 for the order; 2 and 1.5 for the random ones."""
    curve = by_hand(provenance)
    assert curve.area.tolist() == pytest.approx([3.0, 2.0, 1.5])
    assert curve.area_between("absolute") == pytest.approx(
        {"area": 1.25, "lowest random": -0.25, "highest random": 0.25, "share of random below": 1.0}
    )
    with pytest.raises(InputError, match="no orders 'signed'"):
        curve.area_between("signed")


def test_a_curve_is_a_frame_a_figure_and_a_directory(provenance: Provenance, tmp_path: Path) -> None:
    curve = by_hand(provenance)
    frame = curve.to_frame()
    assert frame.shape == (9, 8)
    assert frame.query("order == 'absolute' and n_pruned == 2")[["share_pruned", "metric"]].values.tolist() == [
        [0.5, 4]
    ]
    assert len(curve.plot().data) == 3
    assert "2 random orders" in curve._repr_html_() and "1 to 2" in curve._repr_html_()
    again = load_result(curve.save(tmp_path / "curve"))
    assert isinstance(again, PruningCurve)
    assert torch.equal(again.metric, curve.metric) and again.pruned == curve.pruned
    assert again.to_frame().equals(frame)
    with pytest.raises(ResultFormatError):
        PruningCurve.load(tmp_path / "nothing")


def test_the_ends_of_every_curve_are_everything_and_nothing(model: Model) -> None:
    with pytest.warns(AnalysisWarning, match="no better than chance on text"):
        curve = pruning_curve(model, text=tokens(), n_random=2, progress=False, percent=50, batch_size=2)
    assert len(curve.provenance.warnings) == 1
    assert curve.orders == ("absolute", "zero", "random", "random")
    assert curve.n_pruned.tolist() == [0, 4, 8]
    second = TextObjective(model, tokens()[1::2], batch_size=3, progress=False, seed=0)
    whole = second.measured()
    torch.testing.assert_close(curve.metric[:, 0], whole.metric.double().mean().expand(4), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(curve.accuracy[:, 0], whole.accuracy.double().mean().expand(4), atol=1e-6, rtol=1e-6)
    with torch.no_grad():
        (batch,) = second.batches()
        empty = second.measure(batch, ScaleHeads(torch.zeros(2, 4))).metric.double().mean()
        half = torch.ones(2, 4)
        for label in curve.pruned[1][:4]:
            half[HeadRef.parse(label).layer, HeadRef.parse(label).head] = 0
        middle = second.measure(batch, ScaleHeads(half)).metric.double().mean()
    torch.testing.assert_close(curve.metric[:, 2], empty.expand(4), atol=1e-5, rtol=1e-5)
    assert float(curve.metric[1, 1]) == pytest.approx(float(middle), abs=1e-5)


def test_heads_are_chosen_on_one_half_and_measured_on_the_other(model: Model) -> None:
    first, second = objective(model).halves()
    assert isinstance(first, TextObjective) and isinstance(second, TextObjective)
    assert torch.equal(first.text.tokens, tokens()[0::2]) and torch.equal(second.text.tokens, tokens()[1::2])
    with pytest.raises(InputError, match="1 example cannot be divided"):
        pruning_curve(model, text=tokens()[:1], progress=False)


def test_the_order_of_the_curve_keeps_the_circuit_to_the_end(circuit: Model) -> None:
    """Two of four heads do everything: the importance order loses nothing by pruning the other two."""
    curve = pruning_curve(circuit, "induction", percent=25, n_prompts=12, n_random=6, progress=False)
    assert curve.n_pruned.tolist() == [0, 1, 2, 3, 4]
    for row in range(2):
        assert set(curve.pruned[row][:2]) == {"L0H1", "L1H0"}
        assert curve.accuracy[row].tolist() == pytest.approx([1, 1, 1, 0, 0])
        torch.testing.assert_close(curve.metric[row, :3], curve.metric[row, :1].expand(3), atol=1e-4, rtol=1e-5)
    for name in ("absolute", "zero"):
        found = curve.area_between(name)
        assert found["area"] > 0 and found["share of random below"] >= 0.5


@pytest.mark.parametrize("method", ["absolute", "signed"])
def test_recomputing_ranks_with_the_pruned_heads_left_out(model: Model, method: str) -> None:
    asked = objective(model)
    order = recomputed_order(asked, method, "zero", [0, 3, 6, 8], normalise_layers=False)
    assert sorted(order) == EVERY
    gates = torch.ones(6, 2, 4)
    for head in order[:3]:
        gates[:, head.layer, head.head] = 0
    gates.requires_grad_()
    metric = torch.cat([asked.measure(batch, ScaleHeads(gates[batch.rows])).metric for batch in asked.batches()])
    (slopes,) = torch.autograd.grad(metric.sum(), gates)
    importance = (slopes.abs() if method == "absolute" else slopes).mean(0)
    left = [head for head in ascending(importance) if head not in order[:3]]
    assert order[3:6] == left[:3]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"methods": ["luck"]}, "'luck'.*cannot rank"),
        ({"methods": []}, "none cannot rank"),
        ({"methods": ["zero"], "recompute": True}, "'zero'.*absolute, signed"),
        ({"ablation": "knockout"}, "Unknown ablation 'knockout'"),
        ({"percent": 0}, "percent=0"),
        ({"methods": ["absolute"], "recompute": True, "keep_per_layer": 1}, "Give one of them"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_what_makes_no_sense_is_refused(model: Model, options: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        pruning_curve(model, text=tokens(), progress=False, **options)  # type: ignore[arg-type]
