"""Streaming attention: which keys are seen, against a mask, while decoding, and what is refused."""

import math

import pytest
import torch
from torch import Tensor
from transformers import Gemma2Config, Gemma2ForCausalLM, MistralConfig, MistralForCausalLM

import interp
from interp.errors import InputError, ModelNotSupported
from interp.interventions.streaming_heads import StreamingHeads, streaming_attention, streaming_keys
from interp.model.model import Model
from tests.interventions.running import heads_of, logits_with

EVERY = torch.ones(2, 4, dtype=torch.bool)


def test_sinks_and_recent_keys() -> None:
    seen = streaming_keys(torch.tensor([1, 6]), torch.arange(8), sink=2, recent=3)
    assert [row.nonzero().flatten().tolist() for row in seen] == [[0, 1], [0, 1, 4, 5, 6]]


@pytest.mark.parametrize(("new", "kept"), [(0, [0, 1, 7, 8, 9]), (2, [0, 1, 9])])
def test_the_cache_that_streaming_llm_keeps(new: int, kept: list[int]) -> None:
    """10 tokens, sink 2, recent 3; and what is left of them for the last of 2 more (its `evict_for_space`)."""
    seen = streaming_keys(torch.tensor([9 + new]), torch.arange(10), sink=2, recent=3)
    assert seen[0].nonzero().flatten().tolist() == kept


@pytest.mark.parametrize(("sink", "recent"), [(0, 1), (2, 3), (4, 300), (0, 40), (700, 1)])
def test_gathered_keys_against_a_mask(sink: int, recent: int) -> None:
    query, key, value = torch.randn(2, 4, 600, 8), torch.randn(2, 2, 600, 8), torch.randn(2, 2, 600, 5)
    scores = query @ key.repeat_interleave(2, 1).transpose(-1, -2) * 0.3
    positions = torch.arange(600)
    scores = scores.masked_fill(~streaming_keys(positions, positions, sink=sink, recent=recent), -torch.inf)
    expected = (scores.softmax(-1) @ value.repeat_interleave(2, 1)).transpose(1, 2)
    found = streaming_attention(query, key, value, sink=sink, recent=recent, scale=0.3)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_nobody_streaming_is_bitwise_the_same(model: Model, tokens: Tensor) -> None:
    assert torch.equal(logits_with(model, tokens, StreamingHeads(~EVERY, sink=1, recent=1)), logits_with(model, tokens))


def test_only_chosen_heads_change(model: Model, tokens: Tensor) -> None:
    heads = torch.zeros(2, 4, dtype=torch.bool)
    heads[0, 2] = True
    before, after = heads_of(model, tokens)[0], heads_of(model, tokens, StreamingHeads(heads, sink=1, recent=2))[0]
    assert torch.equal(after[:, :, [0, 1, 3]], before[:, :, [0, 1, 3]])
    torch.testing.assert_close(after[:, :3, 2], before[:, :3, 2])  # they see everything there is
    assert (after[:, 4:, 2] - before[:, 4:, 2]).abs().max() > 1e-3


@pytest.mark.parametrize(("sink", "recent"), [(3, 4), (0, 7), (6, 1), (30, 30)])
def test_where_nothing_is_dropped_nothing_changes(model: Model, tokens: Tensor, sink: int, recent: int) -> None:
    wide = logits_with(model, tokens, StreamingHeads(EVERY, sink=sink, recent=recent))
    assert torch.equal(wide, logits_with(model, tokens))


def test_one_key_less_changes_the_last_token_alone(model: Model, tokens: Tensor) -> None:
    found, plain = logits_with(model, tokens, StreamingHeads(EVERY, sink=2, recent=4)), logits_with(model, tokens)
    torch.testing.assert_close(found[:, :-1], plain[:, :-1], atol=1e-5, rtol=1e-5)
    assert float((found[:, -1] - plain[:, -1]).abs().max()) > 1e-3


def test_without_its_sink_a_head_writes_what_the_sink_kept_back() -> None:
    """Key 0 with score 5 and no value, the others orthogonal: row q grows by (e^5 + q) / q, 3.36 at q = 63."""
    n, c = 64, 5.0
    query, key = torch.ones(1, 1, n, 1), torch.zeros(1, 1, n, 1)
    key[..., 0, 0] = c
    value = torch.eye(n)[None, None]
    value[..., 0, 0] = 0
    options = {"scale": 1.0, "recent": n - 1}
    kept, dropped = (streaming_attention(query, key, value, sink=sink, **options)[0, -1, 0] for sink in (1, 0))
    assert float(kept.norm()) == pytest.approx(0.03754, abs=5e-6)
    torch.testing.assert_close(dropped[1:], torch.full((n - 1,), 1 / 63))
    assert float(dropped.norm() / kept.norm()) == pytest.approx((math.exp(c) + 63) / 63, rel=1e-5)
    assert float(dropped.norm() / kept.norm()) == pytest.approx(3.36, abs=5e-3)


def test_one_pass_and_cached_steps_agree(model: Model, tokens: Tensor) -> None:
    whole = logits_with(model, tokens, StreamingHeads(EVERY, sink=1, recent=2))
    with torch.no_grad(), interp.watch(model, StreamingHeads(EVERY, sink=1, recent=2)):
        output = model.hf(tokens[:, :-1], use_cache=True)
        last = model.hf(tokens[:, -1:], past_key_values=output.past_key_values).logits
    torch.testing.assert_close(last[:, 0], whole[:, -1], atol=1e-5, rtol=1e-5)


def test_padding_on_the_right_changes_nothing_and_on_the_left_is_refused(model: Model, tokens: Tensor) -> None:
    editor = StreamingHeads(EVERY, sink=1, recent=2)
    short = tokens[0, :5].tolist()
    padded = model.pad([short, tokens[1].tolist()])
    with torch.no_grad(), interp.watch(model, editor):
        torch.testing.assert_close(model(padded)[0, :5], model(torch.tensor(short))[0], atol=1e-5, rtol=1e-5)
        with pytest.raises(InputError, match="Pad on the right"):
            model(model.pad([short, tokens[1].tolist()], padding_side="left"))


def tiny(config: type, model: type, **options: object) -> Model:
    common = {
        "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 64,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    hf = model(config(**common, **options))
    with torch.no_grad():
        for parameter in hf.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.5)
    return interp.load(hf)


def test_attention_that_it_cannot_describe_is_refused() -> None:
    tokens = torch.randint(3, 40, (1, 20))
    for model in (
        tiny(MistralConfig, MistralForCausalLM, sliding_window=8),
        tiny(Gemma2Config, Gemma2ForCausalLM, attn_logit_softcapping=1.0, sliding_window=64),
    ):
        with pytest.raises(ModelNotSupported, match="Layer 0 is not plain causal softmax attention"):
            logits_with(model, tokens, StreamingHeads(EVERY, sink=1, recent=2))


def test_a_window_without_the_query_itself_is_refused() -> None:
    with pytest.raises(InputError, match="recent=0"):
        StreamingHeads(EVERY, sink=1, recent=0)
