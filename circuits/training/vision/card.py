"""The numbers and the card of `mini-vl`."""

import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pandas as pd
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from circuits.evaluate import KEY
from circuits.training.card import save_model
from circuits.training.reproduction import STATED
from circuits.training.vision.language import CARELESSNESS
from circuits.training.vision.recipe import SceneRecipe
from circuits.training.vision.scenes import COMPANIONS, COMPANY, NEW_PAIRS, sample_scene
from circuits.training.vision.sinks import sink_report
from circuits.vision_evaluate import evaluate_vision

THRESHOLDS = {
    ("colour", "all", "accuracy"): 0.9,
    ("position", "all", "accuracy"): 0.9,
    ("existence", "random", "F1"): 0.85,
}
"""What must be reached at least."""
CHAIR_RANGE = (0.1, 0.4)
"""Between which CHAIR_S must lie, so that interventions have something to mend."""
FALL = 0.03
"""By how much F1 must fall from random to adversarial negatives."""
NEAR_PRIOR = 0.1
"""By how much the accuracy with a blank picture may lie off that of the best constant answer, on either side."""
CARD_SCENES, CARD_SEED, SINK_SCENES = 1000, 0, 50


def requirements(card: pd.DataFrame) -> dict[str, bool]:
    """What the model must do, in words with the measured numbers, and whether it does.

    Arguments:
        card: rows of `evaluate_vision`.
    """
    value = card.set_index(KEY)["value"]
    chance = card.set_index(KEY)["chance"]
    met = {
        f"{' '.join(key)} {value[key]:.3f} (at least {least:g})": value[key] >= least
        for key, least in THRESHOLDS.items()
    }
    fall = value["existence", "random", "F1"] - value["existence", "adversarial", "F1"]
    met[f"F1 falls by {fall:.3f} from random to adversarial negatives (at least {FALL:g})"] = fall >= FALL
    rate = value["caption", "all", "CHAIR_S"]
    met[f"CHAIR_S {rate:.3f} ({CHAIR_RANGE[0]:g} to {CHAIR_RANGE[1]:g})"] = CHAIR_RANGE[0] <= rate <= CHAIR_RANGE[1]
    for task in ("colour", "position", "shape"):
        blank = (task, "blank picture", "accuracy")
        prior = chance[blank]
        name = f"{task} with a blank picture {value[blank]:.3f} (within {NEAR_PRIOR:g} of the prior, {prior:.3f})"
        met[name] = abs(value[blank] - prior) <= NEAR_PRIOR
    return {text: bool(is_met) for text, is_met in met.items()}


def save(folder: Path, model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> None:
    """Config, weights, tokenizer and processor, loadable by plain transformers."""
    processor.save_pretrained(folder)
    save_model(folder, model, processor.tokenizer)


def measure(
    recipe: SceneRecipe, model: LlavaForConditionalGeneration, processor: LlavaProcessor, progress: dict[str, Any]
) -> dict[str, Any]:
    """Everything that `metrics.json` holds."""
    frame = evaluate_vision(model, processor, n=CARD_SCENES, seed=CARD_SEED)
    thresholds = [THRESHOLDS.get(key) for key in zip(*(frame[column] for column in KEY), strict=True)]
    random = np.random.default_rng([CARD_SEED, 3])
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "recipe": asdict(recipe),
        "training": {
            "steps": progress["step"],
            "seconds": round(progress["seconds"]),
            "machine": f"one thread of {platform.machine()}, no GPU",
            "torch": version("torch"),
            "transformers": version("transformers"),
        },
        "evaluation": {"n": CARD_SCENES, "seed": CARD_SEED, "split": "test"},
        "card": [
            row | {"threshold": threshold}
            for row, threshold in zip(frame.round(4).to_dict(orient="records"), thresholds, strict=True)
        ],
        "requirements": requirements(frame),
        "sinks": sink_report(model, processor, [sample_scene(random) for _ in range(SINK_SCENES)]),
        "curve": progress["curve"],
    }


def write_card(folder: Path, metrics: dict[str, Any]) -> None:
    """`metrics.json`, and `card.md` from the template beside this file."""
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    template = Template((Path(__file__).parent / "card_template.md").read_text(encoding="utf-8"))
    recipe, sinks = metrics["recipe"], metrics["sinks"]
    missed = [text for text, is_met in metrics["requirements"].items() if not is_met]
    text = template.substitute(
        {
            name: recipe[name]
            for name in ("d_vision", "n_vision_layers", "d_model", "n_layers", "d_mlp", "seed", "batch")
        },
        parameters=f"{metrics['parameters']:,}",
        steps=f"{metrics['training']['steps']:,}",
        naming=sum(stage["steps"] for stage in recipe["stages"] if stage["naming"]),
        stages=", ".join(
            f"{stage['steps']} steps with {stage['things'][0]} to {stage['things'][1]} shapes, {6 * stage['rounds']} "
            f"questions{' and a caption' if stage['captions'] else ''} per picture"
            for stage in recipe["stages"]
            if not stage["naming"]
        ),
        hidden=f"{max(stage['hidden'] for stage in recipe['stages'])} of the {recipe['batch']} pictures of a step",
        hidden_steps=f"{sum(stage['steps'] for stage in recipe['stages'] if stage['hidden']):,}",
        minutes=round(metrics["training"]["seconds"] / 60),
        versions=f"torch {metrics['training']['torch']}, transformers {metrics['training']['transformers']}",
        company=f"{COMPANY:.0%}",
        carelessness=", ".join(f"{shape} - {COMPANIONS[shape]} {share:.0%}" for shape, share in CARELESSNESS.items()),
        new_pairs=", ".join(f"{colour} {shape}" for shape, colour in sorted(NEW_PAIRS)),
        tolerance=STATED,
        n=metrics["evaluation"]["n"],
        evaluation_seed=metrics["evaluation"]["seed"],
        table=_table(metrics["card"]),
        met="\n".join(f"- {'met' if is_met else 'MISSED'}: {text}" for text, is_met in metrics["requirements"].items()),
        verdict=f"{len(missed)} of {len(metrics['requirements'])} requirements are missed."
        if missed
        else "All requirements are met.",
        bos_largest=f"{max(map(max, sinks['first_token_mass'])):.2f}",
        image_mass=_by_layer([sum(heads) / len(heads) for heads in sinks["image_mass"]]),
        top_patch=_by_layer(sinks["top_patch_share"]),
        fixed_patch=_by_layer(sinks["fixed_patch_share"]),
        empty_share=_by_layer(sinks["empty_share"]),
        empty_patches=f"{sinks['empty_patches']:.2f}",
        tower_evenness=_by_layer([min(heads) for heads in sinks["tower_evenness"]]),
        largest_bos=_by_layer(sinks["largest_bos"], 0),
        largest_patch=_by_layer(sinks["largest_patch"], 0),
        largest_text=_by_layer(sinks["largest_text"], 0),
    )
    (folder / "card.md").write_text(text, encoding="utf-8")


def _by_layer(values: list[float], digits: int = 2) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)


def _table(card: list[dict[str, Any]]) -> str:
    """The measured numbers as a Markdown table."""
    lines = ["| task | subset | measure | value | 95 % interval | chance | n |", "|" + "---|" * 7]
    lines += [
        f"| {row['task']} | {row['subset']} | {row['metric']} | {row['value']:.3f} | {row['ci_low']:.3f} to "
        f"{row['ci_high']:.3f} | {row['chance']:.3g} | {row['n']} |"
        for row in card
    ]
    return "\n".join(lines)
