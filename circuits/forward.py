"""Running a model on prompts of a task: only as far as END, and logits only there."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.tasks import Task, TaskPrompts
from interp.attention.participants import Participant
from interp.attention.session import watch
from interp.errors import InputError
from interp.model.model import Model


def check_language_model(model: Model) -> None:
    """Refuse what cannot finish a prompt.

    Raises:
        InputError: not a causal language model, or no tokenizer.
    """
    if model.tokenizer is None:
        raise InputError(f"{model.name} has no tokenizer, so a task cannot be written for it. Pass tokenizer=.")
    if not model.capabilities.generates or "self" not in model.capabilities.kinds:
        raise InputError(f"{model.name} is not a language model that continues a prompt. Use a causal language model.")
    if "encoder" in model.capabilities.kinds:
        raise InputError(f"{model.name} has an encoder, which the tasks have no text for. Use a decoder-only model.")


def by_length(prompts: TaskPrompts, task: Task) -> TaskPrompts:
    """The prompts from short to long, so that batches need little padding; equal lengths keep their order."""
    return prompts.select(prompts.positions[task.answer_position].argsort(stable=True))


def batches(prompts: TaskPrompts, task: Task, size: int) -> Iterator[tuple[slice, TaskPrompts]]:
    """Batches of at most `size` prompts and their places, cut behind the last answer position of the batch."""
    for start in range(0, len(prompts), size):
        place = slice(start, min(start + size, len(prompts)))
        yield place, _cut(prompts.select(place), task)


def answer_metric(
    model: Model,
    task: Task,
    prompts: TaskPrompts,
    tokens: Int[Tensor, "batch position"],
    *participants: Participant,
) -> Float[Tensor, " batch"]:
    """The task's metric of each row of `tokens` with these readers and editors on the model.

    `tokens` are the clean or the corrupted prompts, or several copies of them below each other; the answers are the
    prompts' own.
    """
    logits = answer_logits(model, tokens, _repeat(prompts.positions[task.answer_position], len(tokens)), *participants)
    return task.metric(logits, _stacked(prompts, len(tokens)))


def answer_logits(
    model: Model,
    tokens: Int[Tensor, "batch position"],
    positions: Int[Tensor, " batch"],
    *participants: Participant,
) -> Float[Tensor, "batch vocab"]:
    """Logits at one position of each row, in float32 on the CPU. Padding on the right needs no mask: it comes later."""
    wanted = positions.unique()
    column = torch.searchsorted(wanted, positions)
    keep = accepts(model, "logits_to_keep")
    options: dict[str, Any] = {"logits_to_keep": wanted.to(model.device)} if keep else {}
    if accepts(model, "use_cache"):
        options["use_cache"] = False
    with watch(model, *participants) if participants else nullcontext():
        logits: Tensor = model.hf(input_ids=tokens.to(model.device), **options).logits
    chosen = column if keep else positions
    return logits[torch.arange(len(tokens), device=logits.device), chosen.to(logits.device)].float().cpu()


def accepts(model: Model, name: str) -> bool:
    """Whether the Hugging Face model takes this keyword, such as ``logits_to_keep``."""
    return name in inspect.signature(model.hf.forward).parameters


def _cut(prompts: TaskPrompts, task: Task) -> TaskPrompts:
    end = int(prompts.positions[task.answer_position].max()) + 1
    return replace(
        prompts,
        clean=prompts.clean[:, :end],
        corrupted=prompts.corrupted[:, :end],
        attention_mask=prompts.attention_mask[:, :end],
    )


def _stacked(prompts: TaskPrompts, n_rows: int) -> TaskPrompts:
    """The prompts, copied below each other as often as the rows need."""
    copies = n_rows // len(prompts)
    return prompts if copies == 1 else prompts.select(torch.arange(len(prompts)).repeat(copies))


def _repeat(positions: Int[Tensor, " prompt"], n_rows: int) -> Int[Tensor, " row"]:
    return positions.repeat(n_rows // len(positions))
