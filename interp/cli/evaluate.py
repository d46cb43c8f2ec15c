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

    Example: interp evaluate --model mini --task ioi
    """
    from circuits.evaluate import evaluate as measure
    from interp.cli.export import to_json
    from interp.paths import data_dir

    check_targets(json, csv)
    with reported_warnings(quiet=quiet, debug=debug):
        loaded = load_model(model, device, dtype)
        has_card = (data_dir() / "models" / model / "metrics.json").is_file()
        frame = measure(
            loaded.hf, loaded.tokenizer, n=n_prompts, seed=seed, tasks=task, card=model if has_card else None
        )
    if json is not None:
        document = {"model": model, "seed": seed, "measurements": frame.to_dict("records")}
        write_text(to_json(document), json)
    if csv is not None:
        write_text(frame.to_csv(index=False), csv)
    if "-" not in (json, csv):
        _print(frame, model)


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
