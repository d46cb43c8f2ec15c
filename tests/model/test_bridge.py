"""`model.bridge`: another structure around the same weights, which leaves the model as it was."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from interp.attention.session import watch
from interp.errors import ModelNotSupported
from interp.model.bridge import bridge_view
from interp.model.load import load
from interp.model.model import Model
from tests.architectures import sample_inputs
from tests.attention.models import EXACT, ROWS, fresh, ids
from tests.attention.reference import Recorder
from tests.model.checkpoints import saved_llama

WRAPPED = ["llama", "gpt2", "gpt_neox", "bert", "llava"]


@pytest.fixture(autouse=True)
def no_installer(monkeypatch: pytest.MonkeyPatch) -> None:
    """TransformerLens installs torchvision by itself when a processor is missing; here it must not even try."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"a process was started: {args}")

    monkeypatch.setattr(subprocess, "run", refuse)
    monkeypatch.setattr(subprocess, "check_call", refuse)


@torch.no_grad()
def bridged_logits(model: Model, name: str) -> torch.Tensor:
    inputs = sample_inputs(ROWS[name])
    return model.bridge(inputs.pop("input_ids"), **inputs)


@torch.no_grad()
def own_logits(model: Model, name: str) -> torch.Tensor:
    return model.hf(**sample_inputs(ROWS[name])).logits


@pytest.mark.parametrize("name", WRAPPED)
def test_the_bridge_gives_the_same_logits(name: str) -> None:
    model = fresh(name)
    torch.testing.assert_close(bridged_logits(model, name), own_logits(model, name), **EXACT)


@pytest.mark.parametrize("name", WRAPPED)
def test_building_the_bridge_leaves_the_model_untouched(name: str) -> None:
    model = fresh(name)
    expected = own_logits(model, name)

    def state() -> list[Any]:
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.hf.modules()]
        types = [(path, type(module)) for path, module in model.hf.named_modules()]
        return [types, hooks, model.hf.config.to_dict(), model.hf.config._attn_implementation]

    before = state()
    assert not model.bridge.training
    bridged_logits(model, name)
    assert state() == before
    assert torch.equal(own_logits(model, name), expected)


@pytest.mark.parametrize("name", WRAPPED)
def test_the_bridge_shares_the_storage_of_the_weights(name: str) -> None:
    model = fresh(name)
    shared = {parameter.untyped_storage().data_ptr() for parameter in model.hf.parameters()}
    copies = {
        path.split("._original_component.")[1].removesuffix("._original_component")
        for path, parameter in model.bridge.named_parameters()
        if parameter.untyped_storage().data_ptr() not in shared
    }
    # The interleaved matrix of GPT-NeoX cannot be cut into views.
    interleaved = {f"attention.{part}" for part in "qkv"} if name == "gpt_neox" else set()
    assert copies == interleaved


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_changing_a_weight_changes_both(name: str) -> None:
    model = fresh(name)
    before = bridged_logits(model, name)
    with torch.no_grad():
        for parameter in model.hf.parameters():
            parameter.mul_(1.1)
    after = bridged_logits(model, name)
    assert float((after - before).abs().max()) > 0.01
    torch.testing.assert_close(after, own_logits(model, name), **EXACT)


def test_the_bridge_is_built_once_and_only_when_used() -> None:
    model = fresh("llama")
    assert "bridge" not in vars(model)
    assert model.bridge is model.bridge


def test_the_bridge_of_a_checkpoint_takes_text(tmp_path: Path) -> None:
    model = load(saved_llama(tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(model.bridge("then mary gave"), model("then mary gave"), **EXACT)
    assert model.bridge.cfg.n_heads == 4
    assert model.bridge.to_tokens("then mary gave").tolist() == model.to_tokens("then mary gave").tolist()


def test_the_bridge_shows_the_patterns_that_a_reader_sees() -> None:
    model, recorder = fresh("llama"), Recorder()
    with torch.no_grad(), watch(model, recorder):
        model(ids())
    with torch.no_grad():
        _, cache = model.bridge.run_with_cache(ids())
    for layer in (0, 1):
        torch.testing.assert_close(cache["pattern", layer], recorder.pattern(("self", layer)), **EXACT)


def test_the_bridge_keeps_the_dtype_of_the_weights() -> None:
    model = Model(ROWS["llama"].build().to(torch.bfloat16), None, name="llama")
    assert {parameter.dtype for parameter in model.bridge.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("name", ["helium", "minimax", "clip_vision"])
def test_an_architecture_that_transformer_lens_lacks_is_refused(name: str) -> None:
    with pytest.raises(ModelNotSupported, match=r"TransformerLens cannot wrap .*read and edited through interp\.watch"):
        bridge_view(ROWS[name].build(), None, name)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is here")
def test_an_adapter_that_wants_torchvision_is_refused_without_it() -> None:
    with pytest.raises(ModelNotSupported, match="TransformerLens cannot wrap Qwen2_5_VL.*torchvision"):
        bridge_view(ROWS["qwen2_5_vl"].build(), None, "qwen2_5_vl")
