"""Needles without language: random tokens hidden in random tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.retrieval.needles import DEPTHS, NeedlePrompt, check_places, turns
from interp.errors import InputError
from interp.model.model import Model
from interp.stimuli import first_tokens, ordinary_tokens


def random_needle_prompts(
    model: Model,
    *,
    lengths: Sequence[int],
    depths: Sequence[float] = DEPTHS,
    n_needles: int = 3,
    cue: int = 4,
    answer: int = 8,
    shared: bool = False,
    seed: int = 0,
) -> list[NeedlePrompt]:
    """Needles without language: random tokens, among them a cue and an answer; the prompt ends with the cue again.

    For models and tokenizers that no text is at hand for. It measures retrieval by literal match, which induction heads
    do; a natural haystack also asks for retrieval by meaning. Tokens of a needle occur nowhere else.

    Arguments:
        lengths: tokens of a prompt, cue included, answer not.
        depths: in [0, 1].
        cue, answer: tokens of each.
        shared: all needles stand in one haystack, as in `needle_prompts`.

    Returns:
        In the order of `needle_prompts`.

    Raises:
        InputError: a length too short for needles and cue or longer than the context, too few tokens for needles that
            have theirs alone, or a depth outside [0, 1].
    """
    check_places(lengths, depths, n_needles)
    vocabulary = ordinary_tokens(model.tokenizer)
    lead = torch.tensor(first_tokens(model), dtype=torch.long)
    together = n_needles if shared else 1
    tokens = together * (cue + answer)
    if len(vocabulary) < tokens + cue + answer or min(lengths) < len(lead) + tokens + cue:
        raise InputError(
            f"Lengths {list(lengths)} and {len(vocabulary)} ordinary tokens leave no room for {together} needles with "
            f"a cue of {cue} and an answer of {answer} tokens in a haystack. Ask for longer prompts, or for fewer or "
            "shorter needles."
        )
    generator = torch.Generator().manual_seed(seed)
    prompts: list[NeedlePrompt] = []
    for length in lengths:
        for first in range(0, n_needles, together):
            order = vocabulary[torch.randperm(len(vocabulary), generator=generator)]
            needles, others = order[:tokens].view(together, -1), order[tokens:]
            size = length - len(lead) - tokens - cue
            hay = others[torch.randint(len(others), (size,), generator=generator)]
            for places in turns(together, depths):
                prompts += _prompts(lead, hay, needles, [round(depth * size) for depth in places], cue, first)
    model.batch(max(prompts, key=lambda prompt: len(prompt.tokens)).tokens)
    return prompts


def _prompts(
    lead: Int[Tensor, " lead"],
    hay: Int[Tensor, " hay"],
    needles: Int[Tensor, "needle token"],
    places: Sequence[int],
    cue: int,
    first: int,
) -> list[NeedlePrompt]:
    """A prompt for each of the needles, which stand behind so many tokens of one haystack; `first` is their number."""
    pieces, starts, written = [lead], [0] * len(needles), 0
    for index in sorted(range(len(needles)), key=lambda index: places[index]):
        pieces.append(hay[written : places[index]])
        written = places[index]
        starts[index] = sum(map(len, pieces))
        pieces.append(needles[index])
    context = torch.cat([*pieces, hay[written:]])
    others = len(context) - len(lead) - needles.shape[1]
    return [
        NeedlePrompt(
            tokens=torch.cat([context, needle]),
            answer_start=len(context) + cue,
            needle=(start + cue, start + len(needle)),
            question_start=len(context),
            depth=(start - len(lead)) / max(1, others),
            name=f"random needle {first + index}",
            hidden=len(needles),
        )
        for index, (start, needle) in enumerate(zip(starts, needles, strict=True))
    ]
