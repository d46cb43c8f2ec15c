"""`interp compare`: which heads differ between two models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interp.cli.options import (
    CsvOption,
    DebugOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    QuietOption,
    SeedOption,
    check_targets,
    load_model,
    reported_warnings,
    write_text,
)

if TYPE_CHECKING:
    from interp.results import HeadScores

LEGEND = "p: probability of such a difference in any head of the table, from halves of the data within one model"


def compare(
    model_a: Annotated[str, typer.Argument(help="First model: embedded name, hub id or directory.")],
    model_b: Annotated[str, typer.Argument(help="Second model, of the same shape.")],
    text: Annotated[
        Path | None, typer.Option("--text", help="File (text, JSONL, CSV, Parquet); random tokens, repeated, without.")
    ] = None,
    analyzers: Annotated[
        str | None, typer.Option("--analyzers", help="Names with commas, such as induction,first-token.")
    ] = None,
    n: Annotated[int, typer.Option("--n", help="Sequences of the text.")] = 40,
    length: Annotated[int, typer.Option("--length", help="Tokens of each sequence of the text.")] = 128,
    top: Annotated[int, typer.Option("--top", min=1, help="Heads shown per score.")] = 10,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    json: JsonOption = None,
    csv: CsvOption = None,
    save: Annotated[
        Path | None, typer.Option("--save", help="Directory; one result per score for interp.load_result.")
    ] = None,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Say which heads emerged, strengthened, weakened or vanished from one model to another of the same shape.

    Example: interp compare mini mini-b --analyzers induction,previous-token
    """
    from interp.cli.export import scores_document, to_json
    from interp.comparison import DEFAULT_ANALYZERS, compare_models
    from interp.data import sequences, texts_of_file

    check_targets(json, csv)
    with reported_warnings(quiet=quiet, debug=debug):
        first, second = (load_model(name, device, dtype) for name in (model_a, model_b))
        data = None if text is None else sequences(first, texts_of_file(text), n=n, length=length)
        names = DEFAULT_ANALYZERS if analyzers is None else [name.strip() for name in analyzers.split(",")]
        results = compare_models(first, second, data, names, seed=seed, progress=False if quiet else None)
    if save is not None:
        for name, scores in results.items():
            scores.save(save / name)
    if json is not None:
        write_text(to_json({name: scores_document(scores) for name, scores in results.items()}), json)
    if csv is not None:
        write_text(_csv(results), csv)
    if "-" not in (json, csv):
        _print(results, model_a, model_b, top)


def _csv(results: dict[str, HeadScores]) -> str:
    import pandas as pd

    frames = [scores.to_frame().assign(analyzer=name) for name, scores in results.items()]
    return pd.concat(frames).to_csv(index=False)


def _print(results: dict[str, HeadScores], model_a: str, model_b: str, top: int) -> None:
    from rich import box
    from rich.table import Table

    from interp.cli.console import console

    out = console()
    out.print(f"from {model_a} to {model_b}")
    for name, scores in results.items():
        counts = ", ".join(f"{count} {word}" for word, count in scores.notes["changes"].items())
        out.print(f"\n{name}: {counts}", style="bold")
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("head", no_wrap=True)
        for column in ("first", "second", "difference", "p"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("change", no_wrap=True)
        for head in scores.top(top, absolute=True):
            place = (head.layer, head.head)
            values = [f"{float(scores.columns[column][place]):.3f}" for column in ("first", "second")]
            change = scores.labels["change"][head.layer][head.head]
            p = f"{float(scores.columns['p'][place]):.3f}"
            table.add_row(head.label, *values, f"{scores[head]:+z.3f}", p, change)
        out.print(table)
        out.print(f"rank correlation of the two models {scores.notes['rank correlation']:.2f}")
    out.print(LEGEND)
    out.print(next(iter(results.values())).provenance.summary)
