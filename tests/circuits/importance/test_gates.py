"""Gradients at gates: values by hand, identities, finite differences, and the circuit whose heads are known."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from circuits.importance.gates import gate_slopes, normalised_by_layer
from circuits.importance.objective import Examples, Measured, Objective, TaskObjective, TextObjective
from circuits.importance.scores import head_importance, measure_importance, objective_of
from circuits.study import Study
from interp.attention.participants import Participant
from interp.errors import AnalysisWarning
from interp.interventions.scale_heads import ScaleHeads
from interp.model.load import load
from interp.model.model import Model
from interp.provenance import Provenance
from tests.hand_weighted import induction_model, letters_tokenizer
from tests.tiny_models import tiny_llama


@pytest.fixture(scope="module")
def model(word_tokenizer: PreTrainedTokenizerBase) -> Model:
    return tiny_llama(tokenizer=word_tokenizer)


def task_objective(model: Model, *, batch_size: int = 4) -> Objective:
    options = {"n_prompts": 9, "seed": 0, "top": None, "progress": False}
    return TaskObjective(Study.of(model, "ioi", batch_size=batch_size, **options))


@pytest.fixture(scope="module")
def objective(model: Model) -> Objective:
    return task_objective(model)


def texts(n: int = 5) -> list[str]:
    words = ["Mary", "John", "gave", "the", "ring", "to", "school", "and", "went", "a"]
    return [" ".join(words[(start + 3 * step) % 10] for step in range(6 + start)) for start in range(n)]


class Toy(Objective):
    """One example of two positions whose metric is a formula of the gates ``[position, layer, head]``."""

    name, metric_name, unit, chance = "toy", "metric", "", {"metric": 0.0, "accuracy": 0.0}

    def __init__(self, model: Model, metric: Callable[[Tensor], Tensor]) -> None:
        super().__init__(model, batch_size=1, progress=False, seed=0)
        self.formula = metric

    def __len__(self) -> int:
        return 1

    def batches(self) -> Iterator[Examples]:
        yield Examples(rows=torch.arange(1), tokens=torch.zeros(1, 2).long(), n_tokens=torch.tensor([2]), source=None)

    def measure(self, batch: Examples, *participants: Participant, copies: int = 1) -> Measured:
        (gates,) = [p.gates for p in participants if isinstance(p, ScaleHeads)] or [torch.ones(1, 2, 2, 4)]
        return Measured(metric=self.formula(gates[0])[None], accuracy=torch.ones(1))

    def means(self, batch: Examples, layers: object) -> dict[int, Tensor]:
        raise NotImplementedError

    def others(self, batch: Examples) -> dict[int, Tensor]:
        raise NotImplementedError

    def halves(self) -> tuple[Objective, Objective]:
        raise NotImplementedError

    def provenance(self, parameters: object, problems: object) -> Provenance:
        raise NotImplementedError


def quadratic(gates: Tensor) -> Tensor:
    """``0.5 (sum_h xi_h a_h)^2`` with a = (1, -2, 3) in layer 0, whose fourth head does nothing, as does layer 1."""
    return 0.5 * (gates[0, 0] * torch.tensor([1.0, -2.0, 3.0, 0.0])).sum() ** 2


def test_a_quadratic_loss_by_hand(model: Model) -> None:
    """The slopes at 1 are 2 a."""
    toy = Toy(model, quadratic)
    found = measure_importance(toy, [])
    assert found.score("absolute").tolist() == [[2, 4, 6, 0], [0] * 4]
    assert found.score("signed").tolist() == [[2, -4, 6, 0], [0] * 4]
    normal = normalised_by_layer(found.score("absolute"))
    assert normal[0].tolist() == pytest.approx([value / 56**0.5 for value in (2, 4, 6, 0)]) and not normal[1].any()
    (batch,) = toy.batches()
    for head, slope in enumerate((2, -4, 6, 0)):
        step = torch.zeros(1, 2, 2, 4, dtype=torch.float64)
        step[..., head] = 1e-3
        up, down = (float(toy.measure(batch, ScaleHeads(1 + sign * step)).metric) for sign in (1, -1))
        assert (up - down) / 2e-3 == pytest.approx(slope, abs=1e-6)


def test_two_positions_that_cancel_count_in_the_official_code_alone(model: Model) -> None:
    """+1 and -1: 0 for the example; 2 in the official code, over the two tokens in all layers but the last."""
    found = measure_importance(Toy(model, lambda gates: gates[0].sum() - gates[1].sum()), [])
    assert found.score("absolute").tolist() == found.score("signed").tolist() == [[0] * 4] * 2
    assert found.slopes.by_position.tolist() == [[[2] * 4] * 2]
    assert found.score("official").tolist() == [[1] * 4, [2] * 4]


def test_layers_have_norm_one() -> None:
    importance = torch.rand(3, 5, dtype=torch.float64)
    importance[1] = 0
    importance[2, 4] = torch.nan
    normal = normalised_by_layer(importance)
    norms = normal.nan_to_num(0).norm(dim=-1)
    torch.testing.assert_close(norms, torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64))
    assert normal[2].isnan().tolist() == [False] * 4 + [True]


def test_the_slope_of_a_gate_is_z_times_the_gradient_of_z(model: Model, objective: Objective) -> None:
    slopes = gate_slopes(objective)
    for batch in objective.batches():
        outputs: list[Tensor] = []

        def keep(module: object, args: tuple[Tensor], outputs: list[Tensor] = outputs) -> tuple[Tensor]:
            outputs.append(args[0])
            return args

        attention = [block.self_attn.o_proj for block in model.hf.model.layers]
        handles = [projection.register_forward_pre_hook(keep) for projection in attention]
        try:
            metric = objective.measure(batch).metric.sum()
        finally:
            [handle.remove() for handle in handles]
        gradients = torch.autograd.grad(metric, outputs)
        for layer, (z, gradient) in enumerate(zip(outputs, gradients, strict=True)):
            by_position = (z * gradient).unflatten(-1, (4, 8)).sum(-1)
            torch.testing.assert_close(slopes.signed[batch.rows, layer], by_position.sum(1), atol=1e-6, rtol=1e-6)
            torch.testing.assert_close(
                slopes.by_position[batch.rows, layer], by_position.abs().sum(1), atol=1e-6, rtol=1e-6
            )
    assert (slopes.by_position >= slopes.signed.abs() - 1e-6).all()


@pytest.mark.parametrize("kind", ["task", "text"])
def test_slopes_equal_finite_differences(model: Model, objective: Objective, kind: str) -> None:
    asked = objective if kind == "task" else TextObjective(model, texts(), batch_size=8, progress=False, seed=0)
    slopes = gate_slopes(asked).signed
    step = 1e-2
    for layer, head in ((0, 2), (1, 1)):
        moved = []
        for sign in (1, -1):
            gates = torch.ones(2, 4)
            gates[layer, head] += sign * step
            with torch.no_grad():
                moved.append(torch.cat([asked.measure(b, ScaleHeads(gates)).metric for b in asked.batches()]).double())
        expected = (moved[0] - moved[1]) / (2 * step)
        torch.testing.assert_close(slopes[:, layer, head].double(), expected, rtol=1e-2, atol=2e-3)


def test_a_head_that_writes_nothing_has_no_importance(word_tokenizer: PreTrainedTokenizerBase) -> None:
    silent = tiny_llama(tokenizer=word_tokenizer)
    silent.hf.model.layers[0].self_attn.o_proj.weight.data[:, 8:16] = 0
    slopes = gate_slopes(task_objective(silent))
    assert (slopes.by_position[:, 0, 1] == 0).all()
    assert (slopes.by_position[:, 0, [0, 2, 3]] > 0).any(0).all()


def test_two_halves_of_a_head_are_equally_important(word_tokenizer: PreTrainedTokenizerBase) -> None:
    """Query heads 0 and 1 share keys and values: with the same queries, and W_O halved, each does half the work."""
    model = tiny_llama(tokenizer=word_tokenizer)
    attention = model.hf.model.layers[1].self_attn
    whole = tiny_llama(tokenizer=word_tokenizer)
    for weights in (attention, whole.hf.model.layers[1].self_attn):
        weights.q_proj.weight.data[8:16] = weights.q_proj.weight.data[:8]
    attention.o_proj.weight.data[:, :8] /= 2
    attention.o_proj.weight.data[:, 8:16] = attention.o_proj.weight.data[:, :8]
    whole.hf.model.layers[1].self_attn.o_proj.weight.data[:, 8:16] = 0
    halves, one = gate_slopes(task_objective(model)).signed, gate_slopes(task_objective(whole)).signed
    torch.testing.assert_close(halves[:, 1, 0], halves[:, 1, 1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(2 * halves[:, 1, 0], one[:, 1, 0], atol=1e-5, rtol=1e-4)


def test_a_linear_metric_makes_slopes_exact(word_tokenizer: PreTrainedTokenizerBase) -> None:
    linear = tiny_llama(tokenizer=word_tokenizer, n_layers=1)
    linear.hf.model.layers[0].mlp.down_proj.weight.data.zero_()
    linear.hf.model.norm.forward = lambda hidden: hidden
    found = measure_importance(task_objective(linear), ["zero"])
    torch.testing.assert_close(found.slopes.signed, found.drops["zero"], atol=1e-5, rtol=1e-5)
    assert found.agreement()["zero"] == {"signed": pytest.approx(1.0), "absolute": pytest.approx(1.0)}


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batch_size_and_padding_change_nothing(model: Model, objective: Objective, batch_size: int) -> None:
    slopes, again = gate_slopes(objective), gate_slopes(task_objective(model, batch_size=batch_size))
    # Gradients in float32: what differs is the order of summation.
    torch.testing.assert_close(again.signed, slopes.signed, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again.by_position, slopes.by_position, atol=1e-5, rtol=1e-5)
    assert torch.equal(again.n_tokens, slopes.n_tokens)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_of_texts_changes_nothing(model: Model, side: str) -> None:
    options = {"progress": False, "seed": 0}
    padded = gate_slopes(TextObjective(model, model.batch(texts(), padding_side=side), batch_size=5, **options))
    for row, text in enumerate(texts()):
        alone = gate_slopes(TextObjective(model, text, batch_size=5, **options))
        torch.testing.assert_close(padded.signed[row], alone.signed[0], atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(padded.by_position[row], alone.by_position[0], atol=1e-6, rtol=1e-4)
        assert int(padded.n_tokens[row]) == int(alone.n_tokens[0])


def test_the_loss_of_a_text_is_the_models_own(model: Model) -> None:
    asked = TextObjective(model, texts(), batch_size=2, progress=False, seed=0)
    found = asked.measured()
    for row, text in enumerate(texts()):
        tokens = model.to_tokens(text)
        with torch.no_grad():
            output = model.hf(tokens, labels=tokens)
        assert float(found.metric[row]) == pytest.approx(-float(output.loss), abs=1e-5)
        right = (output.logits[0, :-1].argmax(-1) == tokens[0, 1:]).float().mean()
        assert float(found.accuracy[row]) == pytest.approx(float(right), abs=1e-6)
    assert asked.chance["metric"] == pytest.approx(-torch.log(torch.tensor(float(len(model.tokenizer)))).item())


def test_no_gradients_are_left_behind(model: Model, objective: Objective) -> None:
    gate_slopes(objective)
    assert all(parameter.grad is None for parameter in model.hf.parameters())


def test_the_two_heads_of_the_circuit_come_first(tmp_path: Path) -> None:
    circuit = load(induction_model(), letters_tokenizer(tmp_path))
    scores = head_importance(
        circuit, "induction", n_prompts=8, ablations=("zero", "mean", "uniform", "resample"), progress=False
    )
    for column in ("absolute", "official", "zero", "mean", "uniform", "resample"):
        assert {head.label for head in scores.top(2, column)} == {"L0H0", "L1H1"}, column
        assert (scores.columns[column][[0, 1], [1, 0]].abs() < 1e-4).all()
        assert (scores.columns[column][[0, 1], [0, 1]] > 0).all(), column
    assert scores.notes["model"]["accuracy"] == 1
    assert "kv group" not in scores.columns


def test_the_gate_of_a_kv_group_is_the_sum_of_its_heads(model: Model) -> None:
    with pytest.warns(AnalysisWarning):
        scores = head_importance(model, text=texts(), ablations=(), progress=False)
    asked = objective_of(model, "", texts(), n_prompts=1, seed=0, batch_size=8, progress=False)
    gates = torch.ones(5, 2, 2, requires_grad=True)  # of KV groups
    (batch,) = asked.batches()
    metric = asked.measure(batch, ScaleHeads(gates.repeat_interleave(2, -1))).metric.sum()
    (slopes,) = torch.autograd.grad(metric, gates)
    expected = slopes.abs().mean(0).repeat_interleave(2, -1)
    torch.testing.assert_close(scores.columns["kv group"], expected, atol=1e-6, rtol=1e-4)


def test_gates_leave_the_model_as_it_is(model: Model, objective: Objective) -> None:
    with torch.no_grad():
        (batch, *_) = objective.batches()
        plain = objective.measure(batch).metric
        gated = objective.measure(batch, ScaleHeads(torch.ones(*batch.tokens.shape, 2, 4))).metric
    torch.testing.assert_close(gated, plain, atol=1e-6, rtol=1e-6)
