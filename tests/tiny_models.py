"""Tiny random models for tests of interventions and studies."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from interp.model.load import load
from interp.model.model import Model
from tests.architectures import GROUPED, SLIDING_THEN_FULL, decoder, randomised


def tiny_llama(
    *, tokenizer: PreTrainedTokenizerBase | None = None, n_layers: int = 2, n_kv_heads: int = 2, seed: int = 0
) -> Model:
    """A Llama with four query heads per layer, and weights drawn wide enough for patterns far from uniform."""
    config = LlamaConfig(
        vocab_size=60 if tokenizer is None else len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=n_kv_heads,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    generator = torch.Generator().manual_seed(seed)
    hf = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in hf.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3, generator=generator)
    return load(hf, tokenizer)


def tiny_windowed(tokenizer: PreTrainedTokenizerBase, *, window: int = 8) -> Model:
    """A Gemma 2 whose first layer sees a few tokens only, its second one all of them."""
    sizes = {**GROUPED, "vocab_size": len(tokenizer), "max_position_embeddings": 128}
    return load(randomised(decoder("Gemma2", sizes, sliding_window=window, layer_types=SLIDING_THEN_FULL)), tokenizer)
