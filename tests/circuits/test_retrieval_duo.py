"""DuoAttention gates: the closed form, the expansion, and a model whose answer is known."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

import interp
from circuits.retrieval import NeedlePrompt, duo_gates, duo_surrogate, random_needle_prompts
from circuits.retrieval.duo import _hidden_states, closed_form_gates, learning_rate_factor, optimise_gates
from interp.errors import AnalysisWarning, InputError
from interp.interventions.capture_heads import CaptureHeads
from interp.interventions.streaming_heads import StreamingHeads
from interp.model.model import Model
from tests.hand_weighted import INDUCTION_HEAD, PREVIOUS_TOKEN_HEAD, induction_model, letters_tokenizer
from tests.tiny_models import tiny_llama


def test_the_learning_rate_follows_the_released_schedule() -> None:
    factors = [learning_rate_factor(step) for step in (0, 40, 399, 1600, 1800, 1960, 1999)]
    assert factors == pytest.approx([0.1, 0.1025, 1, 1, 0.5, 0.1, 0.1])


def test_optimised_gates_reach_the_closed_form() -> None:
    damage = torch.tensor([[0.001, 0.02, 0.5, 0.0]])
    gates = optimise_gates(lambda gates, _: ((1 - gates).square() * damage).sum(), (1, 4), steps=800)
    expected = closed_form_gates(damage)
    torch.testing.assert_close(expected, torch.tensor([[0.0, 0.6875, 0.9875, 0.0]]))
    torch.testing.assert_close(gates, expected, atol=0.01, rtol=0)


def test_a_gate_is_above_a_half_iff_the_damage_exceeds_the_penalty_per_gate() -> None:
    damage = torch.full((32, 32), 0.05 / 1024)
    assert (closed_form_gates(damage * 1.01) > 0.5).all() and (closed_form_gates(damage * 0.99) < 0.5).all()


def linear_read_out(n_kv_heads: int, tokenizer: PreTrainedTokenizerBase) -> Model:
    """One layer without norms and MLP whose four heads write into four separate parts of the residual stream."""
    model = tiny_llama(tokenizer=tokenizer, n_layers=1, n_kv_heads=n_kv_heads, seed=2)
    (layer,) = model.hf.model.layers
    layer.input_layernorm = layer.post_attention_layernorm = model.hf.model.norm = torch.nn.Identity()
    layer.mlp.down_proj.weight.data.zero_()
    layer.self_attn.o_proj.weight.data.copy_(torch.eye(32))
    return model


@pytest.mark.parametrize("n_kv_heads", [4, 2])
def test_gates_of_a_model_converge_to_the_closed_form(tmp_path: Path, n_kv_heads: int) -> None:
    """``clip(1 - penalty / (2 N D), 0, 1)`` with D the mean squared difference of full and streaming outputs.

    The penalty is such that a gate lies at the bottom and the others in between; two query heads share a gate and their
    damage where there are two KV heads.
    """
    model = linear_read_out(n_kv_heads, letters_tokenizer(tmp_path))
    (prompt,) = random_needle_prompts(model, lengths=[60], depths=[0.4], n_needles=1, cue=3, answer=8)
    outputs: list[torch.Tensor] = []
    for editors in ([], [StreamingHeads(torch.ones(1, 4, dtype=torch.bool), sink=2, recent=5)]):
        heads = CaptureHeads()
        with torch.no_grad(), interp.watch(model, *editors, heads):
            model(prompt.tokens)
        outputs.append(heads.z[0][0, prompt.question_start :])
    damage = (outputs[0] - outputs[1]).square().sum(-1).mean(0) / 32
    damage = damage.unflatten(0, (n_kv_heads, -1)).sum(-1)[None]
    penalty = 2.2 * n_kv_heads * float(damage.min())
    expected = closed_form_gates(damage, penalty=penalty)
    assert expected.min() == 0 and 0.05 < expected.max() < 0.95
    gates = duo_gates(model, [prompt], sink=2, recent=5, steps=120, learning_rate=0.05, penalty=penalty)
    torch.testing.assert_close(gates.scores.float(), expected.repeat_interleave(4 // n_kv_heads, 1), atol=0.01, rtol=0)
    expansion = duo_surrogate(model, [prompt], sink=2, recent=5, penalty=penalty, probes=200)
    torch.testing.assert_close(expansion.scores.float(), damage.repeat_interleave(4 // n_kv_heads, 1), rtol=0.3, atol=0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny_llama(tokenizer=letters_tokenizer(tmp_path_factory.mktemp("letters")))


@pytest.fixture
def prompt(tiny: Model) -> NeedlePrompt:
    return random_needle_prompts(tiny, lengths=[40], depths=[0.3], n_needles=1, cue=2, answer=3)[0]


def test_gates_of_one_give_the_untouched_model(tiny: Model, prompt: NeedlePrompt) -> None:
    full, mixed = _hidden_states(tiny, prompt, torch.ones(2, 2), 2, 5)
    assert torch.equal(mixed.detach(), full)
    hidden = tiny.hf(prompt.tokens[None], output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(full, hidden[0, prompt.question_start :], atol=1e-5, rtol=1e-5)


def test_gates_of_zero_give_streaming_attention(tiny: Model, prompt: NeedlePrompt) -> None:
    """Against transformers' own attention with a mask of sinks and recent keys."""
    _, mixed = _hidden_states(tiny, prompt, torch.zeros(2, 2), 2, 5)
    n = len(prompt.tokens)
    query, key = torch.arange(n)[:, None], torch.arange(n)
    allowed = (key <= query) & ((key < 2) | (query - key < 5))
    hidden = tiny.hf(prompt.tokens[None], attention_mask=allowed[None, None], output_hidden_states=True).hidden_states
    torch.testing.assert_close(mixed.detach(), hidden[-1][0, prompt.question_start :].detach(), atol=1e-5, rtol=1e-5)


