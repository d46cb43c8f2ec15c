"""Replaced heads have exactly the given outputs, and nobody else notices."""

import torch
from torch import Tensor

from interp.attention.session import watch
from interp.interventions.ablate_heads import ablate_heads, resampled
from interp.interventions.replace_heads import HeadValues, ReplaceHeads
from interp.model.model import Model
from tests.interventions.running import heads_of, logits_with


def chosen(*places: tuple[int, int], batch: int = 3) -> Tensor:
    """One True per (sample, head)."""
    mask = torch.zeros(batch, 1, 4, dtype=torch.bool)
    for sample, head in places:
        mask[sample, 0, head] = True
    return mask


def test_nothing_chosen_is_bitwise_the_same(model: Model, tokens: Tensor) -> None:
    editor = ReplaceHeads({0: HeadValues(chosen(), torch.full((1, 1, 1, 8), 7.0))})
    assert torch.equal(logits_with(model, tokens, editor), logits_with(model, tokens))


def test_own_values_are_bitwise_the_same(model: Model, tokens: Tensor) -> None:
    z = heads_of(model, tokens)
    everything = torch.ones(1, 1, 4, dtype=torch.bool)
    editor = ReplaceHeads({layer: HeadValues(everything, z[layer]) for layer in z})
    assert torch.equal(logits_with(model, tokens, editor), logits_with(model, tokens))


def test_every_sample_has_its_own_head(model: Model, tokens: Tensor, other_tokens: Tensor) -> None:
    before, other = heads_of(model, tokens), heads_of(model, other_tokens)
    editor = ReplaceHeads({0: HeadValues(chosen((0, 1), (2, 3)), other[0])})
    after = heads_of(model, tokens, editor)
    expected = before[0].clone()
    expected[0, :, 1], expected[2, :, 3] = other[0][0, :, 1], other[0][2, :, 3]
    assert torch.equal(after[0], expected)
    changed = (after[1] != before[1]).flatten(1).any(1)
    assert changed.tolist() == [True, False, True]


def test_only_the_chosen_positions(model: Model, tokens: Tensor) -> None:
    mask = torch.zeros(1, 7, 4, dtype=torch.bool)
    mask[0, 5, 2] = True
    editor = ReplaceHeads({1: HeadValues(mask, torch.zeros(1, 1, 1, 8))})
    before, after = heads_of(model, tokens)[1], heads_of(model, tokens, editor)[1]
    assert (after[:, 5, 2] == 0).all()
    untouched = ~mask[0, :, :, None].expand(-1, -1, 8)
    assert torch.equal(after[:, untouched], before[:, untouched])


def test_values_of_a_prompt_leave_generated_tokens_alone(model: Model, tokens: Tensor) -> None:
    everything = torch.ones(1, 1, 4, dtype=torch.bool)
    with torch.no_grad(), watch(model, ReplaceHeads({0: HeadValues(everything, torch.zeros(1, 7, 4, 8))})):
        generated = model.generate(tokens, max_new_tokens=3)
    padded = torch.zeros(1, 9, 4, 8)
    mask = torch.arange(9)[None, :, None].expand(1, 9, 4) < 7
    full = logits_with(model, generated[:, :-1], ReplaceHeads({0: HeadValues(mask, padded)}))
    assert torch.equal(full[:, -3:].argmax(-1), generated[:, -3:])


def test_ablation_takes_a_set_of_heads(model: Model, tokens: Tensor) -> None:
    heads = torch.tensor([[False, True, False, False], [False] * 4])
    means = {0: heads_of(model, tokens)[0].mean(0, keepdim=True)}
    after = heads_of(model, tokens, ablate_heads(heads, means))
    assert torch.equal(after[0][:, :, 1], means[0][0, :, 1].expand(3, -1, -1))


def test_ablation_of_nothing_edits_no_layer(model: Model) -> None:
    assert ablate_heads(torch.zeros(2, 4, dtype=torch.bool), {}).layers == frozenset()


def test_resampling_gives_everyone_another_samples_outputs() -> None:
    values = {0: torch.arange(5.0).view(5, 1, 1, 1), 1: 10 + torch.arange(5.0).view(5, 1, 1, 1)}
    dealt = resampled(values, seed=0)
    assert sorted(dealt[0].flatten().tolist()) == [0, 1, 2, 3, 4]
    assert (dealt[0] != values[0]).all()
    assert torch.equal(dealt[0] + 10, dealt[1])
    assert torch.equal(resampled(values, seed=0)[0], dealt[0])
    assert torch.equal(resampled({0: torch.ones(1, 1, 1, 1)}, seed=0)[0], torch.ones(1, 1, 1, 1))
