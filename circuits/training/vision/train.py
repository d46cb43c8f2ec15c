"""The recipe of the embedded model `mini-vl`: `python -m circuits.training.vision.train` trains and measures it."""

import argparse
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerBase

from circuits.training.checkpoint import load_checkpoint, save_checkpoint
from circuits.training.reproduction import close, compare_with_card
from circuits.training.vision.architecture import build_model, build_processor
from circuits.training.vision.batches import (
    IGNORED,
    NAMES,
    TARGETS,
    PackedBatch,
    packed_batch,
    packed_hidden,
    patch_names,
    pixel_values,
    training_scenes,
)
from circuits.training.vision.card import measure, save, write_card
from circuits.training.vision.recipe import SceneRecipe
from circuits.training.vision.scenes import Scene
from interp.paths import data_dir

log = logging.getLogger("circuits.training")

Losses = dict[str, tuple[Float[Tensor, ""], float]]
"""Mean cross entropy in nats, and top-1 accuracy, by kind of target."""


def loss_by_kind(model: LlavaForConditionalGeneration, batch: PackedBatch) -> Losses:
    """Losses on each of `TARGETS` that is there."""
    wanted = batch.kinds[:, 1:] != IGNORED
    logits = model.lm_head(packed_hidden(model, batch)[:, :-1][wanted])
    targets, kinds = batch.tokens[:, 1:][wanted], batch.kinds[:, 1:][wanted]
    losses = cross_entropy(logits, targets, reduction="none")
    right = (logits.detach().argmax(dim=-1) == targets).float()
    masks = {TARGETS[index]: kinds == index for index in kinds.unique().tolist()}
    return {kind: (losses[mask].mean(), right[mask].mean().item()) for kind, mask in masks.items()}


def loss_by_name(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, scenes: list[Scene], pictures: Tensor
) -> Losses:
    """Losses of naming what each patch shows: its projected feature against the embeddings of the words.

    This stands for the pretraining with which CLIP's tower comes to LLaVA: a patch lies near the words for it.
    """
    inner: Any = model.model
    features = torch.stack(inner.get_image_features(pixel_values(pictures)).pooler_output)
    measured: Losses = {}
    for respect, targets in patch_names(scenes).items():
        ids = tokenizer([" " + word for word in NAMES[respect]], add_special_tokens=False, return_tensors="pt")
        logits = features @ model.get_input_embeddings()(ids["input_ids"][:, 0]).T
        named = targets != IGNORED
        if respect == "shape":  # nine tenths of the patches are background
            named &= (targets > 0) | (torch.rand(targets.shape, generator=torch.Generator().manual_seed(0)) < 0.2)
        accuracy = (logits[named].argmax(-1) == targets[named]).float().mean().item()
        measured[respect] = cross_entropy(logits[named], targets[named]), accuracy
    return measured


def train(
    recipe: SceneRecipe, work: Path, *, stop_at: int | None = None
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor, dict[str, Any]]:
    """Train, or go on from the checkpoint in `work`, up to the step `stop_at` or the recipe's last.

    Returns model, processor and progress (step, seconds, curve of losses).
    """
    processor: Any = build_processor()
    model = build_model(recipe, processor.tokenizer)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    gains = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": gains, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.stages[0].peak_rate, betas=(0.9, 0.98))
    progress = load_checkpoint(work, model, optimizer) or {"step": 0, "seconds": 0.0, "curve": []}
    log.info("%d parameters, from step %d", sum(p.numel() for p in model.parameters()), progress["step"])
    model.train()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)  # so that those that a stage leaves out have moments as well
    last = min(recipe.steps, stop_at or recipe.steps)
    while progress["step"] < last:
        began = time.process_time()
        record = _step(recipe, model, optimizer, processor.tokenizer, progress["step"])
        progress["step"] += 1
        progress["seconds"] += time.process_time() - began
        if progress["step"] % recipe.log_every == 0:
            progress["curve"].append(record)
            log.info("step %d, %.0f s: %s", progress["step"], progress["seconds"], record)
        if progress["step"] % recipe.save_every == 0 or progress["step"] == last:
            save_checkpoint(work, model, optimizer, progress)
    return model.eval(), processor, progress


def _step(
    recipe: SceneRecipe,
    model: LlavaForConditionalGeneration,
    optimizer: torch.optim.Optimizer,
    tokenizer: PreTrainedTokenizerBase,
    step: int,
) -> dict[str, Any]:
    """One optimiser step; returns loss and accuracy of each kind of target."""
    stage, stage_step = recipe.stage_at(step)
    for group in optimizer.param_groups:
        group["lr"] = stage.rate(stage_step)
    scenes, random = training_scenes(recipe, step)
    batch = packed_batch(scenes, stage, random, tokenizer)
    if stage.naming:
        measured = loss_by_name(model, tokenizer, scenes, batch.pictures)
        loss = torch.stack([value for value, _ in measured.values()]).sum()
    else:
        measured = loss_by_kind(model, batch)
        weights = dict(zip(TARGETS, stage.kind_weights, strict=True))
        loss = torch.stack([weights[kind] * value for kind, (value, _) in measured.items()]).sum()
    optimizer.zero_grad(set_to_none=False)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    losses = {kind: round(value.item(), 4) for kind, (value, _) in measured.items()}
    accuracies = {f"{kind} accuracy": round(value, 4) for kind, (_, value) in measured.items()}
    return {"step": step + 1} | losses | accuracies


def main() -> None:
    """Train, save and measure; a second call goes on where the first was stopped.

    Exits with 1 when the numbers are not those of the shipped card, within the tolerance that the card states.
    """
    parser = argparse.ArgumentParser(description="Train the embedded model mini-vl from nothing and measure it.")
    parser.add_argument("--out", type=Path, default=data_dir() / "models" / "mini-vl", help="directory of the model")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "interp-mini-vl", help="directory of the checkpoint"
    )
    parser.add_argument("--steps", type=int, help="stop after so many steps, for a trial")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)  # one thread sums in one order, so that the same machine makes the same weights
    recipe = SceneRecipe()
    model, processor, progress = train(recipe, arguments.work, stop_at=arguments.steps)
    metrics = measure(recipe, model, processor, progress)
    compared = compare_with_card("mini-vl", metrics, whole=progress["step"] == recipe.steps)
    save(arguments.out, model, processor)
    write_card(arguments.out, metrics)
    close(arguments.out, compared)


if __name__ == "__main__":
    main()
