"""Exact patching of head outputs: what happens to a task when one head speaks as it did on the other prompt.

*Noising*: the clean prompt runs with one head's z from the corrupted prompt; *denoising*: the other way round. All
positions are patched. Noising finds what the behaviour needs, denoising what is enough to bring it back; they differ
where heads work in series (denoising) or stand in for each other (noising).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from circuits.forward import answer_metric, batches
from circuits.tasks import Task, TaskPrompts
from interp.heads import HeadRef
from interp.interventions.capture_heads import CaptureHeads
from interp.interventions.replace_heads import HeadValues, ReplaceHeads
from interp.model.model import Model


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchedMetrics:
    """The task's metric of every prompt, before and after patching each head; NaN for heads not patched.

    Attributes:
        clean, corrupted: metric of the unpatched runs.
        noised: of the clean prompt with one head's outputs from the corrupted one.
        denoised: of the corrupted prompt with one head's outputs from the clean one.
    """

    clean: Float[Tensor, " prompt"]
    corrupted: Float[Tensor, " prompt"]
    noised: Float[Tensor, "layer head prompt"]
    denoised: Float[Tensor, "layer head prompt"]

    def updated(self, other: PatchedMetrics) -> PatchedMetrics:
        """These numbers, with those of `other` where it has any."""
        noised = torch.where(other.noised.isnan(), self.noised, other.noised)
        denoised = torch.where(other.denoised.isnan(), self.denoised, other.denoised)
        return replace(self, noised=noised, denoised=denoised)


def attention_heads(model: Model) -> list[HeadRef]:
    """Every head of the model's main attention, layer by layer; layers without softmax attention have none."""
    return [HeadRef(site.layer, head) for site in model.main_sites for head in range(site.n_heads)]


def empty_metrics(model: Model, n_prompts: int) -> Float[Tensor, "layer head prompt"]:
    """Room for one number per head and prompt; NaN until measured."""
    return torch.full((model.n_layers, model.n_heads, n_prompts), torch.nan)


def patch_heads(
    model: Model,
    task: Task,
    prompts: TaskPrompts,
    *,
    heads: Sequence[HeadRef] | None = None,
    batch_size: int = 64,
    progress: bool | None = None,
) -> PatchedMetrics:
    """Patch every head (or these heads) on every prompt in both directions, exactly.

    Arguments:
        batch_size: rows of one forward pass; several heads of a layer are stacked in it. Changes speed and memory,
            never a number beyond rounding.
        progress: a bar on stderr; None shows it on a terminal only.
    """
    chosen = attention_heads(model) if heads is None else list(heads)
    clean, corrupted = torch.empty(len(prompts)), torch.empty(len(prompts))
    noised, denoised = empty_metrics(model, len(prompts)), empty_metrics(model, len(prompts))
    total = 2 * len(chosen) * len(prompts)
    with (
        torch.inference_mode(),
        tqdm(total=total, desc="patching heads", unit="run", disable=None if progress is None else not progress) as bar,
    ):
        for place, batch in batches(prompts, task, batch_size):
            clean_heads, corrupted_heads = CaptureHeads(), CaptureHeads()
            clean[place] = answer_metric(model, task, batch, batch.clean, clean_heads)
            corrupted[place] = answer_metric(model, task, batch, batch.corrupted, corrupted_heads)
            for layer, stack in _stacks(chosen, batch_size // len(batch)):
                for tokens, source, result in (
                    (batch.clean, corrupted_heads, noised),
                    (batch.corrupted, clean_heads, denoised),
                ):
                    result[layer, stack, place] = _patched(model, task, batch, tokens, layer, stack, source.z[layer])
                    bar.update(len(stack) * len(batch))
    return PatchedMetrics(clean=clean, corrupted=corrupted, noised=noised, denoised=denoised)


def _stacks(heads: Sequence[HeadRef], size: int) -> Iterator[tuple[int, list[int]]]:
    """Heads of one layer at a time, at most `size` (and at least one) together."""
    size = max(1, size)
    for layer in sorted({head.layer for head in heads}):
        inside = [head.head for head in heads if head.layer == layer]
        for start in range(0, len(inside), size):
            yield layer, inside[start : start + size]


def _patched(
    model: Model,
    task: Task,
    batch: TaskPrompts,
    tokens: Int[Tensor, "prompt position"],
    layer: int,
    heads: list[int],
    z: Float[Tensor, "prompt position head d_head"],
) -> Float[Tensor, "patched prompt"]:
    """The metric with each of these heads patched in a copy of the batch of its own."""
    n_prompts, n_copies = len(batch), len(heads)
    chosen = torch.zeros(n_copies * n_prompts, 1, z.shape[2], dtype=torch.bool)
    chosen[torch.arange(len(chosen)), 0, torch.tensor(heads).repeat_interleave(n_prompts)] = True
    editor = ReplaceHeads({layer: HeadValues(chosen, z.repeat(n_copies, 1, 1, 1))})
    metric = answer_metric(model, task, batch, tokens.repeat(n_copies, 1), editor)
    return metric.view(n_copies, n_prompts)
