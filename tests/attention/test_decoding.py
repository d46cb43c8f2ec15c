"""Precision and modes of execution, caches and generation: the hook shows the same rows in all of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import StaticCache

from interp.attention.session import watch
from interp.model.model import Model
from tests.architectures import sample_inputs
from tests.attention.models import EXACT, ROWS, fresh, ids, loaded, logits
from tests.attention.reference import Recorder


@pytest.mark.parametrize("name", ["llama", "gpt_oss", "t5"])
def test_inference_mode_and_no_grad_agree(name: str) -> None:
    model, inputs, seen = loaded(name), sample_inputs(ROWS[name]), []
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        recorder = Recorder()
        with mode(), watch(model, recorder):
            seen.append((model.hf(**inputs).logits.clone(), recorder.pattern(("self", 1))))
    for output, pattern in seen[1:]:
        assert torch.equal(output, seen[0][0]) and torch.equal(pattern, seen[0][1])


def test_one_session_serves_inference_mode_and_autograd_in_turn() -> None:
    model, recorder = loaded("llama"), Recorder()
    with watch(model, recorder):
        with torch.inference_mode():
            model.hf(input_ids=ids())
        model.hf(input_ids=ids()).logits.sum().backward()
        with torch.inference_mode():
            model.hf(input_ids=ids())
    first, second, third = (call.z for call in recorder.calls["self", 0])
    torch.testing.assert_close(first, second.detach(), **EXACT)
    assert torch.equal(first, third) and second.requires_grad
    model.hf.zero_grad()


@pytest.mark.parametrize("block_bytes", [1, 2**20])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss", "gpt2"])
def test_gradients_equal_those_of_eager_attention(name: str, block_bytes: int) -> None:
    model, own = fresh(name), ROWS[name].build()
    own.set_attn_implementation("eager")
    with watch(model, Recorder(), block_bytes=block_bytes):
        model.hf(input_ids=ids(), labels=ids()).loss.backward()
    own(input_ids=ids(), labels=ids()).loss.backward()
    compared = 0
    for (name_of, here), there in zip(model.hf.named_parameters(), own.parameters(), strict=True):
        if there.grad is not None:
            torch.testing.assert_close(here.grad, there.grad, msg=name_of, **EXACT)
            compared += 1
    assert compared > 10


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gpt_oss", "t5"])
def test_half_precision_stays_close_to_float32(name: str, dtype: torch.dtype) -> None:
    half = Model(ROWS[name].build().to(dtype), None, name=name)
    exact, rough = Recorder(), Recorder()
    inputs = sample_inputs(ROWS[name])
    with torch.no_grad():
        with watch(loaded(name), exact):
            expected = loaded(name).hf(**inputs).logits
        with watch(half, rough):
            output = half.hf(**inputs).logits
    assert output.dtype == dtype and bool(output.isfinite().all())
    # bfloat16 keeps 8 bits, float16 11: errors of a forward pass of two layers are a few units of the last bit.
    limit = 0.1 if dtype == torch.bfloat16 else 0.02
    assert float((output.float() - expected).norm() / expected.norm()) < limit
    for place in exact.rows:
        pattern = rough.pattern(place)
        assert rough.rows[place][0][2].dtype == torch.float32
        assert rough.calls[place][0].z.dtype == dtype
        assert float((pattern - exact.pattern(place)).abs().mean()) < limit / 5


def test_float64_keeps_its_precision() -> None:
    """Compared with SDPA: eager attention takes its softmax in float32 whatever the model's dtype."""
    model, recorder = Model(ROWS["gpt2"].build().double(), None, name="gpt2"), Recorder()
    with watch(model, recorder):
        output = logits(model, ids())
    torch.testing.assert_close(output, logits(model, ids()), atol=1e-12, rtol=0)
    pattern = recorder.rows["self", 1][0][2]
    torch.testing.assert_close(pattern.sum(-1), torch.ones(2, 4, 12, dtype=torch.float64), atol=1e-14, rtol=0)


