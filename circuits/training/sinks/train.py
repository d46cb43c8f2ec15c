"""The recipe of the embedded model `mini-sinks`: `python -m circuits.training.sinks.train` trains and measures it."""

import argparse
import copy
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from circuits.backcopy_evaluate import ROW_TOKENS, held_out_text
from circuits.emergence import measure_emergence, write_emergence
from circuits.training.card import save_model
from circuits.training.reproduction import close, compare_with_card
from circuits.training.sinks.card import write_card
from circuits.training.sinks.measure import NAME, Run, measure
from circuits.training.sinks.process import Process
from circuits.training.sinks.recipe import CONTROLS, RECIPE, SinksRecipe
from circuits.training.sinks.vocabulary import CONTEXT, N_TOKENS, build_tokenizer
from interp.paths import data_dir

log = logging.getLogger("circuits.training")

EMERGENCE_ROWS, EMERGENCE_SEED = 100, 1


def build_model(recipe: SinksRecipe) -> LlamaForCausalLM:
    """A Llama with random weights from the recipe's seed."""
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=N_TOKENS,
        hidden_size=recipe.d_model,
        intermediate_size=recipe.d_mlp,
        num_hidden_layers=recipe.n_layers,
        num_attention_heads=recipe.n_heads,
        max_position_embeddings=CONTEXT,
        initializer_range=recipe.initial_scale,
        **{f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad")},
    )
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        return LlamaForCausalLM(config)


def batch(recipe: SinksRecipe, step: int) -> Int[Tensor, "row token"]:
    """The rows of a step; they follow from the recipe's seed and the step."""
    length = recipe.lengths[step % len(recipe.lengths)]
    random = np.random.default_rng([recipe.seed, step])
    return Process(copies=recipe.copies).sample(recipe.batch // length, length, random)


def train(recipe: SinksRecipe) -> Run:
    """AdamW on the loss of the next token, and nothing else."""
    model = build_model(recipe).train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=recipe.weight_decay, betas=(0.9, 0.98))
    kept: dict[int, LlamaForCausalLM] = {}
    curve: list[dict[str, Any]] = []
    began = time.process_time()
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.stage.rate(step)
        tokens = batch(recipe, step)
        loss = cross_entropy(model(input_ids=tokens).logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % recipe.log_every == 0:
            curve.append({"step": step + 1, "loss": round(loss.item(), 4)})
            log.info("%s", curve[-1])
        if step + 1 in recipe.kept_steps:
            kept[step + 1] = copy.deepcopy(model).eval()
    return Run(recipe=recipe, model=model.eval(), kept=kept, curve=curve, seconds=time.process_time() - began)


def main() -> None:
    """Train the model and its controls, measure and save.

    Exits with 1 when the numbers are not those of the shipped card, within the tolerance that the card states.
    """
    parser = argparse.ArgumentParser(description=f"Train the embedded model {NAME} from nothing and measure it.")
    parser.add_argument("--out", type=Path, default=data_dir() / "models" / NAME, help="directory of the model")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)  # one thread sums in one order, so that the same machine makes the same weights
    run = train(RECIPE)
    controls: dict[str, Run] = {}
    for name, recipe in CONTROLS.items():
        log.info("control: %s", name)
        controls[name] = train(recipe)
    metrics = measure(run, controls)
    compared = compare_with_card(NAME, metrics)
    save_model(arguments.out, run.model, build_tokenizer())
    write_card(arguments.out, metrics)
    curves = measure_emergence(
        run.kept,
        text=held_out_text(EMERGENCE_ROWS, EMERGENCE_SEED, Process()),
        text_name=f"{EMERGENCE_ROWS} held-out rows of {ROW_TOKENS} tokens",
        name=NAME,
        tokenizer=build_tokenizer(),
        device="cpu",
        notes={"recipe": NAME, "seed": RECIPE.seed},
    )
    write_emergence(arguments.out, curves)
    close(arguments.out, compared)


if __name__ == "__main__":
    main()
