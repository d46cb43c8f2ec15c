"""Captured head outputs are the model's own, at the positions asked for."""

import torch
from torch import Tensor

from interp.attention.session import watch
from interp.interventions.capture_heads import CaptureHeads
from interp.model.model import Model
from tests.interventions.running import heads_of, logits_with


def test_z_goes_through_the_output_projection_to_the_attention_output(model: Model, tokens: Tensor) -> None:
    z = heads_of(model, tokens)
    attention = model.hf.model.layers[1].self_attn
    seen: list[Tensor] = []
    handle = attention.o_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        logits_with(model, tokens)
    finally:
        handle.remove()
    assert z[1].shape == (3, 7, 4, 8)
    torch.testing.assert_close(z[1].flatten(2), seen[0])


def test_only_the_layers_and_positions_asked_for(model: Model, tokens: Tensor) -> None:
    some = CaptureHeads(layers=[1], queries=torch.tensor([2, -1]))
    logits_with(model, tokens, some)
    assert set(some.z) == {1}
    assert torch.equal(some.z[1], heads_of(model, tokens)[1][:, [2, 6]])


def test_decoding_appends_and_a_new_prompt_starts_anew(model: Model, tokens: Tensor) -> None:
    reader = CaptureHeads()
    with torch.no_grad(), watch(model, reader):
        generated = model.generate(tokens, max_new_tokens=3)
        along_the_way = reader.z[0]
        model(generated[:, :-1])
    torch.testing.assert_close(along_the_way, reader.z[0], atol=1e-5, rtol=1e-4)


def test_what_was_captured_stays_when_the_model_runs_again(model: Model, tokens: Tensor, other_tokens: Tensor) -> None:
    reader = CaptureHeads()
    logits_with(model, tokens, reader)
    first = reader.z
    copy = {layer: z.clone() for layer, z in first.items()}
    logits_with(model, other_tokens, reader)
    assert all(torch.equal(first[layer], copy[layer]) for layer in copy)
    assert not torch.equal(reader.z[0], first[0])
