"""The recipe of the embedded model `mini`: `python -m circuits.training.mini` trains and measures it."""

import argparse
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from circuits.training.card import measure, save_model, write_card
from circuits.training.checkpoint import load_checkpoint, save_checkpoint
from circuits.training.mixture import KINDS, Kind, Mixture
from circuits.training.recipe import Recipe
from circuits.training.tokenizer import build_tokenizer
from interp.paths import data_dir

log = logging.getLogger("circuits.training")


START_YEAR = 4
"""The start year stands so many tokens before the century that the end year follows: "32 to the year 17"."""


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """A Llama with random weights from the recipe's seed."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.d_model,
        intermediate_size=recipe.d_mlp,
        num_hidden_layers=recipe.n_layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=recipe.initial_scale,
        **{f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad")},
    )
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        return LlamaForCausalLM(config)


def loss_by_kind(
    model: LlamaForCausalLM,
    tokens: Int[Tensor, "row token"],
    kinds: Int[Tensor, "row token"],
    years: Int[Tensor, " year"] | None = None,
) -> dict[Kind, tuple[Float[Tensor, ""], float]]:
    """Mean cross entropy in nats, and top-1 accuracy, of each kind of target in the batch.

    With `years`, the tokens 00 to 99, the target of greater-than is uniform over the years after the start year.
    """
    wanted = kinds[:, 1:] >= 0
    hidden = model.model(input_ids=tokens).last_hidden_state[:, :-1][wanted]
    logits = model.lm_head(hidden)
    targets, kinds = tokens[:, 1:][wanted], kinds[:, 1:][wanted]
    losses = cross_entropy(logits, targets, reduction="none")
    if years is not None:
        row, place = wanted.nonzero(as_tuple=True)
        asked = kinds == KINDS.index("greater-than")
        start = tokens[row[asked], place[asked] - START_YEAR]
        valid = torch.arange(len(years)) > (start[:, None] == years).int().argmax(-1, keepdim=True)
        log_shares = logits[asked].log_softmax(-1)[:, years]
        losses = losses.index_put((asked.nonzero().squeeze(-1),), -(log_shares * valid).sum(-1) / valid.sum(-1))
    right = (logits.detach().argmax(dim=-1) == targets).float()
    present = {index: kinds == index for index in kinds.unique().tolist()}
    return {KINDS[index]: (losses[mask].mean(), right[mask].mean().item()) for index, mask in present.items()}


def train(
    recipe: Recipe, work: Path, *, stop_at: int | None = None
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase, dict[str, Any]]:
    """Train, or go on from the checkpoint in `work`, up to the step `stop_at` or the recipe's last.

    Returns model, tokenizer and progress (step, seconds, curve of losses).
    """
    tokenizer = build_tokenizer()
    model = build_model(recipe, tokenizer)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    gains = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": gains, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.stages[0].peak_rate, betas=(0.9, 0.98))
    mixture = Mixture(
        tokenizer=tokenizer,
        seed=recipe.seed,
        sizes=recipe.sizes,
        copying_steps=recipe.copying_steps,
        growing_steps=recipe.growing_steps,
    )
    progress = load_checkpoint(work, model, optimizer) or {"step": 0, "seconds": 0.0, "curve": []}
    log.info("%d parameters, from step %d", sum(p.numel() for p in model.parameters()), progress["step"])
    model.train()
    last = min(recipe.steps, stop_at or recipe.steps)
    while progress["step"] < last:
        began = time.perf_counter()
        record = _step(recipe, model, optimizer, mixture, progress["step"])
        progress["step"] += 1
        progress["seconds"] += time.perf_counter() - began
        if progress["step"] % recipe.log_every == 0:
            progress["curve"].append(record)
            log.info("step %d, %.0f s: %s", progress["step"], progress["seconds"], record)
        if progress["step"] % recipe.save_every == 0 or progress["step"] == last:
            save_checkpoint(work, model, optimizer, progress)
    return model.eval(), tokenizer, progress


def _step(
    recipe: Recipe, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, mixture: Mixture, step: int
) -> dict[str, Any]:
    """One optimiser step; returns loss and accuracy of each kind of target."""
    tokens, kinds = mixture.batch(step)
    stage, stage_step = recipe.stage_at(step)
    for group in optimizer.param_groups:
        group["lr"] = stage.rate(stage_step)
    measured = loss_by_kind(model, tokens, kinds, mixture.years if stage.exact_years else None)
    weights = dict(zip(KINDS, stage.kind_weights, strict=True))
    loss = torch.stack([weights[kind] * value for kind, (value, _) in measured.items()]).sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    losses = {kind: round(value.item(), 4) for kind, (value, _) in measured.items()}
    accuracies = {f"{kind} accuracy": round(value, 4) for kind, (_, value) in measured.items()}
    return {"step": step + 1, "tokens": list(tokens.shape)} | losses | accuracies


def main() -> None:
    """Train, save and measure; a second call goes on where the first was stopped."""
    parser = argparse.ArgumentParser(description="Train the embedded model mini from nothing and measure it.")
    parser.add_argument("--out", type=Path, default=data_dir() / "models" / "mini", help="directory of the model")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "interp-mini", help="directory of the checkpoint"
    )
    parser.add_argument("--steps", type=int, help="stop after so many steps, for a trial")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)  # one thread sums in one order, so that the same machine makes the same weights
    recipe = Recipe()
    model, tokenizer, progress = train(recipe, arguments.work, stop_at=arguments.steps)
    save_model(arguments.out, model, tokenizer)
    write_card(arguments.out, measure(recipe, model, tokenizer, progress))
    log.info("saved to %s", arguments.out)


if __name__ == "__main__":
    main()
