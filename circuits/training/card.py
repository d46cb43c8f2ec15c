"""Writing a trained model down: an ordinary Hugging Face directory with its numbers and its card."""

import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from circuits.evaluate import KEY, evaluate
from circuits.training.mixture import KINDS, Mixture
from circuits.training.recipe import Recipe
from circuits.training.sinks import first_token_mass

THRESHOLDS = {
    ("ioi", "accuracy"): 0.95,
    ("ioi", "logit difference"): 2.0,
    ("induction", "accuracy"): 0.95,
    ("greater-than", "valid-year mass"): 0.95,
    ("relations", "accuracy"): 0.98,
}
"""What the model must reach in every subset of a task."""
CARD_PROMPTS, CARD_SEED = 1000, 0


def save_model(folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    """Config, weights and tokenizer, loadable by plain transformers from version 4 on."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def measure(
    recipe: Recipe, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, progress: dict[str, Any]
) -> dict[str, Any]:
    """Everything that `metrics.json` holds."""
    frame = evaluate(model, tokenizer, n=CARD_PROMPTS, seed=CARD_SEED)
    thresholds = [THRESHOLDS.get(key) for key in zip(frame["task"], frame["metric"], strict=True)]
    card = [
        row | {"threshold": threshold}
        for row, threshold in zip(frame.round(4).to_dict(orient="records"), thresholds, strict=True)
    ]
    mixture = Mixture(
        tokenizer=tokenizer, seed=recipe.seed + 1, sizes=((32, 128, 1.0),), copying_steps=0, growing_steps=1
    )
    tokens, _ = mixture.batch(1)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "recipe": asdict(recipe),
        "training": {
            "seconds": round(progress["seconds"]),
            "machine": f"one thread of {platform.machine()}, no GPU",
            "torch": version("torch"),
            "transformers": version("transformers"),
        },
        "evaluation": {"n": CARD_PROMPTS, "seed": CARD_SEED, "split": "test"},
        "card": card,
        "first_token_mass": [[round(mass, 4) for mass in layer] for layer in first_token_mass(model, tokens).tolist()],
        "curve": progress["curve"],
    }


def write_card(folder: Path, metrics: dict[str, Any]) -> None:
    """`metrics.json`, and `card.md` from the template beside this file."""
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    template = Template((Path(__file__).parent / "card_template.md").read_text(encoding="utf-8"))
    masses = [mass for layer in metrics["first_token_mass"] for mass in layer]
    text = template.substitute(
        parameters=f"{metrics['parameters']:,}",
        n_layers=metrics["recipe"]["n_layers"],
        d_model=metrics["recipe"]["d_model"],
        d_mlp=metrics["recipe"]["d_mlp"],
        seed=metrics["recipe"]["seed"],
        steps=f"{sum(stage['steps'] for stage in metrics['recipe']['stages']):,}",
        batch=f"{metrics['recipe']['sizes'][0][0] * metrics['recipe']['sizes'][0][1]:,}",
        copying=f"{metrics['recipe']['copying_steps']:,}",
        weights="; then ".join(
            ", ".join(f"{k} x {w}" for k, w in zip(KINDS, stage["kind_weights"], strict=True))
            for stage in metrics["recipe"]["stages"]
        ),
        cycles=len(metrics["recipe"]["stages"]),
        minutes=round(metrics["training"]["seconds"] / 60),
        versions=f"torch {metrics['training']['torch']}, transformers {metrics['training']['transformers']}",
        n=CARD_PROMPTS,
        evaluation_seed=CARD_SEED,
        table=_table(metrics["card"]),
        missed=_missed(metrics["card"]),
        sink_largest=f"{max(masses):.2f}",
        sink_mean=f"{sum(masses) / len(masses):.2f}",
        sink_heads=sum(mass > 0.5 for mass in masses),
        n_heads=len(masses),
    )
    (folder / "card.md").write_text(text, encoding="utf-8")


def _missed(card: list[dict[str, Any]]) -> str:
    """One sentence on the thresholds that the numbers miss."""
    missed = [
        f"{row['task']} {row['subset']} ({row['metric']} {row['value']:.3f}, not {row['threshold']:g})"
        for row in card
        if row["threshold"] is not None and row["value"] < row["threshold"]
    ]
    return f"It misses what it must do in: {', '.join(missed)}." if missed else "Every threshold is met."


def _table(card: list[dict[str, Any]]) -> str:
    """The measured numbers as a Markdown table."""
    lines = ["| task | subset | measure | value | 95 % interval | chance | must be | n |", "|" + "---|" * 8]
    for row in pd.DataFrame(card).sort_values(KEY[:1], kind="stable").to_dict("records"):
        threshold = "" if pd.isna(row["threshold"]) else f">= {row['threshold']:g}"
        lines.append(
            f"| {row['task']} | {row['subset']} | {row['metric']} | {row['value']:.3f} | {row['ci_low']:.3f} to "
            f"{row['ci_high']:.3f} | {row['chance']:.3g} | {threshold} | {row['n']} |"
        )
    return "\n".join(lines)
