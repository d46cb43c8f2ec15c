"""Every architecture: what the hook shows and computes equals the model's own eager attention, whatever the setting."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import PretrainedConfig

from interp.attention.participants import Editor, Reader
from interp.attention.rows import AttentionRows, LayerCall
from interp.attention.session import watch
from interp.errors import InputError, ModelNotSupported
from interp.model.model import Model
from interp.model.probe import output_tensor, probe
from tests.architectures import (
    CLIP_VISION,
    GPT2_SIZES,
    IMAGE_TOKEN,
    NOT_DISPATCHING,
    SEQ2SEQ,
    VISION,
    Architecture,
    parameters,
    randomised,
    sample_inputs,
    token_rows,
    with_images,
)
from tests.attention.models import EXACT, loaded
from tests.attention.reference import KINDS, Eager, Place, Recorder, eager_run, projection


@cache
def eager(row: Architecture) -> Eager:
    """The model's own eager attention on the sample inputs."""
    return eager_run(row.build(), loaded(row.name).sites, sample_inputs(row))


def watched(model: Model, *participants: Reader | Editor, block_bytes: int = 2**20, **inputs: Any) -> Tensor:
    """Logits of one pass under a session."""
    with torch.no_grad(), watch(model, *participants, block_bytes=block_bytes):
        return output_tensor(model.hf(**inputs))


@pytest.mark.parametrize("row", parameters())
def test_probe_finds_every_kind_and_layer(row: Architecture) -> None:
    model = loaded(row.name)
    assert frozenset(model.capabilities.kinds) == row.kinds
    assert model.capabilities.output_difference < 1e-6
    assert model.capabilities.sink_logits == (row.name == "gpt_oss")
    assert model.capabilities.takes_images == ("vision" in row.kinds)
    for kind in row.kinds:
        layers = [site.layer for site in model.sites.of_kind(kind)]
        assert layers == ([0, 2] if row.name == "minimax" else list(range(len(layers))))
        assert len(layers) >= 2


@pytest.mark.parametrize("block_bytes", [1, 1500, 2**20])
@pytest.mark.parametrize("row", parameters())
def test_logits_patterns_and_head_outputs_equal_eager_attention(row: Architecture, block_bytes: int) -> None:
    model, own, recorder = loaded(row.name), eager(row), Recorder()
    logits = watched(model, recorder, block_bytes=block_bytes, **sample_inputs(row))
    torch.testing.assert_close(logits, own.logits, **EXACT)
    assert recorder.rows.keys() == recorder.calls.keys() == own.patterns.keys()
    for place, pattern in own.patterns.items():
        torch.testing.assert_close(recorder.pattern(place), pattern, **EXACT)
        torch.testing.assert_close(recorder.z(place), own.z[place], **EXACT)


@pytest.mark.parametrize("row", parameters())
def test_patterns_are_far_from_uniform(row: Architecture) -> None:
    """A matrix of uniform patterns would hide every mistake in the scores."""
    for pattern in eager(row).patterns.values():
        assert float(pattern.amax(-1).mean()) > 2 / pattern.shape[-1]
        assert float(pattern.std(-2).mean()) > 0.01


