"""Summaries of passages that a model writes, scored against the passage."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from circuits.tasks.encode import padding_token
from circuits.tasks.facts import ScoredSentence, score_summary
from circuits.tasks.passage import SummaryPrompt

LONGEST_SUMMARY = 64
"""Tokens."""
BATCH = 64


def scored_summaries(
    model: Callable[..., Any], tokenizer: PreTrainedTokenizerBase, prompts: Sequence[SummaryPrompt]
) -> list[list[ScoredSentence]]:
    """The sentences of each greedy summary, up to its line break, with what the passage says to them."""
    written = greedy_continuations(model, tokenizer, [prompt.text for prompt in prompts], stop="\n")
    return [score_summary(prompt.passage, text) for prompt, text in zip(prompts, written, strict=True)]


def greedy_continuations(
    model: Callable[..., Any],
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    stop: str,
    longest: int = LONGEST_SUMMARY,
) -> list[str]:
    """What a model writes after each text, always the most probable token, up to `stop`, EOS or so many tokens."""
    return [
        text
        for start in range(0, len(texts), BATCH)
        for text in _continue(model, tokenizer, texts[start : start + BATCH], stop, longest)
    ]


def _continue(
    model: Callable[..., Any], tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], stop: str, longest: int
) -> list[str]:
    device = getattr(model, "device", torch.device("cpu"))
    rows: list[list[int]] = tokenizer(list(texts))["input_ids"]
    starts, open_rows = [len(row) for row in rows], list(range(len(rows)))
    for _ in range(longest):
        width, pad = max(len(rows[i]) for i in open_rows), padding_token(tokenizer)
        tokens = torch.tensor([rows[i] + [pad] * (width - len(rows[i])) for i in open_rows])
        lengths = torch.tensor([len(rows[i]) for i in open_rows])
        mask = (torch.arange(width) < lengths[:, None]).long()
        with torch.inference_mode():
            output = model(input_ids=tokens.to(device), attention_mask=mask.to(device))
        logits = output if isinstance(output, Tensor) else output.logits
        best = logits[torch.arange(len(open_rows)), lengths - 1].argmax(dim=-1).tolist()
        for i, token in zip(open_rows, best, strict=True):
            rows[i].append(token)
        ended = {
            i
            for i, token in zip(open_rows, best, strict=True)
            if token == tokenizer.eos_token_id or stop in tokenizer.decode([token])
        }
        open_rows = [i for i in open_rows if i not in ended]
        if not open_rows:
            break
    return [str(tokenizer.decode(row[start:])).split(stop)[0] for row, start in zip(rows, starts, strict=True)]
