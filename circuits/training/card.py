"""Writing a trained model down: an ordinary Hugging Face directory with its numbers and its card."""

import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any, cast

from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from circuits.evaluate import evaluate
from circuits.training.head_price import HALF
from circuits.training.mixture import Mixture
from circuits.training.recipe import OTHER_WEIGHT, Recipe
from circuits.training.reproduction import STATED
from interp.analyzers.positional import FirstTokenMass
from interp.model.load import load
from interp.model.tokens import TokenBatch
from interp.results import HeadScores
from interp.scanning import scan

THRESHOLDS = {
    ("ioi", "accuracy"): 0.95,
    ("ioi", "logit difference"): 2.0,
    ("induction", "accuracy"): 0.95,
    ("greater-than", "valid-year mass"): 0.95,
    ("docstring", "accuracy"): 0.95,
    ("coloured-objects", "accuracy"): 0.95,
    ("agreement", "accuracy"): 0.95,
    ("pronoun", "accuracy"): 0.95,
    ("relations", "accuracy"): 0.98,
    ("passage", "accuracy"): 0.95,
    ("passage", "unsupported answers"): 0.15,
    ("passage", "unsupported sentences"): 0.15,
    ("needle", "exact match"): 0.95,
}
"""What the model must reach in every subset of a task."""
AT_MOST = {("passage", "unsupported answers"): 0.5, ("passage", "unsupported sentences"): 0.5}
"""What it must not exceed; unsupported text is what a detector has to find, so there must be some, but not too much."""
CARD_PROMPTS, CARD_SEED = 1000, 0
SINK_TOKENS = 128


def save_model(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Config, weights and tokenizer, loadable by plain transformers from version 4 on."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def measure(
    name: str, recipe: Recipe, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, progress: dict[str, Any]
) -> dict[str, Any]:
    """Everything that `metrics.json` holds."""
    frame = evaluate(model, tokenizer, n=CARD_PROMPTS, seed=CARD_SEED)
    keys = list(zip(frame["task"], frame["metric"], strict=True))
    card = [
        row | {"threshold": THRESHOLDS.get(key), "at_most": AT_MOST.get(key)}
        for row, key in zip(frame.round(4).to_dict(orient="records"), keys, strict=True)
    ]
    return {
        "name": name,
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
        "first_token_mass": _first_token_mass(recipe, model, tokenizer),
        "curve": progress["curve"],
    }


def _first_token_mass(recipe: Recipe, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> list[list[float]]:
    """Mean attention to the BOS of each head, over fresh training documents."""
    mixture = Mixture(
        tokenizer=tokenizer,
        seed=recipe.seed + 1000,
        sizes=((32, SINK_TOKENS, 1.0),),
        copying_steps=0,
        growing_steps=1,
        block_rows=0.0,
    )
    tokens, _ = mixture.batch(1)
    text = TokenBatch(tokens, tokens.ne(cast(int, tokenizer.pad_token_id)).long(), True)
    result = scan(load(model, tokenizer=tokenizer), text, [FirstTokenMass()], progress=False)[FirstTokenMass.name]
    assert isinstance(result, HeadScores)
    return [[round(mass, 4) for mass in layer] for layer in result.scores.tolist()]


def write_card(folder: Path, metrics: dict[str, Any]) -> None:
    """`metrics.json`, and `card.md` from the template beside this file."""
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    recipe, stages = metrics["recipe"], metrics["recipe"]["stages"]
    template = Template((Path(__file__).parent / "card_template.md").read_text(encoding="utf-8"))
    masses = [mass for layer in metrics["first_token_mass"] for mass in layer]
    text = template.substitute(
        {key: recipe[key] for key in ("n_layers", "d_model", "d_head", "d_mlp", "seed", "weight_decay")},
        name=metrics["name"],
        parameters=f"{metrics['parameters']:,}",
        steps=f"{sum(stage['steps'] for stage in stages):,}",
        batch=f"{recipe['sizes'][0][0] * recipe['sizes'][0][1]:,}",
        copying=f"{recipe['copying_steps']:,}",
        growing=recipe["growing_steps"],
        weights="; then ".join(_weights(stage) for stage in stages),
        linear_price=stages[-1]["head_price"] / HALF,
        sinks_by_layer=_sinks_by_layer(metrics["first_token_mass"]),
        cycles=len(stages),
        minutes=round(metrics["training"]["seconds"] / 60),
        versions=f"torch {metrics['training']['torch']}, transformers {metrics['training']['transformers']}",
        n=CARD_PROMPTS,
        evaluation_seed=CARD_SEED,
        table=_table(metrics["card"]),
        missed=_missed(metrics["card"]),
        tolerance=STATED,
        sink_largest=f"{max(masses):.2f}",
        sink_tokens=SINK_TOKENS,
        sink_mean=f"{sum(masses) / len(masses):.2f}",
        sink_heads=sum(mass > 0.5 for mass in masses),
        n_heads=len(masses),
    )
    (folder / "card.md").write_text(text, encoding="utf-8")


def _sinks_by_layer(first_token_mass: list[list[float]]) -> str:
    """The mass of each head on the first token, a line for each layer."""
    lines = [" ".join(f"{mass:.2f}" for mass in layer) for layer in first_token_mass]
    return "\n".join(f"- layer {number}: {line}" for number, line in enumerate(lines))


def _weights(stage: dict[str, Any]) -> str:
    named = "".join(f"{kind} x {weight}, " for kind, weight in stage["weights"].items())
    return f"{named}all others x {OTHER_WEIGHT}"


def _missed(card: list[dict[str, Any]]) -> str:
    """One sentence on the thresholds that the numbers miss."""
    missed = [
        f"{row['task']} {row['subset']} ({row['metric']} {row['value']:.3f}, not {_limits(row)})"
        for row in card
        if (row["threshold"] is not None and row["value"] < row["threshold"])
        or (row["at_most"] is not None and row["value"] > row["at_most"])
    ]
    return f"It misses what it must do in: {', '.join(missed)}." if missed else "Every threshold is met."


def _limits(row: dict[str, Any]) -> str:
    """What a measurement must be; empty where nothing is asked of it."""
    bounds = ((">=", row["threshold"]), ("<=", row["at_most"]))
    return ", ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)


def _table(card: list[dict[str, Any]]) -> str:
    """The measured numbers as a Markdown table."""
    lines = ["| task | subset | measure | value | 95 % interval | chance | must be | n |", "|" + "---|" * 8]
    lines += [
        f"| {row['task']} | {row['subset']} | {row['metric']} | {row['value']:.3f} | {row['ci_low']:.3f} to "
        f"{row['ci_high']:.3f} | {row['chance']:.3g} | {_limits(row)} | {row['n']} |"
        for row in sorted(card, key=lambda row: row["task"])
    ]
    return "\n".join(lines)
