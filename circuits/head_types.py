"""What heads do whatever the task: scores on repeated random tokens."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.tasks.encode import resolve_bos
from circuits.tasks.induction import ordinary_tokens
from interp.errors import InputError
from interp.model.model import Model
from interp.results import HeadScores
from interp.scanning import scan

TYPES = ("previous-token", "duplicate-token", "induction")
BLOCK, COPIES, EXAMPLES = 25, 4, 10


def head_types(model: Model, *, seed: int, progress: bool | None = None) -> dict[str, HeadScores]:
    """Previous-token, duplicate-token and induction scores on repeated random tokens.

    *Source* of the stimulus: Olsson et al. 2022, arXiv 2209.11895: 25 random tokens, four times, ten examples. Shorter
    blocks where the context or the vocabulary is small.

    Raises:
        InputError: the context or the vocabulary is too small for two copies of two tokens.
    """
    found = scan(model, repeated_tokens(model, seed=seed), TYPES, seed=seed, progress=progress)
    return {name: scores for name, scores in found.items() if isinstance(scores, HeadScores)}


def repeated_tokens(model: Model, *, seed: int) -> Int[Tensor, "example position"]:
    """Different random tokens, then the same again; a BOS in front where the tokenizer puts one."""
    bos = resolve_bos(model.tokenizer, None)
    vocabulary = ordinary_tokens(model.tokenizer)
    room = (model.n_ctx or BLOCK * COPIES + 1) - bos
    copies = COPIES if room >= COPIES * 8 else 2
    length = min(BLOCK, room // copies, len(vocabulary))
    if length < 2:
        raise InputError(
            f"{model.name} takes {model.n_ctx} tokens at a time out of {len(vocabulary)} ordinary ones: too few to "
            "repeat two random tokens. Use a model with a longer context."
        )
    generator = torch.Generator().manual_seed(seed)
    draws = [torch.randperm(len(vocabulary), generator=generator)[:length] for _ in range(EXAMPLES)]
    tokens = vocabulary[torch.stack(draws)].repeat(1, copies)
    lead = torch.full((EXAMPLES, int(bos)), model.tokenizer.bos_token_id if bos else 0)
    return torch.cat([lead, tokens], 1)
