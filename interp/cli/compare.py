"""`interp compare`: which heads differ between two models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.options import Line, Notices, Placement, SeedOption, names_in, save_option, with_option_groups
from interp.cli.outputs import Outputs
from interp.cli.sources import ColumnOption, file_texts

if TYPE_CHECKING:
    from rich.table import Table

    from interp.report import Page
    from interp.results import HeadScores

LEGEND = (
    "chance: of the score in either model; p: probability of such a difference in any head of the table, from halves "
    "of the data within one model; unchanged: p of 0.05 or more, or in both models less than a quarter of the way from "
    "chance to the highest score"
)


@with_option_groups
def compare(
    *,
    model_a: Annotated[str, typer.Argument(help="First model: embedded name, hub id or directory.")],
    model_b: Annotated[str, typer.Argument(help="Second model, of the same shape.")],
    text: Annotated[
        Path | None, typer.Option("--text", help="File (text, JSONL, CSV, Parquet); random tokens, repeated, without.")
    ] = None,
    column: ColumnOption = None,
    analyzers: Annotated[
        str | None, typer.Option("--analyzers", help="Names with commas, such as induction,first-token.")
    ] = None,
    n: Annotated[int, typer.Option("--n", help="Sequences of the text.")] = 40,
    length: Annotated[int, typer.Option("--length", help="Tokens of each sequence of the text.")] = 128,
    top: Annotated[int, typer.Option("--top", min=1, help="Heads shown per score.")] = 10,
    seed: SeedOption = 0,
    placement: Placement,
    outputs: Outputs,
    save: Annotated[Path | None, save_option("Directory; one result per score for interp.load_result.")] = None,
    notices: Notices,
    line: Line,
) -> None:
    """Say which heads emerged, strengthened, weakened or vanished from one model to another of the same shape.

    Example: interp compare mini mini-b --analyzers induction,previous-token
    """
    from interp.cli.export import scores_document, tidy_frame
    from interp.comparison import DEFAULT_ANALYZERS, compare_models
    from interp.data import sequences

    if text is None:
        line.refuse("without --text", "column", "n", "length")
    with notices.shown():
        first, second = (placement.load(name) for name in (model_a, model_b))
        data = None if text is None else sequences(first, file_texts(text, column=column), n=n, length=length)
        names = DEFAULT_ANALYZERS if analyzers is None else names_in(analyzers)
        results = compare_models(first, second, data, names, seed=seed, progress=notices.progress)
    if save is not None:
        for name, scores in results.items():
            scores.save(save / name)
    outputs.write(
        page=lambda: _page(results, model_a, model_b, top),
        document=lambda: {name: scores_document(scores) for name, scores in results.items()},
        frame=lambda: tidy_frame(results),
    )


def _page(results: Mapping[str, HeadScores], model_a: str, model_b: str, top: int) -> Page:
    from interp.report import Page, head_grids

    title = f"from {model_a} to {model_b}"
    blocks: list[Any] = [title]
    for name, scores in results.items():
        correlation = scores.notes["rank correlation"]
        blocks += [_table(name, scores, top), f"rank correlation of the two models {correlation:.2f}"]
    blocks += [LEGEND, *head_grids(results.values())]
    provenance = next(iter(results.values())).provenance
    return Page(title="Heads that differ between two models", blocks=blocks, provenance=provenance)


def _table(name: str, scores: HeadScores, top: int) -> Table:
    from interp.report import titled_table

    counts = ", ".join(f"{count} {word}" for word, count in scores.notes["changes"].items())
    table = titled_table(f"{name}: {counts}")
    table.add_column("head", no_wrap=True)
    for column in ("first", "second", "chance", "difference", "p"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("change", no_wrap=True)
    for head in scores.top(top, absolute=True):
        place = (head.layer, head.head)
        values = [_number(float(scores.columns[column][place])) for column in ("first", "second", "score chance")]
        change = scores.labels["change"][head.layer][head.head]
        p = float(scores.columns["p"][place])
        shown = f"{p:.3f}" if p >= 0.0005 or p != p else "< 0.001"
        table.add_row(head.label, *values, f"{scores[head]:+z.3f}", shown, change)
    return table


def _number(value: float) -> str:
    return "–" if value != value else f"{value:z.3f}"
