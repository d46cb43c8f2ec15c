"""Attribution patching: a first-order estimate of patching every head, from one backward pass per direction."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from circuits.forward import answer_metric, batches
from circuits.patching import PatchedMetrics, attention_heads, empty_metrics
from circuits.tasks import Task, TaskPrompts
from interp.interventions.blend_heads import BlendHeads
from interp.interventions.capture_heads import CaptureHeads
from interp.model.model import Model


def attribute_heads(
    model: Model,
    task: Task,
    prompts: TaskPrompts,
    *,
    batch_size: int = 64,
    progress: bool | None = None,
) -> PatchedMetrics:
    """Estimate what `patch_heads` measures.

    *Formula*: ``m(patched) ~ m(run) + sum over positions of grad_z m(run) . (z_other - z_run)``, for each head by
    itself; exact where the metric is linear in the head's z.
    *Source*: Nanda 2023, "Attribution Patching"; Syed, Rager, Conmy 2023, arXiv 2310.10348. Difference: both
    directions, every prompt's own number. `transformer_lens.tools.analysis.attribution_patch` gives the denoising
    direction per position, averaged over prompts; a test compares.
    """
    clean, corrupted = torch.empty(len(prompts)), torch.empty(len(prompts))
    noised, denoised = empty_metrics(model, len(prompts)), empty_metrics(model, len(prompts))
    hidden = None if progress is None else not progress
    with tqdm(total=2 * len(prompts), desc="attributing", unit="run", disable=hidden) as bar:
        for place, batch in batches(prompts, task, batch_size):
            clean_heads, corrupted_heads = CaptureHeads(), CaptureHeads()
            # Not inference mode: autograd has to save these outputs.
            with torch.no_grad():
                answer_metric(model, task, batch, batch.clean, clean_heads)
                answer_metric(model, task, batch, batch.corrupted, corrupted_heads)
            clean[place], change = _slopes(model, task, batch, batch.clean, corrupted_heads.z)
            noised[:, :, place] = clean[place] + change
            bar.update(len(batch))
            corrupted[place], change = _slopes(model, task, batch, batch.corrupted, clean_heads.z)
            denoised[:, :, place] = corrupted[place] + change
            bar.update(len(batch))
    absent = torch.ones(model.n_layers, model.n_heads, dtype=torch.bool)
    absent[[head.layer for head in attention_heads(model)], [head.head for head in attention_heads(model)]] = False
    noised[absent], denoised[absent] = torch.nan, torch.nan
    return PatchedMetrics(clean=clean, corrupted=corrupted, noised=noised, denoised=denoised)


def _slopes(
    model: Model,
    task: Task,
    batch: TaskPrompts,
    tokens: Int[Tensor, "prompt position"],
    targets: dict[int, Float[Tensor, "prompt position head d_head"]],
) -> tuple[Float[Tensor, " prompt"], Float[Tensor, "layer head prompt"]]:
    """The metric of a run, and its slope along the way from each head's outputs to their targets."""
    shares = torch.zeros(len(batch), model.n_layers, model.n_heads, requires_grad=True)
    with torch.enable_grad():
        metric = answer_metric(model, task, batch, tokens, BlendHeads(targets, shares))
        # Prompts do not see each other, so the gradient of the sum holds each prompt's own.
        (slopes,) = torch.autograd.grad(metric.sum(), shares)
    return metric.detach(), slopes.permute(1, 2, 0)
