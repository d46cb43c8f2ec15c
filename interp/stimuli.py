"""Token sequences that scores are measured on: random tokens, and the same again."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from interp.errors import InputError
from interp.model.model import Model
from interp.model.tokens import leading_tokens

BLOCK, COPIES, EXAMPLES = 25, 4, 10


def repeated_tokens(
    model: Model, *, seed: int, length: int = BLOCK, copies: int = COPIES, n_examples: int = EXAMPLES
) -> Int[Tensor, "example position"]:
    """Different random tokens, then the same again; the tokenizer's own first token (BOS) in front.

    Blocks are shorter where the context or the vocabulary is small, and there are two copies where four would be
    shorter than eight tokens each.

    *Source* of the defaults: Olsson et al. 2022, arXiv 2209.11895: 25 random tokens, four times, ten examples.
    Difference: no token stands twice in a block, and common and rare tokens are not left out.

    Raises:
        InputError: the context or the vocabulary is too small for two tokens per block, or there are no tokens.
    """
    lead = first_tokens(model)
    vocabulary = torch.arange(model.d_vocab) if model.tokenizer is None else ordinary_tokens(model.tokenizer)
    room = (model.n_ctx or length * copies + len(lead)) - len(lead)
    copies = copies if room >= copies * 8 else min(copies, 2)
    length = min(length, room // copies, len(vocabulary))
    if length < 2:
        raise InputError(
            f"{model.name} takes {model.n_ctx} tokens at a time out of {len(vocabulary)} ordinary ones: too few to "
            "repeat two random tokens. Use a model with a longer context."
        )
    generator = torch.Generator().manual_seed(seed)
    draws = [torch.randperm(len(vocabulary), generator=generator)[:length] for _ in range(n_examples)]
    tokens = vocabulary[torch.stack(draws)].repeat(1, copies)
    return torch.cat([torch.tensor(lead, dtype=torch.long).expand(n_examples, -1), tokens], 1)


def first_tokens(model: Model) -> list[int]:
    """What the tokenizer puts in front of every text by itself: its BOS (or CLS) token, or nothing."""
    return [] if model.tokenizer is None else leading_tokens(model.tokenizer, None)


def ordinary_tokens(tokenizer: PreTrainedTokenizerBase) -> Int[Tensor, " vocab"]:
    """All token ids except special ones, in order."""
    special = set(tokenizer.all_special_ids)
    return torch.tensor([token for token in range(len(tokenizer)) if token not in special])
