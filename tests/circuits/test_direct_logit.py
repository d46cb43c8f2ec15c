"""Direct logit attribution adds up to the logit difference, and says so where it cannot."""

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from circuits.direct_logit import direct_logits
from circuits.forward import by_length
from circuits.tasks import get_task
from interp.model.load import load
from interp.model.model import Model
from tests.tiny_models import tiny_llama


def wide(model: torch.nn.Module) -> None:
    """Weights, biases and norms far from their initial values."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)


@pytest.fixture(scope="module")
def llama(word_tokenizer: PreTrainedTokenizerBase) -> Model:
    model = tiny_llama(tokenizer=word_tokenizer)
    wide(model.hf.model.norm)
    return model


@pytest.fixture(scope="module")
def gpt2(word_tokenizer: PreTrainedTokenizerBase) -> Model:
    config = GPT2Config(
        vocab_size=len(word_tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
    )
    hf = GPT2LMHeadModel(config)
    wide(hf)
    return load(hf, word_tokenizer)


@pytest.mark.parametrize("task_name", ["ioi", "greater-than"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_heads_and_rest_add_up_to_the_models_logit_difference(
    family: str, task_name: str, word_tokenizer: PreTrainedTokenizerBase, request: pytest.FixtureRequest
) -> None:
    model, task = request.getfixturevalue(family), get_task(task_name)
    prompts = by_length(task.prompts(word_tokenizer, n=6, seed=0), task)
    found = direct_logits(model, task, prompts, batch_size=4)
    assert found.warning is None
    assert found.heads.shape == (2, 4, 6)
    torch.testing.assert_close(found.heads.sum((0, 1)) + found.rest, found.total)
    if task_name == "ioi":
        with torch.no_grad():
            logits = model.hf(input_ids=prompts.clean).logits[torch.arange(6), prompts.positions["END"]]
        torch.testing.assert_close(found.total, task.metric(logits, prompts), atol=1e-5, rtol=1e-5)


def test_a_heads_contribution_is_what_the_frozen_norm_passes_on(llama: Model) -> None:
    """By hand for one head of the last layer, from the Hugging Face weights."""
    task = get_task("ioi")
    prompts = by_length(task.prompts(llama.tokenizer, n=3, seed=0), task)
    at = (torch.arange(3), prompts.positions["END"])
    seen: dict[str, torch.Tensor] = {}
    layer, norm = llama.hf.model.layers[1], llama.hf.model.norm
    handles = [
        layer.self_attn.o_proj.register_forward_pre_hook(lambda m, args: seen.__setitem__("z", args[0])),
        norm.register_forward_pre_hook(lambda m, args: seen.__setitem__("residual", args[0])),
    ]
    with torch.no_grad():
        llama.hf(input_ids=prompts.clean)
        for handle in handles:
            handle.remove()
        head = slice(3 * 8, 4 * 8)
        written = seen["z"][at][:, head] @ layer.self_attn.o_proj.weight[:, head].T
        scale = (seen["residual"][at].pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()
        unembed = llama.hf.lm_head.weight
        direction = unembed[prompts.answer] - unembed[prompts.wrong]
        expected = (written / scale * norm.weight * direction).sum(-1)
    torch.testing.assert_close(direct_logits(llama, task, prompts).heads[1, 3], expected, atol=1e-5, rtol=1e-4)


def test_half_precision_is_attributed_within_its_own_rounding(word_tokenizer: PreTrainedTokenizerBase) -> None:
    task = get_task("ioi")
    prompts = by_length(task.prompts(word_tokenizer, n=6, seed=0), task)
    full = direct_logits(tiny_llama(tokenizer=word_tokenizer), task, prompts)
    model = tiny_llama(tokenizer=word_tokenizer)
    half = direct_logits(load(model.hf.to(torch.bfloat16), word_tokenizer), task, prompts)
    assert half.warning is None
    torch.testing.assert_close(half.heads, full.heads, atol=0.05 * float(full.total.abs().max()), rtol=0)


def test_a_head_that_writes_nothing_contributes_nothing(word_tokenizer: PreTrainedTokenizerBase) -> None:
    model, task = tiny_llama(tokenizer=word_tokenizer), get_task("ioi")
    model.hf.model.layers[0].self_attn.o_proj.weight.data[:, 8:16] = 0
    found = direct_logits(model, task, task.prompts(word_tokenizer, n=3, seed=0))
    assert (found.heads[0, 1] == 0).all() and (found.heads[0, 2] != 0).all()


def test_normed_attention_outputs_are_refused_with_a_reason(word_tokenizer: PreTrainedTokenizerBase) -> None:
    config = Gemma2Config(
        vocab_size=len(word_tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=64,
    )  # fmt: skip
    hf = Gemma2ForCausalLM(config)
    wide(hf)
    model, task = load(hf, word_tokenizer), get_task("ioi")
    found = direct_logits(model, task, task.prompts(word_tokenizer, n=4, seed=0))
    assert found.heads.shape == (2, 4, 4) and found.heads.isnan().all()
    assert found.warning is not None and "normalises or scales" in found.warning


def test_no_bridge_is_a_reason_too(llama: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from interp.errors import ModelNotSupported

    def refuse(*_: object) -> None:
        raise ModelNotSupported("TransformerLens cannot wrap it")

    model = tiny_llama(tokenizer=llama.tokenizer)
    monkeypatch.setattr("interp.model.model.bridge_view", refuse)
    task = get_task("ioi")
    found = direct_logits(model, task, task.prompts(llama.tokenizer, n=2, seed=0))
    assert found.total.isnan().all()
    assert found.warning == "No direct logit attribution: TransformerLens cannot wrap it"
