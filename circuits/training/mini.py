"""The recipe of the embedded models: `python -m circuits.training.mini mini` trains and measures one."""

import argparse
import logging
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from circuits.emergence import measure_emergence, write_emergence
from circuits.training.card import measure, save_model, write_card
from circuits.training.checkpoint import load_checkpoint, save_checkpoint
from circuits.training.head_price import writing_heads
from circuits.training.mixture import KINDS, Mixture
from circuits.training.recipe import RECIPES, Recipe
from circuits.training.reproduction import close, compare_with_card
from circuits.training.tokenizer import build_tokenizer
from interp.paths import data_dir

log = logging.getLogger("circuits.training")


START_YEAR = 4
"""The start year stands so many tokens before the century that the end year follows: "32 to the year 17"."""


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with random weights from the recipe's seed."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.d_model,
        head_dim=recipe.d_head,
        intermediate_size=recipe.d_mlp,
        num_hidden_layers=recipe.n_layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_theta},
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
) -> dict[str, tuple[Float[Tensor, ""], float]]:
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
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, dict[str, Any]]:
    """Train, or go on from the checkpoint in `work`, up to the step `stop_at` or the recipe's last.

    The models of the recipe's kept steps go to `work/checkpoints`.

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
        if progress["step"] in recipe.kept_steps:
            save_model(work / "checkpoints" / f"step-{progress['step']:05d}", model, tokenizer)
        if progress["step"] % recipe.save_every == 0 or progress["step"] == last:
            save_checkpoint(work, model, optimizer, progress)
    return model.eval(), tokenizer, progress


def _step(
    recipe: Recipe, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, mixture: Mixture, step: int
) -> dict[str, Any]:
    """One optimiser step; returns loss and accuracy of each kind of target, and how many heads write."""
    tokens, kinds = mixture.batch(step)
    stage, stage_step = recipe.stage_at(step)
    for group in optimizer.param_groups:
        group["lr"] = stage.rate(stage_step)
    with writing_heads(model) if stage.head_price else nullcontext([]) as counts:
        measured = loss_by_kind(model, tokens, kinds, mixture.years if stage.exact_years else None)
    n_writing = torch.stack(counts).sum() if counts else torch.zeros(())
    loss = torch.stack([stage.weight(kind) * value for kind, (value, _) in measured.items()]).sum()
    optimizer.zero_grad(set_to_none=True)
    (loss + stage.head_price * n_writing).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    losses = {kind: round(value.item(), 4) for kind, (value, _) in measured.items()}
    accuracies = {f"{kind} accuracy": round(value, 4) for kind, (_, value) in measured.items()}
    shape = {"step": step + 1, "tokens": list(tokens.shape)}
    writing = {"writing heads": round(n_writing.item(), 2)} if counts else {}
    return shape | writing | losses | accuracies


def main() -> None:
    """Train, save and measure; a second call goes on where the first was stopped.

    Exits with 1 when the numbers are not those of the shipped card, within the tolerance that the card states.
    """
    parser = argparse.ArgumentParser(description="Train an embedded model from nothing and measure it.")
    parser.add_argument("name", choices=list(RECIPES), help="which model")
    parser.add_argument("--out", type=Path, help="directory of the model; its place in data/models")
    parser.add_argument("--work", type=Path, help="directory of the checkpoints; one below the temporary directory")
    parser.add_argument("--steps", type=int, help="stop after so many steps, for a trial")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)  # one thread sums in one order, so that the same machine makes the same weights
    recipe = RECIPES[arguments.name]
    out = arguments.out or data_dir() / "models" / arguments.name
    work = arguments.work or Path(tempfile.gettempdir()) / f"interp-{arguments.name}"
    model, tokenizer, progress = train(recipe, work, stop_at=arguments.steps)
    metrics = measure(arguments.name, recipe, model, tokenizer, progress)
    compared = compare_with_card(arguments.name, metrics, whole=progress["step"] == recipe.steps)
    save_model(out, model, tokenizer)
    write_card(out, metrics)
    if progress["step"] == recipe.steps:
        notes = {"recipe": arguments.name, "seed": recipe.seed}
        write_emergence(out, measure_emergence(work / "checkpoints", name=arguments.name, notes=notes, device="cpu"))
    close(out, compared)


if __name__ == "__main__":
    main()
