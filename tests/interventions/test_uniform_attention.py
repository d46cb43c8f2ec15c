"""Uniform attention: equal shares for what a query sees, and nothing else touched."""

import torch
from torch import Tensor

from interp.attention.session import watch
from interp.capture import capture_patterns
from interp.interventions.uniform_attention import UniformAttention
from interp.model.model import Model
from tests.attention.models import loaded
from tests.interventions.running import heads_of, logits_with


def heads(*places: tuple[int, int]) -> Tensor:
    chosen = torch.zeros(2, 4, dtype=torch.bool)
    for place in places:
        chosen[place] = True
    return chosen


def test_no_head_chosen_is_bitwise_the_same(model: Model, tokens: Tensor) -> None:
    editor = UniformAttention(heads())
    assert editor.layers == frozenset()
    assert torch.equal(logits_with(model, tokens, editor), logits_with(model, tokens))


def test_the_pattern_is_uniform_and_z_the_running_mean_of_the_values(model: Model, tokens: Tensor) -> None:
    editor = UniformAttention(heads((0, 2)))
    with watch(model, editor):
        edited = capture_patterns(model, tokens)
    plain = capture_patterns(model, tokens)
    expected = torch.ones(7, 7).tril() / torch.arange(1, 8)[:, None]
    torch.testing.assert_close(edited.patterns[0][:, 2], expected.expand(3, -1, -1))
    assert torch.equal(edited.patterns[0][:, [0, 1, 3]], plain.patterns[0][:, [0, 1, 3]])
    values = model.hf.model.layers[0]
    normed = values.input_layernorm(model.hf.model.embed_tokens(tokens))
    value = values.self_attn.v_proj(normed)[..., 8:16]  # query head 2 uses the second of two KV heads
    mean = value.cumsum(1) / torch.arange(1, 8)[:, None]
    torch.testing.assert_close(heads_of(model, tokens, editor)[0][:, :, 2], mean, atol=1e-5, rtol=1e-5)


def test_a_sink_logit_keeps_its_share() -> None:
    """Rows of GPT-OSS sum to less than 1, and still do so when what is left is spread evenly over what they see."""
    gpt_oss, tokens = loaded("gpt_oss"), torch.arange(4, 14)[None]
    plain = capture_patterns(gpt_oss, tokens).patterns[0][0, 2]
    with watch(gpt_oss, UniformAttention(heads((0, 2)))):
        edited = capture_patterns(gpt_oss, tokens).patterns[0][0, 2]
    seen = (torch.ones(10, 10).tril() - torch.ones(10, 10).tril(-5)) > 0  # a window of five
    torch.testing.assert_close(edited, plain.sum(-1, keepdim=True) * seen / seen.sum(-1, keepdim=True))
    assert float(edited.sum(-1).min()) < 0.99


def test_each_sample_has_its_own_heads(model: Model, tokens: Tensor) -> None:
    chosen = torch.stack([heads(), heads((1, 0)), heads()])
    together = logits_with(model, tokens, UniformAttention(chosen))
    alone = logits_with(model, tokens[1:2], UniformAttention(heads((1, 0))))
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together[[0, 2]], logits_with(model, tokens)[[0, 2]], atol=1e-5, rtol=1e-5)
    assert (together[1] - logits_with(model, tokens)[1]).abs().max() > 0.01


def test_padding_takes_no_part(model: Model, tokens: Tensor) -> None:
    editor = UniformAttention(heads((0, 1), (1, 3)))
    rows = [tokens[0].tolist(), tokens[1, :4].tolist()]
    for side in ("left", "right"):
        batch = model.pad(rows, padding_side=side)
        with torch.no_grad(), watch(model, editor):
            padded = model(batch)[1][batch.mask[1].bool()]
        torch.testing.assert_close(padded, logits_with(model, tokens[1:2, :4], editor)[0], atol=1e-5, rtol=1e-5)
