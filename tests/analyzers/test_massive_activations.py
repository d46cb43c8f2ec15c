"""Massive activations: the two thresholds, what a model's residual stream holds, and the link to sinks."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import interp
from interp.analyzers.analyzer import Shape
from interp.analyzers.massive_activations import (
    MassiveActivations,
    link_to_sinks,
    massive_entries,
    massive_mask,
    ratio_to_median,
)
from interp.analyzers.sinks import SinkTokens
from interp.errors import InputError
from interp.model.model import Model
from interp.model.tokens import TokenBatch
from interp.provenance import Provenance
from interp.results import TokenMap
from tests.tiny_models import tiny_llama


def test_both_thresholds() -> None:
    residual = torch.randn(500, 640, generator=torch.Generator().manual_seed(0))
    planted = residual.clone()
    planted[3, 7] = -5000
    assert massive_mask(planted).nonzero().tolist() == [[3, 7]]
    planted[3, 7] = 90  # below the absolute threshold
    assert not massive_mask(planted).any()
    scaled = residual * 10
    scaled[3, 7] = 5000  # median 6.745: below the relative threshold
    assert float(scaled.abs().median()) == pytest.approx(6.745, abs=0.02)
    assert not massive_mask(scaled).any()
    assert massive_mask(scaled, min_ratio=500.0).nonzero().tolist() == [[3, 7]]


IDS = torch.tensor([[1, *range(10, 40)]])
TOKEN, PLACE, DIM, VALUE = 14, 5, 9, -5000.0


@pytest.fixture(scope="module")
def planted() -> Model:
    """A random Llama in which the embedding of one token has an entry of -5000."""
    model = tiny_llama(n_layers=3)
    with torch.no_grad():
        model.hf.get_input_embeddings().weight[TOKEN, DIM] = VALUE
    return model


def measure(model: Model, data: Any, **parameters: Any) -> TokenMap:
    result = interp.scan(model, data, [MassiveActivations(**parameters)])["massive-activations"]
    assert isinstance(result, TokenMap)
    return result


def test_values_are_the_largest_of_each_token_in_the_stream_entering_each_layer(planted: Model) -> None:
    result = measure(planted, IDS)
    hidden = planted.hf(IDS, output_hidden_states=True).hidden_states[:3]
    expected = torch.stack([states[0].detach().abs().amax(-1) for states in hidden])
    torch.testing.assert_close(result.values, expected)
    medians = [float(states[0].detach().abs().flatten().sort().values[(31 * 32 - 1) // 2]) for states in hidden]
    assert result.notes["medians"] == pytest.approx(medians, rel=1e-6)


def test_planted_activations_are_found_where_they_are(planted: Model) -> None:
    frame = massive_entries(measure(planted, IDS))
    (row,) = frame.to_dict("records")
    assert (row["key"], row["dim"]) == (PLACE, DIM)
    assert (row["first_layer"], row["last_layer"]) == (0, 2)
    assert row["value"] == pytest.approx(VALUE, rel=1e-2) and row["ratio"] > 1000
    assert massive_entries(measure(planted, IDS, min_magnitude=6000.0)).empty
    assert massive_entries(measure(planted, IDS.where(IDS != TOKEN, 50))).empty


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_neither_values_nor_medians(planted: Model, side: Any) -> None:
    ids = IDS[0].tolist()
    padded = planted.pad([ids, [*ids, *range(3, 15)]], padding_side=side)
    expected = measure(planted, IDS)
    reader = MassiveActivations().reader(Shape(n_layers=3, n_heads=4, kind="self"))
    with torch.inference_mode(), interp.watch(planted, reader):
        planted(TokenBatch(padded.tokens[:1], padded.mask[:1], prepend_bos=True))
    found = reader.result(Provenance(model="m"), [str(i) for i in ids])
    torch.testing.assert_close(found.values, expected.values, atol=1e-5, rtol=1e-5)
    assert found.notes["medians"] == pytest.approx(expected.notes["medians"], rel=1e-5)
    assert [(e["layer"], e["key"], e["dim"]) for e in found.notes["massive"]] == [
        (e["layer"], e["key"], e["dim"]) for e in expected.notes["massive"]
    ]


def test_tokens_of_decoding_are_left_out_and_several_texts_refused(planted: Model) -> None:
    reader = MassiveActivations().reader(Shape(n_layers=3, n_heads=4, kind="self"))
    with torch.inference_mode(), interp.watch(planted, reader):
        planted.generate(IDS, max_new_tokens=3)
    result = reader.result(Provenance(model="m"), [str(i) for i in IDS[0].tolist()])
    torch.testing.assert_close(result.values, measure(planted, IDS).values)
    with pytest.raises(InputError, match="massive-activations describes the tokens of one text"):
        measure(planted, IDS.repeat(2, 1))


def test_padding_that_counted_would_hide_an_activation() -> None:
    """The median is over real tokens: as many padded ones with large entries would lift it above the threshold."""
    residual = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    residual[3, 7] = 5000
    with_padding = torch.cat([residual, torch.full((60, 64), 20.0)])
    assert massive_mask(residual).nonzero().tolist() == [[3, 7]] and not massive_mask(with_padding).any()


def test_real_text_equals_the_models_own_states_has_none_and_saves(stories260k: Path, tmp_path: Path) -> None:
    model, text = interp.load(stories260k), "Once upon a time, there was a little girl named Lily."
    result = measure(model, text)
    assert massive_entries(result).empty
    with torch.no_grad():
        states = model.hf(model.to_tokens(text), output_hidden_states=True).hidden_states[:5]
    for layer, state in enumerate(states):
        entries = sorted(abs(float(x)) for x in state.flatten())
        assert result.notes["medians"][layer] == pytest.approx(entries[(len(entries) - 1) // 2], rel=1e-5)
        largest = [max(abs(float(x)) for x in token) for token in state[0]]
        assert result.values[layer].tolist() == pytest.approx(largest, rel=1e-5)
    # Lower thresholds name the same entries as a double loop.
    low = measure(model, text, min_magnitude=1.0, min_ratio=4.0)
    expected = [
        (layer, key, dim)
        for layer, state in enumerate(states)
        for key, dim in state[0].abs().gt(max(1.0, 4 * low.notes["medians"][layer])).nonzero().tolist()
    ]
    assert [(entry["layer"], entry["key"], entry["dim"]) for entry in low.notes["massive"]] == expected != []
    loaded = interp.load_result(result.save(tmp_path))
    assert isinstance(loaded, TokenMap) and loaded.notes["medians"] == result.notes["medians"]


def token_map(values: Tensor, **notes: Any) -> TokenMap:
    texts = tuple(str(k) for k in range(values.shape[1]))
    provenance = Provenance(model="by hand")
    return TokenMap(
        name="m", values=values, dims=("layer", "key"), tokens=texts, unit="", provenance=provenance, notes=notes
    )


def massive_at(n: int, keys: list[int]) -> TokenMap:
    values = torch.ones(2, n)
    values[1, keys] = 4000.0
    entries = [{"layer": 1, "key": key, "dim": 2, "value": -4000.0} for key in keys]
    return token_map(values, massive=entries, medians=[0.5, 0.5])


def test_overlap_of_sinks_and_massive_tokens() -> None:
    rates = torch.zeros(2, 12)
    rates[1, 0], rates[0, 4] = 1.0, 0.5
    rates[:, 10:] = torch.nan  # too few queries see them
    link = link_to_sinks(massive_at(12, [0, 11]), token_map(rates))
    assert (link.sinks, link.massive, link.both, link.tokens) == (2, 1, 1, 10)
    assert link.expected == pytest.approx(0.2)
    assert link.p_value == pytest.approx(0.2)  # one token of ten lies among two given ones
    # Ranks: rate [10, 9, 4.5 x 8], magnitude [10, 5 x 9].
    rate, magnitude = torch.tensor([10.0, 9, *[4.5] * 8]), torch.tensor([10.0, *[5.0] * 9])
    expected = float(torch.corrcoef(torch.stack([rate, magnitude]))[0, 1])
    assert link.correlation == pytest.approx(expected, abs=1e-6)


def test_a_median_of_zero_is_no_division() -> None:
    residual = torch.zeros(4, 8)
    residual[1, 2] = 200
    assert massive_mask(residual).nonzero().tolist() == [[1, 2]]
    assert ratio_to_median(200.0, 0.0) == math.inf and ratio_to_median(-200.0, 0.5) == 400


def test_no_link_where_there_is_nothing() -> None:
    link = link_to_sinks(massive_at(6, []), token_map(torch.zeros(2, 6)))
    assert (link.sinks, link.massive, link.both, link.expected, link.p_value) == (0, 0, 0, 0.0, 1.0)
    assert math.isnan(link.correlation)
    with pytest.raises(InputError, match="those of 6 tokens, the sinks those of 7"):
        link_to_sinks(massive_at(6, []), token_map(torch.zeros(2, 7)))


def test_a_planted_massive_activation_that_keys_read_is_a_sink() -> None:
    """All later queries look at a token whose key is large: the two detectors name the same token."""
    model = tiny_llama(n_layers=2)
    with torch.no_grad():
        model.hf.get_input_embeddings().weight[TOKEN, DIM] = 5000.0
        model.hf.get_input_embeddings().weight[:, 0] = 3.0
        for layer in model.hf.model.layers:
            # Queries read the dimension that every other token has, keys the massive one, in an unrotated direction.
            layer.self_attn.q_proj.weight.zero_()
            layer.self_attn.k_proj.weight.zero_()
            layer.self_attn.q_proj.weight[3::8, 0] = 6.0
            layer.self_attn.k_proj.weight[3::8, DIM] = 6.0
    results = interp.scan(model, IDS, [MassiveActivations(), SinkTokens()])
    massive, sinks = results["massive-activations"], results["sink-tokens"]
    assert isinstance(massive, TokenMap) and isinstance(sinks, TokenMap)
    assert sinks.values[0, PLACE] == 1
    link = link_to_sinks(massive, sinks)
    assert link.massive == link.both == 1
    assert link.correlation > 0.2
