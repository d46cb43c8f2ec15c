"""The numbers of `mini-sinks`, and those of its controls beside them."""

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from transformers import LlamaForCausalLM

from circuits.backcopy_evaluate import ROW_TOKENS, SINK, evaluate_backcopy, held_out_text
from circuits.training.sinks.evidence import head_evidence, massive_evidence
from circuits.training.sinks.process import Process, chain_entropy
from circuits.training.sinks.recipe import SinksRecipe
from circuits.training.sinks.vocabulary import REACH, build_tokenizer
from interp.model.load import load
from interp.model.model import Model

NAME = "mini-sinks"
CARD_ROWS, CARD_SEED = 1000, 0
EVIDENCE_ROWS = 100
THRESHOLDS = {("sinks", "all", f"heads above {SINK:g}"): 0.25} | {
    ("back-copy", word, "accuracy"): 0.95 for word in REACH
}
"""What the model must reach."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What training by a recipe gave.

    Attributes:
        kept: copies of the model after the recipe's kept steps.
        curve: step and loss in nats, every `log_every` steps.
        seconds: of processor time.
    """

    recipe: SinksRecipe
    model: LlamaForCausalLM
    kept: dict[int, LlamaForCausalLM]
    curve: list[dict[str, Any]]
    seconds: float


def measure(run: Run, controls: Mapping[str, Run]) -> dict[str, Any]:
    """Everything that `metrics.json` holds."""
    model = load(run.model, build_tokenizer())
    frame = evaluate_backcopy(model, n=CARD_ROWS, seed=CARD_SEED)
    text = held_out_text(EVIDENCE_ROWS, CARD_SEED, Process())
    return {
        "name": NAME,
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "recipe": asdict(run.recipe),
        "training": {
            "seconds": round(run.seconds),
            "seconds with controls": round(run.seconds + sum(control.seconds for control in controls.values())),
            "machine": f"one thread of {platform.machine()}, no GPU",
            "torch": version("torch"),
            "transformers": version("transformers"),
        },
        "evaluation": {"n": CARD_ROWS, "seed": CARD_SEED, "tokens": ROW_TOKENS, "floor": round(chain_entropy(), 4)},
        "card": [
            row | {"threshold": THRESHOLDS.get((row["task"], row["subset"], row["metric"]))}
            for row in frame.round(4).to_dict(orient="records")
        ],
        "heads": head_evidence(model, text),
        "massive activations": massive_evidence(model, text[:1]),
        "controls": {name: control_numbers(control) for name, control in {"mini-sinks": run, **controls}.items()},
        "curve": run.curve,
    }


def control_numbers(run: Run) -> dict[str, Any]:
    """What is told of the model and of each control, on as much text as the evidence rests on."""
    model = load(run.model, build_tokenizer())
    frame = evaluate_backcopy(model, n=EVIDENCE_ROWS, seed=CARD_SEED, process=Process(copies=run.recipe.copies))
    values = {(row["task"], row["subset"], row["metric"]): row["value"] for row in frame.to_dict("records")}
    accuracies = [values["back-copy", word, "accuracy"] for word in REACH] if run.recipe.copies else []
    numbers: dict[str, Any] = {
        "lowest accuracy": min(accuracies, default=None),
        "loss above floor": round(values["chain", "all", "loss above floor"], 4),
        "BOS hidden": round(values["chain", "BOS hidden", "loss above floor"], 4),
    }
    masses = {name: _by_head(model, values, name) for name in ("BOS mass", "BOS mass at triggers")}
    return numbers | masses


def _by_head(model: Model, values: Mapping[Any, float], metric: str) -> list[float]:
    labels = [f"L{layer}H{head}" for layer in range(model.n_layers) for head in range(model.n_heads)]
    return [round(values["sinks", label, metric], 4) for label in labels]
