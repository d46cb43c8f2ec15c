"""Attention between named positions: which pairs there are, what they mean, and the numbers."""

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from circuits.forward import by_length
from circuits.key_attention import key_attention, key_pairs
from circuits.tasks import get_task
from tests.tiny_models import tiny_llama

EXPECTED = {
    "ioi": {
        "END->IO": ("answer", ()),
        "END->S1": ("wrong", ()),
        "END->S1+1": ("content", ()),
        "END->S2": ("wrong", ()),
        "S1+1->S1": ("wrong", ("previous",)),
        "S2->IO": ("answer", ()),
        "S2->S1": ("wrong", ("duplicate",)),
        "S2->S1+1": ("content", ("induction",)),
    },
    "induction": {
        "END->A1": ("content", ("duplicate",)),
        "END->A1+1": ("answer", ("induction",)),
        "A1+1->A1": ("content", ("previous",)),
    },
    "greater-than": {"END->YY": ("content", ())},
    "relations": {"END->SUBJECT": ("content", ())},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_pairs_and_what_they_mean(name: str, word_tokenizer: PreTrainedTokenizerBase) -> None:
    task = get_task(name)
    pairs = key_pairs(task, task.prompts(word_tokenizer, n=30, seed=0))
    assert {pair.label: (pair.reads, pair.types) for pair in pairs} == EXPECTED[name]
    assert all(pair.query == "END" for pair in pairs[: len([p for p in pairs if p.query == "END"])])


@pytest.mark.parametrize("name", ["ioi", "induction"])
def test_attention_is_that_of_the_full_maps(name: str, word_tokenizer: PreTrainedTokenizerBase) -> None:
    model, task = tiny_llama(tokenizer=word_tokenizer), get_task(name)
    prompts = by_length(task.prompts(word_tokenizer, n=9, seed=0), task)
    pairs = key_pairs(task, prompts)
    found = key_attention(model, task, prompts, pairs, batch_size=4)
    _, cache = model.bridge.run_with_cache(
        prompts.clean, prepend_bos=False, names_filter=lambda hook: hook.endswith("hook_pattern")
    )
    rows = torch.arange(9)
    for pair in pairs:
        query, key = prompts.positions[pair.query], prompts.positions[pair.key]
        for layer in range(2):
            expected = cache["pattern", layer][rows, :, query, key].mean(0)
            torch.testing.assert_close(found[pair.label][layer], expected, atol=1e-5, rtol=1e-4)


def test_chance_is_uniform_attention(word_tokenizer: PreTrainedTokenizerBase) -> None:
    model, task = tiny_llama(tokenizer=word_tokenizer), get_task("ioi")
    for layer in model.hf.model.layers:
        layer.self_attn.q_proj.weight.data.zero_()
    prompts = by_length(task.prompts(word_tokenizer, n=8, seed=0), task)
    pairs = key_pairs(task, prompts)
    found = key_attention(model, task, prompts, pairs)
    for pair in pairs:
        torch.testing.assert_close(found[pair.label], torch.full((2, 4), pair.chance), atol=1e-6, rtol=1e-5)