@pytest.mark.parametrize("row", parameters(lambda row: row.kinds != VISION))
def test_head_outputs_are_pattern_times_the_values_of_the_right_kv_head(row: Architecture) -> None:
    model, recorder = loaded(row.name), Recorder()
    watched(model, recorder, **sample_inputs(row))
    for site in model.sites.of_kind("self"):
        place = ("self", site.layer)
        (call,) = recorder.calls[place]
        assert (call.value.shape[1] < call.query.shape[1]) == row.grouped
        assert call.value.shape[1] == site.n_kv_heads and call.query.shape[1] == site.n_heads
        pattern, group = recorder.pattern(place), site.n_heads // site.n_kv_heads
        for head in range(site.n_heads):
            expected = pattern[:, head] @ call.value[:, head // group]
            torch.testing.assert_close(call.z[:, :, head], expected, **EXACT)


@pytest.mark.parametrize("row", parameters())
def test_output_weights_say_what_each_head_adds(row: Architecture) -> None:
    """Windows of Qwen2.5-VL's tower are put together again in front of the projection, so it has none there."""
    model, recorder = loaded(row.name), Recorder()
    watched(model, recorder, **sample_inputs(row))
    for place, calls in recorder.calls.items():
        (site,) = [site for site in model.sites.of_kind(place[0]) if site.layer == place[1]]
        own, call = projection(model.hf, site.module_name), calls[0]
        if (row.name, site.kind) == ("qwen2_5_vl", "vision"):
            assert call.output_weights is None
            continue
        assert call.output_weights is not None
        with torch.no_grad():
            for head in range(site.n_heads):
                alone = torch.zeros_like(call.z)
                alone[:, :, head] = call.z[:, :, head]
                added = own(alone.flatten(2)) - own(torch.zeros_like(alone).flatten(2))
                torch.testing.assert_close(call.z[:, :, head] @ call.output_weights[head], added, **EXACT)


@pytest.mark.parametrize("row", parameters(lambda row: row.cached))
def test_prefill_equals_cached_decoding(row: Architecture) -> None:
    model, whole = loaded(row.name), Recorder()
    inputs = sample_inputs(row)
    ids_name = "decoder_input_ids" if row.kinds == SEQ2SEQ else "input_ids"
    ids = inputs[ids_name]
    logits = watched(model, whole, **inputs)
    past = ids.shape[1] - 3
    with torch.no_grad(), watch(model):
        output = model.hf(**{**_first_tokens(inputs, ids_name, past), "use_cache": True})
    for position in range(past, ids.shape[1]):
        step = Recorder()
        given = {ids_name: ids[:, position : position + 1], "past_key_values": output.past_key_values}
        if row.kinds == SEQ2SEQ:
            given["encoder_outputs"] = (output.encoder_last_hidden_state,)
        with torch.no_grad(), watch(model, step):
            output = model.hf(**given, use_cache=True)
        torch.testing.assert_close(output_tensor(output)[:, -1], logits[:, position], **EXACT)
        for place in step.rows:
            last = step.pattern(place)[:, :, -1]
            torch.testing.assert_close(last, whole.pattern(place)[:, :, position, : last.shape[-1]], **EXACT)
            torch.testing.assert_close(step.z(place)[:, -1], whole.z(place)[:, position], **EXACT)


def _first_tokens(inputs: dict[str, Tensor], ids_name: str, count: int) -> dict[str, Tensor]:
    cut = {ids_name, "mm_token_type_ids"}
    return {name: value[:, :count] if name in cut else value for name, value in inputs.items()}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("row", parameters(lambda row: row.kinds != VISION))
def test_padding_changes_nothing_for_real_tokens(row: Architecture, side: Any) -> None:
    model = loaded(row.name)
    rows, images = with_images(row, token_rows((12, 8)))
    batch = model.pad(rows, padding_side=side)
    further = _extra(row, batch.tokens, images)
    if side == "left" and not row.left_padded:
        with pytest.raises(InputError, match="numbers positions from the first column"):
            model.forward_inputs(batch, **further)
        return
    together = Recorder()
    logits = watched(model, together, **model.forward_inputs(batch, **further))
    for index, ids in enumerate(rows):
        alone = Recorder()
        own_tokens = torch.tensor([ids])
        expected = watched(model, alone, input_ids=own_tokens, **_extra(row, own_tokens, _one_image(images, index)))
        real = batch.mask[index].bool()
        if row.kinds == SEQ2SEQ:
            torch.testing.assert_close(logits[index], expected[0], **EXACT)
        else:
            torch.testing.assert_close(logits[index, real], expected[0], **EXACT)
        for place in alone.rows:
            if place[0] != "vision":
                _assert_same_rows(together.pattern(place)[index], alone.pattern(place)[0], place, real, row)


def _extra(row: Architecture, tokens: Tensor, images: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a pass needs beside its (padded) tokens: images, or the tokens of the decoder."""
    if row.kinds == SEQ2SEQ:
        return {"decoder_input_ids": torch.tensor([[2, 9, 10, 11]]).expand(len(tokens), -1)}
    if "image_grid_thw" in images:
        return {**images, "mm_token_type_ids": (tokens == IMAGE_TOKEN).int()}
    return images


def _one_image(images: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    return {name: value.chunk(2)[index] for name, value in images.items()}


def _assert_same_rows(padded: Tensor, alone: Tensor, place: Place, real: Tensor, row: Architecture) -> None:
    """Rows of real queries agree on real keys and give nothing to padding, nor do padding queries to anybody."""
    decoder = torch.ones(alone.shape[-2], dtype=torch.bool)
    queries = decoder if row.kinds == SEQ2SEQ and place[0] != "encoder" else real
    keys = decoder if row.kinds == SEQ2SEQ and place[0] == "self" else real
    expected = torch.zeros(alone.shape[0], len(queries), len(keys))
    expected[:, queries.nonzero(), keys.nonzero().squeeze(-1)] = alone
    shown = torch.zeros_like(expected)
    shown[:, : padded.shape[-2], : padded.shape[-1]] = padded
    torch.testing.assert_close(shown[:, queries], expected[:, queries], **EXACT)


class Identity(Editor):
    kinds = KINDS

    def edit_rows(self, rows: AttentionRows) -> Tensor:
        return rows.pattern

    def edit_z(self, call: LayerCall) -> Tensor:
        return call.z


class ZeroRows(Editor):
    def __init__(self, kind: str) -> None:
        self.kinds = frozenset({kind})

    def edit_rows(self, rows: AttentionRows) -> Tensor:
        return torch.zeros_like(rows.pattern)


class ZeroHead(Editor):
    def __init__(self, kind: str) -> None:
        self.kinds = frozenset({kind})

    def edit_z(self, call: LayerCall) -> Tensor:
        z = call.z.clone()
        z[:, :, 1] = 0
        return z


@pytest.mark.parametrize("row", parameters())
def test_identity_edit_is_bitwise_neutral(row: Architecture) -> None:
    inputs = sample_inputs(row)
    read = watched(loaded(row.name), Recorder(), **inputs)
    assert torch.equal(watched(loaded(row.name), Identity(), Recorder(), **inputs), read)


@pytest.mark.parametrize("edit", [ZeroRows, ZeroHead])
@pytest.mark.parametrize("row", parameters())
def test_zeroing_changes_the_logits(row: Architecture, edit: type[ZeroRows | ZeroHead]) -> None:
    inputs = sample_inputs(row)
    plain = watched(loaded(row.name), **inputs)
    for kind in row.kinds:
        changed = watched(loaded(row.name), edit(kind), **inputs)
        assert float((changed - plain).abs().max()) > 0.01, kind


class Failing(Reader):
    kinds = KINDS

    def read_rows(self, rows: AttentionRows) -> None:
        raise ArithmeticError("in the middle")


@pytest.mark.parametrize("row", parameters())
def test_everything_is_restored_after_an_exception_in_the_middle(row: Architecture) -> None:
    model, inputs = loaded(row.name), sample_inputs(row)
    before = _state(model)
    with torch.no_grad():
        plain = output_tensor(model.hf(**inputs))
    with pytest.raises(ArithmeticError, match="in the middle"):
        watched(model, Failing(), **inputs)
    assert _state(model) == before
    with torch.no_grad():
        assert torch.equal(output_tensor(model.hf(**inputs)), plain)


def _state(model: Model) -> list[Any]:
    modules = list(model.hf.modules())
    configs = [c for m in modules if isinstance(c := getattr(m, "config", None), PretrainedConfig)]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules]
    return [[config._attn_implementation for config in configs], hooks]


@pytest.mark.parametrize("name", NOT_DISPATCHING)
def test_families_with_their_own_attention_are_refused(name: str) -> None:
    hf = randomised(NOT_DISPATCHING[name])
    with pytest.raises(ModelNotSupported, match="failed the dispatch check"):
        probe(hf)


def test_a_vision_tower_that_dispatches_does_not_excuse_text_layers_that_do_not() -> None:
    text = transformers.GPTJConfig(**{**GPT2_SIZES, "rotary_dim": 4})
    vision = transformers.CLIPVisionConfig(**CLIP_VISION)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE_TOKEN)
    hf = randomised(lambda: transformers.LlavaForConditionalGeneration(config))
    with pytest.raises(ModelNotSupported, match="failed the dispatch check: .* text layers never do"):
        probe(hf)
