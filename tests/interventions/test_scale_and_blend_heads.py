"""Gates and shares: exact identities, ablation at the end, gradients in between."""

import torch
from torch import Tensor

from interp.attention.session import watch
from interp.interventions.blend_heads import BlendHeads
from interp.interventions.scale_heads import ScaleHeads
from interp.model.model import Model
from tests.interventions.running import heads_of, logits_with


def test_gates_of_one_are_bitwise_the_same(model: Model, tokens: Tensor) -> None:
    assert torch.equal(logits_with(model, tokens, ScaleHeads(torch.ones(2, 4))), logits_with(model, tokens))


def test_a_gate_of_zero_ablates_one_head(model: Model, tokens: Tensor) -> None:
    gates = torch.ones(2, 4)
    gates[0, 2] = 0
    before, after = heads_of(model, tokens)[0], heads_of(model, tokens, ScaleHeads(gates))[0]
    assert (after[:, :, 2] == 0).all()
    assert torch.equal(after[:, :, [0, 1, 3]], before[:, :, [0, 1, 3]])


def test_gates_of_each_samples_own(model: Model, tokens: Tensor) -> None:
    gates = torch.ones(3, 2, 4)
    gates[1, 1] = 2
    before, after = heads_of(model, tokens)[1], heads_of(model, tokens, ScaleHeads(gates))[1]
    assert torch.equal(after, before * torch.tensor([1.0, 2.0, 1.0]).view(3, 1, 1, 1))


def test_gates_of_each_positions_own(model: Model, tokens: Tensor) -> None:
    gates = torch.ones(3, 7, 2, 4)
    gates[1, 5, 0, 3] = 0
    before, after = heads_of(model, tokens)[0], heads_of(model, tokens, ScaleHeads(gates))[0]
    assert torch.equal(after, before * gates[:, :, 0, :, None])


def test_chosen_positions_and_phase(model: Model, tokens: Tensor) -> None:
    last = ScaleHeads(torch.zeros(2, 4), queries=torch.tensor([-1]))
    before, after = heads_of(model, tokens), heads_of(model, tokens, last)
    assert (after[0][:, -1] == 0).all() and torch.equal(after[0][:, :-1], before[0][:, :-1])
    while_decoding = ScaleHeads(torch.zeros(2, 4), phase="decode")
    assert torch.equal(logits_with(model, tokens, while_decoding), logits_with(model, tokens))


def test_the_gradient_of_a_gate_is_z_times_the_gradient_of_z(model: Model, tokens: Tensor) -> None:
    gates = torch.ones(2, 4, requires_grad=True)
    with watch(model, ScaleHeads(gates)):
        model(tokens)[:, -1].logsumexp(-1).sum().backward()
    assert gates.grad is not None
    step = 1e-2
    for layer, head in ((0, 1), (1, 3)):
        moved = []
        for sign in (1, -1):
            shifted = torch.ones(2, 4)
            shifted[layer, head] += sign * step
            moved.append(logits_with(model, tokens, ScaleHeads(shifted))[:, -1].double().logsumexp(-1).sum())
        torch.testing.assert_close(
            gates.grad[layer, head].double(), (moved[0] - moved[1]) / (2 * step), rtol=1e-2, atol=1e-3
        )


def test_shares_of_zero_change_nothing_and_of_one_give_the_target(
    model: Model, tokens: Tensor, other_tokens: Tensor
) -> None:
    targets = heads_of(model, other_tokens)
    assert torch.equal(logits_with(model, tokens, BlendHeads(targets, torch.zeros(2, 4))), logits_with(model, tokens))
    assert torch.equal(heads_of(model, tokens, BlendHeads(targets, torch.ones(2, 4)))[1], targets[1])


def test_shares_of_each_samples_own(model: Model, tokens: Tensor, other_tokens: Tensor) -> None:
    targets = heads_of(model, other_tokens)
    shares = torch.zeros(3, 2, 4)
    shares[2, 0, 1] = 0.5
    before, after = heads_of(model, tokens)[0], heads_of(model, tokens, BlendHeads(targets, shares))[0]
    torch.testing.assert_close(after[2, :, 1], (before[2, :, 1] + targets[0][2, :, 1]) / 2)
    assert torch.equal(after[:2], before[:2])
