"""Pattern-preserving ablation: exact in a model of attention alone, whose logits are products of heads' gates."""

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

import interp
from interp.capture import capture_patterns
from interp.errors import InputError
from interp.interventions.frozen_patterns import FrozenPatterns
from interp.interventions.scale_heads import ScaleHeads
from interp.model.model import Model
from tests.interventions.running import logits_with
from tests.tiny_models import tiny_llama


@pytest.fixture(scope="module")
def attention_only() -> Model:
    """Two layers of four heads (two KV heads), no norm and no MLP."""
    model = tiny_llama(seed=5)
    for layer in model.hf.model.layers:
        layer.input_layernorm = layer.post_attention_layernorm = nn.Identity()
        layer.mlp.down_proj.weight.data.zero_()
    model.hf.model.norm = nn.Identity()
    return model


def without(model: Model, tokens: Tensor, *heads: tuple[int, int], gate: float = 0.0, frozen: bool = True) -> Tensor:
    """Logits with these heads times a gate, in double precision; patterns of the untouched model if frozen."""
    n = len(tokens)
    gates = torch.ones(2 * n, 2, 4)
    for layer, head in heads:
        gates[n:, layer, head] = gate
    editors = [FrozenPatterns(torch.arange(n).repeat(2))] if frozen else []
    return logits_with(model, tokens.repeat(2, 1), *editors, ScaleHeads(gates))[n:].double()


def path(model: Model, tokens: Tensor, *heads: tuple[int, int]) -> Tensor:
    """What the logits hold of the embeddings through these heads in turn, by values alone."""
    patterns = capture_patterns(model, tokens).patterns
    found = model.hf.model.embed_tokens(tokens).detach().double()
    for layer, head in heads:
        attention = model.hf.model.layers[layer].self_attn
        kv = head // 2  # two query heads share a KV head
        value = attention.v_proj.weight.detach().double()[8 * kv : 8 * kv + 8]
        output = attention.o_proj.weight.detach().double()[:, 8 * head : 8 * head + 8]
        found = patterns[layer][:, head].double() @ found @ value.T @ output.T
    return found @ model.hf.lm_head.weight.detach().double().T


def test_every_sample_its_own_source_is_bitwise_the_same(model: Model, tokens: Tensor) -> None:
    editor = FrozenPatterns(torch.arange(3))
    assert editor.layers == frozenset()
    assert torch.equal(logits_with(model, tokens, editor), logits_with(model, tokens))


def test_samples_get_the_patterns_of_their_source(model: Model, tokens: Tensor) -> None:
    plain = capture_patterns(model, tokens).patterns
    with interp.watch(model, FrozenPatterns(torch.tensor([2, 1, 1]))):
        edited = capture_patterns(model, tokens).patterns
    assert torch.equal(edited[0], plain[0][[2, 1, 1]])
    assert torch.equal(edited[1][1], edited[1][2])
    torch.testing.assert_close(edited[1][1], plain[1][1], atol=1e-6, rtol=0)


def test_a_head_of_the_last_layer_takes_its_own_term_away(attention_only: Model, tokens: Tensor) -> None:
    whole = logits_with(attention_only, tokens).double()
    lost = path(attention_only, tokens, (1, 2))
    for earlier in range(4):
        lost = lost + path(attention_only, tokens, (0, earlier), (1, 2))
    torch.testing.assert_close(whole - without(attention_only, tokens, (1, 2)), lost, atol=1e-4, rtol=1e-4)


def test_the_effect_of_a_head_is_linear_in_it(attention_only: Model, tokens: Tensor) -> None:
    whole = logits_with(attention_only, tokens).double()
    zero, half = (without(attention_only, tokens, (0, 1), gate=gate) for gate in (0.0, 0.5))
    torch.testing.assert_close(whole - half, (whole - zero) / 2, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("one", "other"), [((0, 1), (0, 3)), ((1, 0), (1, 1)), ((0, 1), (1, 2)), ((0, 2), (1, 3))])
def test_two_heads_add_up_but_for_what_one_passes_on_through_values(
    attention_only: Model, tokens: Tensor, one: tuple[int, int], other: tuple[int, int]
) -> None:
    whole = logits_with(attention_only, tokens).double()
    first, second, both = (
        whole - without(attention_only, tokens, *heads) for heads in ((one,), (other,), (one, other))
    )
    crossed = path(attention_only, tokens, one, other) if one[0] < other[0] else torch.zeros_like(whole)
    torch.testing.assert_close(both, first + second - crossed, atol=1e-4, rtol=1e-4)
    assert one[0] == other[0] or crossed.abs().max() > 1e-2


def test_with_patterns_computed_again_they_do_not_add_up(attention_only: Model, tokens: Tensor) -> None:
    whole = logits_with(attention_only, tokens).double()
    sizes = {}
    for frozen in (True, False):
        one, other, both = (
            whole - without(attention_only, tokens, *heads, frozen=frozen)
            for heads in (((0, 1),), ((0, 3),), ((0, 1), (0, 3)))
        )
        sizes[frozen] = float((both - one - other).abs().max())
    assert sizes[False] > 100 * sizes[True]


def test_zeroing_z_is_zeroing_the_value_of_a_head_with_its_bias() -> None:
    """Exactly, since rows of attention sum to 1; grouped heads share values, and only z is each head's own."""
    config = GPT2Config(vocab_size=40, n_positions=16, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    hf = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.3)
    model, tokens = interp.load(hf), torch.randint(1, 40, (2, 12))
    gates = torch.ones(2, 4)
    gates[0, 2] = 0
    by_z = logits_with(model, tokens, ScaleHeads(gates))
    value = slice(2 * 32 + 16, 2 * 32 + 24)
    with torch.no_grad():
        hf.transformer.h[0].attn.c_attn.weight[:, value] = 0
        hf.transformer.h[0].attn.c_attn.bias[value] = 0
    torch.testing.assert_close(logits_with(model, tokens), by_z, atol=1e-5, rtol=1e-5)


def test_sources_that_do_not_fit_the_batch_are_refused(model: Model, tokens: Tensor) -> None:
    for source in ([0, 0], [0, 1, 3], [0, -1, 2]):
        with pytest.raises(InputError, match="expected one sample of the batch for each"):
            logits_with(model, tokens, FrozenPatterns(torch.tensor(source)))
    editor = FrozenPatterns(torch.tensor([0, 0]))
    with pytest.raises(InputError, match="padded differently"), interp.watch(model, editor):
        model(model.pad([[5, 6, 7], [8, 9]]))