def test_the_surrogate_is_the_damage_of_one_gate_alone(tiny: Model, prompt: NeedlePrompt) -> None:
    """Against small steps of each gate; the probes' relative error is sqrt(2 / probes) = 7 %."""
    found = duo_surrogate(tiny, [prompt], sink=2, recent=5, probes=400)
    step = 0.02
    expected = torch.zeros(2, 2)
    for layer in range(2):
        for head in range(2):
            moved = []
            for sign in (1, -1):
                gates = torch.ones(2, 2)
                gates[layer, head] += sign * step
                moved.append(_hidden_states(tiny, prompt, gates, 2, 5)[1].detach())
            expected[layer, head] = ((moved[0] - moved[1]) / (2 * step)).square().mean()
    torch.testing.assert_close(found.scores[:, ::2].float(), expected, rtol=0.3, atol=0)
    assert torch.equal(found.scores[:, 0], found.scores[:, 1])  # two query heads share a gate
    torch.testing.assert_close(found.columns["gate"][:, ::2], closed_form_gates(found.scores[:, ::2]))


def test_heads_set_by_hand_get_the_gates_they_need(tmp_path: Path) -> None:
    """The previous-token head is a streaming head, the induction head is not; the others do nothing."""
    model = interp.load(induction_model(), letters_tokenizer(tmp_path))
    prompts = random_needle_prompts(model, lengths=[70], depths=[0.2, 0.4], n_needles=1, cue=4, answer=6)
    gates = duo_gates(model, prompts, sink=2, recent=8, steps=60, learning_rate=0.05)
    damage = duo_surrogate(model, prompts, sink=2, recent=8, probes=8)
    assert gates["L1H1"] > 0.8 and gates.top(1)[0][:2] == INDUCTION_HEAD == damage.top(1)[0][:2]
    assert gates[PREVIOUS_TOKEN_HEAD] < 0.05 and gates["L0H1"] < 0.05 and gates["L1H0"] < 0.05
    assert damage[PREVIOUS_TOKEN_HEAD] < 1e-6 * damage["L1H1"]
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.hf.parameters())


def test_within_the_window_nothing_but_the_penalty_moves_a_gate(tiny: Model, prompt: NeedlePrompt) -> None:
    gates = torch.full((2, 2), 0.5, requires_grad=True)
    full, mixed = _hidden_states(tiny, prompt, gates, 3, 60)
    (slope,) = torch.autograd.grad((mixed - full).square().mean(), gates)
    assert slope.abs().max() < 1e-9


def test_prompts_within_the_window_are_refused_or_reported(tiny: Model, prompt: NeedlePrompt) -> None:
    with pytest.raises(InputError, match="no more than sink \\+ recent = 43"):
        duo_surrogate(tiny, [prompt], sink=3, recent=40)
    (long,) = random_needle_prompts(tiny, lengths=[60], depths=[0.5], n_needles=1, cue=2, answer=3)
    with pytest.warns(AnalysisWarning, match="1 of 2 prompts have at most"):
        found = duo_surrogate(tiny, [prompt, long], sink=3, recent=40, probes=1)
    assert "1 of 2 prompts" in found.provenance.warnings[0]


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"learning_rate": 0.0}, {"penalty": -1.0}], ids=lambda options: next(iter(options))
)
def test_odd_options_are_refused(tiny: Model, prompt: NeedlePrompt, options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="at least 1 step, a rate above 0 and no negative penalty"):
        duo_gates(tiny, [prompt], sink=2, recent=5, **options)
    with pytest.raises(InputError, match="at least 1 probe and no negative penalty"):
        duo_surrogate(tiny, [prompt], sink=2, recent=5, probes=0)
