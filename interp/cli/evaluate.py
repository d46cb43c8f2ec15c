"""`interp evaluate`: how well a model does the tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from interp.cli.options import (
    CsvOption,
    DebugOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    QuietOption,
    SeedOption,
    check_targets,
    load_model,
    reported_warnings,
    write_text,
)

if TYPE_CHECKING:
    import pandas as pd

    from interp.model.model import Model


def evaluate(
    model: ModelOption = "mini",
    task: Annotated[list[str] | None, typer.Option("--task", help="Only this task; can be repeated.")] = None,
    n_prompts: Annotated[int, typer.Option("--n-prompts", help="Prompts of each case.")] = 200,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    json: JsonOption = None,
    csv: CsvOption = None,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure a model on held-out prompts of the tasks, beside chance and, for an embedded model, its card.

    A model that takes images is measured on drawn scenes: questions, POPE and CHAIR.

    Example: interp evaluate --model mini --task ioi
    """
    from interp.cli.export import to_json

    check_targets(json, csv)
    with reported_warnings(quiet=quiet, debug=debug):
        frame = _measure(load_model(model, device, dtype), model, task, n_prompts, seed)
    if json is not None:
        document = {"model": model, "seed": seed, "measurements": frame.to_dict("records")}
        write_text(to_json(document), json)
    if csv is not None:
        write_text(frame.to_csv(index=False), csv)
    if "-" not in (json, csv):
        _print(frame, model)


def _measure(loaded: Model, name: str, tasks: list[str] | None, n: int, seed: int) -> pd.DataFrame:
    from circuits.evaluate import evaluate as evaluate_text
    from interp.errors import InputError
    from interp.paths import data_dir

    card = name if (data_dir() / "models" / name / "metrics.json").is_file() else None
    if loaded.processor is None:
        return evaluate_text(loaded.hf, loaded.tokenizer, n=n, seed=seed, tasks=tasks, card=card)
    if tasks is not None:
        raise InputError(f"The tasks are texts, and {name} is measured on drawn scenes. Leave --task out.")
    from circuits.vision_evaluate import evaluate_vision

    return evaluate_vision(loaded.hf, loaded.processor, n=n, seed=seed, card=card)


def _print(frame: pd.DataFrame, model: str) -> None:
    from rich import box
    from rich.table import Table

    from interp.cli.console import console

    carded = "card_value" in frame
    title = f"{model} on held-out prompts"
    table = Table(
        title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False, padding=(0, 1, 0, 0)
    )
    for name in ("task", "subset", "metric"):
        table.add_column(name, no_wrap=True)
    for name in ("n", "value", "95 % range", "chance", *(("card",) if carded else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for row in frame.to_dict("records"):
        interval = f"{row['ci_low']:.2f}\N{EN DASH}{row['ci_high']:.2f}" if row["n"] else "–"
        cells = [row["task"], row["subset"], row["metric"], str(row["n"]), _number(row["value"]), interval]
        cells += [_number(row["chance"])]
        cells += [_number(row["card_value"])] if carded else []
        table.add_row(*cells)
    console().print(table)


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.3f}"
