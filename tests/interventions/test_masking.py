"""Masking heads as the retrieval-head experiments do: without output, or blind, in the whole pass or while decoding."""

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

import interp
from interp.attention.participants import Reader
from interp.attention.rows import LayerCall
from interp.attention.session import watch
from interp.interventions.ablate_heads import ablate_heads
from interp.interventions.uniform_attention import UniformAttention
from interp.model.model import Model
from tests.interventions.running import logits_with
from tests.tiny_models import tiny_llama

HEADS = torch.tensor([[False, False, True, False], [False, True, False, False]])


class Calls(Reader):
    """Values and outputs of the latest call of every layer."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[Tensor, Tensor]] = {}

    def read_call(self, call: LayerCall) -> None:
        self.seen[call.layer] = (call.value.clone(), call.z.clone())


def stepped(model: Model, tokens: Tensor, *participants: Reader | UniformAttention) -> tuple[Tensor, Tensor]:
    """Logits of a prefill of all tokens but the last, and of a step with the last."""
    with torch.no_grad(), watch(model, *participants):
        prefill = model.hf(tokens[:, :-1], use_cache=True)
        step = model.hf(tokens[:, -1:], past_key_values=prefill.past_key_values)
    return prefill.logits, step.logits


def test_a_uniform_step_gives_the_mean_of_the_cached_values(model: Model, tokens: Tensor) -> None:
    editor, calls = UniformAttention(HEADS), Calls()
    editor.phase = "decode"
    prefill, step = stepped(model, tokens, editor, calls)
    for layer, head in ((0, 2), (1, 1)):
        value, z = calls.seen[layer]
        assert value.shape[2] == tokens.shape[1] and z.shape[1] == 1
        torch.testing.assert_close(z[:, 0, head], value[:, head // 2].mean(1), atol=1e-6, rtol=1e-5)
    plain_prefill, plain_step = stepped(model, tokens, Calls())
    assert torch.equal(prefill, plain_prefill)  # the prompt is read with every head at work
    assert float((step - plain_step).abs().max()) > 0.01


def test_a_step_with_no_head_masked_is_bitwise_the_same(model: Model, tokens: Tensor) -> None:
    for found, plain in zip(
        stepped(model, tokens, UniformAttention(torch.zeros_like(HEADS))), stepped(model, tokens), strict=True
    ):
        assert torch.equal(found, plain)


def tiny_gpt2() -> Model:
    """Two layers whose output projections have biases, like their weights far from 0."""
    hf = GPT2LMHeadModel(GPT2Config(vocab_size=60, n_positions=32, n_embd=32, n_layer=2, n_head=4))
    with torch.no_grad():
        for block in hf.transformer.h:
            for parameter in block.attn.parameters():
                parameter.normal_(0, 0.3)
    return interp.load(hf)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_layer_without_any_head_is_a_layer_without_attention(name: str, layer: int, tokens: Tensor) -> None:
    """Nothing is left of the branch but the bias of its output."""
    model = tiny_llama() if name == "llama" else tiny_gpt2()
    everyone = torch.zeros(2, 4, dtype=torch.bool)
    everyone[layer] = True
    masked = logits_with(model, tokens, ablate_heads(everyone, {layer: torch.zeros(1, 1, 4, 8)}))
    module = model.hf.model.layers[layer].self_attn if name == "llama" else model.hf.transformer.h[layer].attn
    bias = torch.zeros(32) if name == "llama" else module.c_proj.bias

    def skip(_module: object, _args: object, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (bias.expand_as(output[0]), *output[1:])

    handle = module.register_forward_hook(skip)
    skipped = logits_with(model, tokens)
    handle.remove()
    torch.testing.assert_close(masked, skipped, atol=1e-5, rtol=1e-5)
    assert float((masked - logits_with(model, tokens)).abs().max()) > 0.01