def test_autocast_computes_in_its_dtype_and_shows_float32() -> None:
    model, recorder = loaded("llama"), Recorder()
    expected = logits(model, ids())
    with torch.autocast("cpu", torch.bfloat16), watch(model, recorder):
        output = logits(model, ids())
    pattern = recorder.rows["self", 0][0][2]
    assert output.dtype == recorder.calls["self", 0][0].z.dtype == torch.bfloat16
    assert pattern.dtype == torch.float32
    torch.testing.assert_close(pattern.sum(-1), torch.ones(2, 4, 12))
    assert float((output.float() - expected).norm() / expected.norm()) < 0.1


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt_oss", "t5", "llava"])
def test_generation_is_unchanged_and_shows_the_rows_of_one_full_pass(name: str) -> None:
    model, steps, whole = loaded(name), Recorder(), Recorder()
    inputs = sample_inputs(ROWS[name])
    inputs.pop("decoder_input_ids", None)
    options: dict[str, Any] = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    plain = model.hf.generate(**inputs, **options)
    with watch(model, steps):
        generated = model.hf.generate(**inputs, **options)
    assert torch.equal(generated, plain)
    given = {"input_ids": generated[:, :-1]}
    if name == "t5":
        given = {"input_ids": inputs["input_ids"], "decoder_input_ids": generated[:, :-1]}
    with torch.no_grad(), watch(model, whole):
        model.hf(**{**inputs, **given})
    assert steps.rows.keys() == whole.rows.keys()
    for place in whole.rows:
        torch.testing.assert_close(steps.pattern(place), whole.pattern(place), **EXACT)
        torch.testing.assert_close(steps.z(place), whole.z(place), **EXACT)
    last, tokens = steps.calls["self", 0][-1], generated[:, :-1]
    assert last.stream.tokens is not None and torch.equal(last.stream.tokens, tokens)
    assert [call.decoding for call in steps.calls["self", 0]] == [False] + [True] * 4


def test_cross_attention_while_generating_knows_the_tokens_of_the_encoder() -> None:
    model, recorder, text = loaded("t5"), Recorder(), ids()
    with watch(model, recorder):
        model.hf.generate(input_ids=text, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    for call in recorder.calls["cross", 1]:
        assert call.key_stream.tokens is not None and torch.equal(call.key_stream.tokens, text)


def test_a_sliding_window_cache_keeps_absolute_key_positions() -> None:
    model, recorder = loaded("mistral"), Recorder()
    with torch.no_grad(), watch(model, recorder):
        output = model.hf(input_ids=ids(), use_cache=True)
        model.hf(input_ids=ids(2), past_key_values=output.past_key_values)
    *_, (queries, keys, pattern) = recorder.rows["self", 0]
    # Positions 12 and 13 see five keys each: 8..12 and 9..13.
    assert queries.tolist() == [12, 13] and keys.tolist() == [8, 9, 10, 11, 12, 13]
    assert (pattern[:, :, 0] > 0).tolist() == [[[True] * 5 + [False]] * 4] * 2
    assert (pattern[:, :, 1] > 0).tolist() == [[[False] + [True] * 5] * 4] * 2


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2"])
def test_a_static_cache_shows_the_same_rows(name: str) -> None:
    model, stepwise, whole = loaded(name), Recorder(), Recorder()
    cache = StaticCache(config=model.hf.config, max_cache_len=32)
    with torch.no_grad(), watch(model, stepwise):
        for part in (ids()[:, :9], ids()[:, 9:10], ids()[:, 10:12]):
            model.hf(input_ids=part, past_key_values=cache, use_cache=True)
    with watch(model, whole):
        logits(model, ids())
    for place in whole.rows:
        torch.testing.assert_close(stepwise.pattern(place), whole.pattern(place), **EXACT)
        torch.testing.assert_close(stepwise.z(place), whole.z(place), **EXACT)


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt_oss", "gpt2"])
def test_a_prompt_in_chunks_shows_the_same_rows(name: str) -> None:
    model, stepwise, whole, past = loaded(name), Recorder(), Recorder(), None
    with torch.no_grad(), watch(model, stepwise, block_bytes=500):
        for part in ids().split([4, 5, 3], 1):
            past = model.hf(input_ids=part, past_key_values=past, use_cache=True).past_key_values
    with watch(model, whole):
        logits(model, ids())
    for place in whole.rows:
        torch.testing.assert_close(stepwise.pattern(place), whole.pattern(place), **EXACT)
        torch.testing.assert_close(stepwise.z(place), whole.z(place), **EXACT)
