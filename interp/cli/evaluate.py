"""`interp evaluate`: how well a model does the tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from interp.cli.options import ModelOption, Notices, Placement, SeedOption, with_option_groups
from interp.cli.outputs import Outputs

if TYPE_CHECKING:
    import pandas as pd

    from interp.model.model import Model
    from interp.report import Page
    from interp.results import Provenance


@with_option_groups
def evaluate(
    *,
    model: ModelOption = "mini",
    task: Annotated[list[str] | None, typer.Option("--task", help="Only this task; can be repeated.")] = None,
    n_prompts: Annotated[int, typer.Option("--n-prompts", min=1, help="Prompts of each case.")] = 200,
    seed: SeedOption = 0,
    placement: Placement,
    outputs: Outputs,
    notices: Notices,
) -> None:
    """Measure a model on held-out prompts of the tasks, beside chance and, for an embedded model, its card.

    A model that takes images is measured on drawn scenes: questions, POPE and CHAIR. mini-sinks is measured on the
    text that it was made for: words brought back, loss above its floor, attention to the BOS.

    Example: interp evaluate --model mini --task ioi
    """
    with notices.shown():
        loaded = placement.load(model)
        frame = _measure(loaded, model, task, n_prompts, seed)
    provenance = loaded.provenance([], seed=seed, parameters={"tasks": task, "n_prompts": n_prompts})
    outputs.write(
        page=lambda: _page(frame, model, provenance),
        document=lambda: {
            "model": model,
            "seed": seed,
            "provenance": provenance.to_dict(),
            "measurements": frame.to_dict("records"),
        },
        frame=lambda: frame,
    )


def _measure(loaded: Model, name: str, tasks: list[str] | None, n: int, seed: int) -> pd.DataFrame:
    from circuits.evaluate import evaluate as evaluate_text
    from circuits.forward import check_language_model
    from circuits.training.sinks.vocabulary import has_these_words
    from interp.errors import InputError
    from interp.paths import data_dir

    check_language_model(loaded)
    card = name if (data_dir() / "models" / name / "metrics.json").is_file() else None
    own_text = has_these_words(loaded.tokenizer)
    if loaded.processor is None and not own_text:
        return evaluate_text(loaded.hf, loaded.tokenizer, n=n, seed=seed, tasks=tasks, card=card)
    if tasks is not None:
        measured = "text of its own" if own_text else "drawn scenes"
        raise InputError(f"The tasks are texts, and {name} is measured on {measured}. Leave --task out.")
    if own_text:
        from circuits.backcopy_evaluate import evaluate_backcopy

        return evaluate_backcopy(loaded, n=n, seed=seed, card=card)
    from circuits.vision_evaluate import evaluate_vision

    return evaluate_vision(loaded.hf, loaded.processor, n=n, seed=seed, card=card)


def _page(frame: pd.DataFrame, model: str, provenance: Provenance) -> Page:
    from interp.report import Page, titled_table
    from interp.tables import number, number_format

    carded = "card_value" in frame
    title = f"{model} on held-out prompts"
    table = titled_table(title)
    for name in ("task", "subset", "metric"):
        table.add_column(name, no_wrap=name != "metric")
    for name in ("n", "value", "95 % range", "chance", *(("card",) if carded else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for row in frame.to_dict("records"):
        low, high, card = row["ci_low"], row["ci_high"], row.get("card_value", float("nan"))
        shown = number_format([row["value"], low, high, card], 4)
        interval = f"{low:{shown}}\N{EN DASH}{high:{shown}}" if low == low else "–"
        cells = [row["task"], row["subset"], row["metric"], str(row["n"]), number(row["value"], shown), interval]
        cells += [number(row["chance"], number_format([row["chance"]], 4))]
        cells += [number(card, shown)] if carded else []
        table.add_row(*cells)
    return Page(title=title, blocks=[table], provenance=provenance)
