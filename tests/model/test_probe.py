"""The load-time probe: what it measures, what it refuses, and that it leaves no trace on the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

import interp
from interp.errors import ModelNotSupported
from interp.model import probe as probing
from interp.model.discover import discover_sites
from interp.model.model import Model
from interp.model.probe import probe
from interp.model.probe_inputs import probe_inputs
from tests.architectures import VISION, Architecture, parameters, sample_inputs
from tests.attention.models import ROWS, fresh, ids, loaded


@pytest.mark.parametrize("row", parameters(lambda row: row.kinds != VISION))
def test_left_padding_is_allowed_exactly_where_it_is_harmless(row: Architecture) -> None:
    assert loaded(row.name).capabilities.left_padding == row.left_padded


@pytest.mark.parametrize("row", parameters())
def test_generation_is_known_to_the_probe(row: Architecture) -> None:
    assert loaded(row.name).capabilities.generates == row.cached


@pytest.mark.parametrize("row", parameters(lambda row: "vision" not in row.kinds and "encoder" not in row.kinds))
def test_the_longest_prompt_accepted_runs(row: Architecture) -> None:
    model = loaded(row.name)
    assert model.n_ctx == 64
    with torch.no_grad():
        assert bool(model(torch.full((1, 64), 5)).isfinite().all())


@pytest.mark.parametrize("row", parameters())
def test_the_probe_leaves_no_trace(row: Architecture) -> None:
    hf, untouched = row.build(), row.build()
    before = _state(hf)
    probe(hf)
    assert _state(hf) == before
    with torch.no_grad():
        output, expected = (probing.output_tensor(each(**sample_inputs(row))) for each in (hf, untouched))
    assert torch.equal(output, expected)


def _state(hf: nn.Module) -> dict[str, Any]:
    """Implementation, hooks, mode, gradients and the plain attributes of every module."""
    return {name: _state_of(module) for name, module in hf.named_modules()}


def _state_of(module: nn.Module) -> list[Any]:
    # transformers marks modules whose hidden states it has collected once.
    plain = {key: value for key, value in vars(module).items() if not key.startswith("_output_capturing")}
    config = getattr(module, "config", None)
    return [
        {key: value for key, value in plain.items() if isinstance(value, bool | int | float | str | None)},
        config._attn_implementation if isinstance(config, PretrainedConfig) else None,
        [parameter.grad is None for parameter in module.parameters(recurse=False)],
        len(module._forward_pre_hooks),
    ]


def test_the_probe_does_not_disturb_text_generation_of_a_vision_language_model() -> None:
    """Qwen2.5-VL keeps the rotary offsets of the last images it saw for the decoding of what follows."""
    hf, options = ROWS["qwen2_5_vl"].build(), {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    probed = fresh("qwen2_5_vl").hf
    assert torch.equal(_decoded(probed), _decoded(hf))
    assert torch.equal(probed.generate(ids(), **options), hf.generate(ids(), **options))


@torch.no_grad()
def _decoded(hf: Any) -> Tensor:
    """Logits of one cached step behind a text."""
    past = hf(input_ids=ids(), use_cache=True).past_key_values
    return hf(input_ids=ids(1), past_key_values=past).logits


@pytest.mark.parametrize("row", parameters())
def test_probe_inputs_are_few_tokens_that_differ(row: Architecture) -> None:
    inputs = probe_inputs(row.build())
    if row.kinds == VISION:
        assert set(inputs) == {"pixel_values"}
        return
    text = inputs["input_ids"][0]
    ordinary = text[text != 60] if "vision" in row.kinds else text
    assert len(ordinary) == len(set(ordinary.tolist())) == 7
    assert int(ordinary.min()) >= 3 and int(ordinary.max()) < 64


def test_discovery_alone_leaves_no_trace() -> None:
    hf = ROWS["llava"].build()
    before = _state(hf)
    sites = discover_sites(hf, probe_inputs(hf))
    assert _state(hf) == before
    assert [(site.module_name, site.kind, site.layer) for site in sites.of_kind("vision")] == [
        (f"model.vision_tower.encoder.layers.{layer}.self_attn", "vision", layer) for layer in range(3)
    ]
    assert sites.main_kind == "self"


# --- refusals ----------------------------------------------------------------------------------------------------


def patched(name: str, monkeypatch: pytest.MonkeyPatch, change: Any) -> Any:
    """A model whose every attention module passes through `change` after it ran."""
    hf = ROWS[name].build()
    for layer in hf.model.layers:
        forward = layer.self_attn.forward
        monkeypatch.setattr(layer.self_attn, "forward", change(layer.self_attn, forward))
    return hf


def test_a_model_that_computes_something_else_than_its_attention_function_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def change(module: nn.Module, forward: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            output, *rest = forward(*args, **kwargs)
            return (output * (1.5 if module.config._attn_implementation == "eager" else 1.0), *rest)

        return run

    with pytest.raises(ModelNotSupported, match=r"failed the agreement check: .* by \d.*\(relative\)"):
        probe(patched("llama", monkeypatch, change))


def test_a_model_that_ignores_its_attention_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(module: nn.Module, forward: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            output, *rest = forward(*args, **kwargs)
            return (torch.zeros_like(output), *rest)

        return run

    with pytest.raises(ModelNotSupported, match="failed the causality check: zeroing every self attention row left"):
        probe(patched("llama", monkeypatch, change))


def test_a_model_whose_rows_are_no_probabilities_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Doubled(probing._RowSums):
        def read_rows(self, rows: Any) -> None:
            super().read_rows(rows.edited(rows.pattern * 2))

    monkeypatch.setattr(probing, "_RowSums", Doubled)
    with pytest.raises(ModelNotSupported, match="failed the row check: attention rows are off one by up to 1"):
        probe(ROWS["llama"].build())


def test_a_model_that_takes_other_inputs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    hf = ROWS["llama"].build()

    def forward(input_features: Tensor) -> Tensor:
        return input_features

    monkeypatch.setattr(hf, "forward", forward)
    with pytest.raises(ModelNotSupported, match="failed the trial run: on input_ids it raises TypeError"):
        probe(hf)


def test_an_unknown_keyword_is_found_at_load_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(module: nn.Module, forward: Any) -> Any:
        return lambda *args, **kwargs: forward(*args, **kwargs, temperature=torch.tensor(2.0))

    with pytest.raises(ModelNotSupported, match="LlamaAttention passes temperature to its attention function"):
        probe(patched("llama", monkeypatch, change))


def test_capabilities_of_two_kinds_of_model() -> None:
    llava, gpt_oss = loaded("llava").capabilities, loaded("gpt_oss").capabilities
    assert llava.kinds == ("self", "vision") and llava.takes_images and not llava.sink_logits
    assert gpt_oss.kinds == ("self",) and gpt_oss.sink_logits and not gpt_oss.takes_images


def test_sizes_of_a_model_are_those_of_its_main_stack() -> None:
    llava, vit, minimax = loaded("llava"), loaded("vit"), loaded("minimax")
    assert isinstance(llava, Model)
    assert (llava.n_layers, llava.n_heads, llava.n_kv_heads, llava.d_head) == (2, 4, 2, 8)
    assert (vit.n_layers, vit.n_heads, vit.sites.main_kind) == (3, 4, "vision")
    assert minimax.n_layers == 3 and [site.layer for site in minimax.main_sites] == [0, 2]


class _Adapted(nn.Module):
    """A projection with an adapter beside it, as LoRA has it."""

    def __init__(self, own: nn.Linear) -> None:
        super().__init__()
        self.own, self.adapter = own, nn.Linear(own.in_features, own.out_features)

    def forward(self, z: Tensor) -> Tensor:
        return self.own(z) + self.adapter(z)


@pytest.mark.parametrize("around", [lambda own: nn.Sequential(nn.LayerNorm(own.in_features), own), _Adapted])
def test_a_projection_that_is_not_all_there_is_gives_no_output_weights(around: Any) -> None:
    hf: Any = ROWS["llama"].build()
    attention = hf.model.layers[0].self_attn
    attention.o_proj = around(attention.o_proj)
    model = Model(hf, None, name="changed")
    assert [model.sites.output_weights(site) is None for site in model.main_sites] == [True, False]
    scores = interp.scan(model, torch.arange(4, 44)[None], ["sinks"])["sinks"]
    assert scores.notes["norms before W_O"] == (0,)
    assert any("before the output projection in layers 0:" in sentence for sentence in scores.provenance.warnings)


@pytest.mark.parametrize("to", [{"dtype": torch.int8}, {"device": "meta"}])
def test_a_projection_whose_numbers_are_not_at_hand_gives_no_output_weights(to: dict[str, Any]) -> None:
    model = fresh("llama")
    own: Any = model.hf.get_submodule("model.layers.1.self_attn.o_proj")
    own.weight = nn.Parameter(own.weight.detach().to(**to), requires_grad=False)
    assert [model.sites.output_weights(site) is None for site in model.main_sites] == [False, True]
