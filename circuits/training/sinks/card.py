"""Writing `mini-sinks` down: `metrics.json` and `card.md`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from circuits.backcopy_evaluate import SINK, START
from circuits.evaluate import KEY
from circuits.training.reproduction import STATED
from circuits.training.sinks.measure import EVIDENCE_ROWS
from circuits.training.sinks.process import TRIGGER_SHARE
from circuits.training.sinks.recipe import NO_COPIES
from circuits.training.sinks.vocabulary import CHAIN_WORDS, CONTEXT, N_TOKENS

LOSS, EARLY_LOSS = "loss above floor", f"the same, first {START} words"


def write_card(folder: Path, metrics: dict[str, Any]) -> None:
    """`metrics.json`, and `card.md` from the template beside this file."""
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    text = Template((Path(__file__).parent / "card_template.md").read_text(encoding="utf-8"))
    (folder / "card.md").write_text(text.substitute(_facts(metrics), **_findings(metrics)), encoding="utf-8")


def _facts(metrics: dict[str, Any]) -> dict[str, Any]:
    """What the model is and how it was trained and measured."""
    recipe, training, evaluation = metrics["recipe"], metrics["training"], metrics["evaluation"]
    names = ("n_layers", "n_heads", "d_model", "d_mlp", "seed", "weight_decay", "peak_rate")
    return {name: recipe[name] for name in names} | {
        "d_head": recipe["d_model"] // recipe["n_heads"],
        "context": CONTEXT,
        "parameters": f"{metrics['parameters']:,}",
        "n_words": len(CHAIN_WORDS),
        "n_tokens": N_TOKENS,
        "one_in": round(1 / TRIGGER_SHARE),
        "steps": f"{recipe['steps']:,}",
        "batch": f"{recipe['batch']:,}",
        "lengths": ", ".join(map(str, recipe["lengths"])),
        "n_controls": len(metrics["controls"]) - 1,
        "seconds": training["seconds"],
        "all_seconds": training["seconds with controls"],
        "versions": f"torch {training['torch']}, transformers {training['transformers']}",
        "n": f"{evaluation['n']:,}",
        "row_tokens": evaluation["tokens"],
        "evaluation_seed": evaluation["seed"],
        "floor": evaluation["floor"],
        "start": START,
        "evidence_rows": EVIDENCE_ROWS,
        "tolerance": STATED,
    }


def _findings(metrics: dict[str, Any]) -> dict[str, str]:
    """What was measured, as tables and numbers for sentences."""
    value = {tuple(row[column] for column in KEY): row["value"] for row in metrics["card"]}
    massive = metrics["massive activations"]
    return {
        "table": _card_table(metrics["card"]),
        "missed": _missed(metrics["card"]),
        "sink_sentence": _sink_sentence(metrics["card"]),
        "heads_table": _heads_table(metrics["heads"]),
        "active": _active(metrics["card"]),
        "next_sink": f"{max(head['next sink'] for head in metrics['heads']):.2f}",
        "intact": f"{value['chain', 'all', LOSS]:.4f}",
        "hidden": f"{value['chain', 'BOS hidden', LOSS]:.4f}",
        "other": f"{value['chain', 'other hidden', LOSS]:.4f}",
        "silent": f"{value['chain', 'BOS silent', LOSS]:.4f}",
        "intact_start": f"{value['chain', 'all', EARLY_LOSS]:.4f}",
        "hidden_start": f"{value['chain', 'BOS hidden', EARLY_LOSS]:.4f}",
        "massive": str(massive["massive"] or "none"),
        "largest": f"{massive['largest']:.0f}",
        "largest_token": massive["token"],
        "controls_table": _controls_table(metrics["controls"]),
        "most_without": f"{max(metrics['controls'][NO_COPIES]['BOS mass']):.2f}",
        "seeds": " and ".join(_shares_above(metrics["controls"][name]) for name in ("seed 2", "seed 3")),
    }


def _shares_above(numbers: Mapping[str, Any]) -> str:
    """How many heads of a control rest on the BOS."""
    return f"{sum(mass > SINK for mass in numbers['BOS mass'])} of {len(numbers['BOS mass'])}"


def _missed(card: Sequence[Mapping[str, Any]]) -> str:
    missed = [
        f"{row['task']} {row['subset']} ({row['metric']} {row['value']:.3f}, not >= {row['threshold']:g})"
        for row in card
        if row["threshold"] is not None and row["value"] < row["threshold"]
    ]
    return f"It misses what it must do in: {', '.join(missed)}." if missed else "Every threshold is met."


def _sink_sentence(card: Sequence[Mapping[str, Any]]) -> str:
    rows = [row for row in card if row["task"] == "sinks" and row["metric"] == "BOS mass" and row["subset"] != "all"]
    masses = ", ".join(f"{row['subset']} {row['value']:.2f}" for row in rows)
    above = sum(row["value"] > SINK for row in rows)
    even = rows[0]["chance"]
    return f"{masses}: {above} of {len(rows)} heads lie above {SINK:g} (a head that attends evenly: {even:.3f})."


def _active(card: Sequence[Mapping[str, Any]]) -> str:
    """Which heads wake up at triggers, and which never do."""
    heads: dict[str, dict[str, float]] = {}
    for row in card:
        if row["task"] == "sinks" and row["subset"] != "all":
            heads.setdefault(row["subset"], {})[row["metric"]] = row["value"]
    awake = [head for head, mass in heads.items() if mass["mass on the word brought back"] > SINK]
    asleep = [head for head, mass in heads.items() if mass["BOS mass at triggers"] > SINK]
    told = [
        f"{head}: {heads[head]['BOS mass']:.2f} on the BOS over all tokens, {heads[head]['BOS mass at triggers']:.2f} "
        f"at triggers, where {heads[head]['mass on the word brought back']:.2f} lie on the word to bring back"
        for head in awake
    ]
    never = f". On the BOS at triggers too, since the task does not need them: {', '.join(asleep)}" if asleep else ""
    return f"{'; '.join(told)}{never}."


def _card_table(card: Iterable[Mapping[str, Any]]) -> str:
    return _table(
        ("task", "subset", "measure", "value", "95 % interval", "chance", "must be", "n"),
        (
            (
                row["task"],
                row["subset"],
                row["metric"],
                f"{row['value']:.4f}",
                f"{row['ci_low']:.4f} to {row['ci_high']:.4f}",
                f"{row['chance']:.3g}",
                "" if row["threshold"] is None else f">= {row['threshold']:g}",
                row["n"],
            )
            for row in card
        ),
    )


def _heads_table(heads: Iterable[Mapping[str, Any]]) -> str:
    columns = ("key norm", "value norm", "written at words", "written at triggers", "no-op", "next sink")
    return _table(
        (
            "head",
            "key of the BOS / others",
            "value of the BOS / others",
            "written at words",
            "written at triggers",
            "no-op",
            "next sink",
        ),
        ((head["head"], *(f"{head[column]:.3f}" for column in columns)) for head in heads),
    )


def _controls_table(controls: Mapping[str, Mapping[str, Any]]) -> str:
    return _table(
        ("", "lowest accuracy", "loss above floor", "with the BOS hidden", "BOS mass by head", "the same at triggers"),
        (
            (
                name,
                "–" if numbers["lowest accuracy"] is None else f"{numbers['lowest accuracy']:.3f}",
                f"{numbers['loss above floor']:.4f}",
                f"{numbers['BOS hidden']:.4f}",
                *(" ".join(f"{mass:.2f}" for mass in numbers[name]) for name in ("BOS mass", "BOS mass at triggers")),
            )
            for name, numbers in controls.items()
        ),
    )


def _table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
