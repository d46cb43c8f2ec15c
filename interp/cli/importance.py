"""`interp importance`: how much a task, or the loss on a text, depends on each head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.options import (
    Line,
    ModelOption,
    Notices,
    Placement,
    SeedOption,
    save_option,
    with_option_groups,
    write_bytes,
)
from interp.cli.outputs import Outputs
from interp.cli.sources import ColumnOption, file_texts

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from circuits.importance import PruningCurve
    from interp.report import Page
    from interp.results import HeadScores


@with_option_groups
def importance(
    *,
    task: Annotated[str, typer.Option("--task", help="Task whose prompts and metric are used.")] = "ioi",
    text: Annotated[
        Path | None,
        typer.Option("--text", help="File (text, JSONL, CSV, Parquet) for the language-model loss instead."),
    ] = None,
    column: ColumnOption = None,
    model: ModelOption = "mini",
    method: Annotated[
        str, typer.Option("--method", help="Score: absolute (the paper's), signed, official, or an ablation.")
    ] = "absolute",
    ablation: Annotated[
        list[str] | None,
        typer.Option("--ablation", help="zero, mean, uniform, resample or none; can be repeated.  [default: zero]"),
    ] = None,
    normalise: Annotated[
        bool, typer.Option("--normalise/--no-normalise", help="Divide gradients by the norm of their layer.")
    ] = True,
    curve: Annotated[bool, typer.Option("--curve", help="Also prune heads, least important first.")] = False,
    curve_by: Annotated[
        list[str] | None,
        typer.Option("--curve-by", help="A score to prune by; can be repeated; the method and the ablations."),
    ] = None,
    curve_ablation: Annotated[
        str | None, typer.Option("--curve-ablation", help="What pruning does to a head; the first ablation.")
    ] = None,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Rank anew after every step; by absolute or signed.")
    ] = False,
    keep_per_layer: Annotated[
        int, typer.Option("--keep-per-layer", help="Heads of each layer that the curve keeps.")
    ] = 0,
    percent: Annotated[int, typer.Option("--percent", help="Step of the pruning curve in percent of all heads.")] = 10,
    n_random: Annotated[int, typer.Option("--n-random", help="Random orders beside the curve.")] = 10,
    n_prompts: Annotated[int, typer.Option("--n-prompts", help="Prompts, or sequences of a text.")] = 100,
    length: Annotated[int, typer.Option("--length", help="Tokens of each sequence of a text.")] = 128,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Examples at a time; changes no score.")] = 32,
    top: Annotated[int, typer.Option("--top", min=1, help="Heads shown.")] = 10,
    seed: SeedOption = 0,
    placement: Placement,
    by_example: Annotated[
        Path | None, typer.Option("--by-example", help="Write a CSV with every head's score on every example.")
    ] = None,
    outputs: Outputs,
    save: Annotated[Path | None, save_option("Directory; the curve goes into its curve/.")] = None,
    notices: Notices,
    line: Line,
) -> None:
    """Rank heads by how much a task or a text's loss depends on them: by gradients and by leaving them out.

    With --curve the CSV holds the points of the curve, in place of the heads.

    Example: interp importance --task ioi --ablation zero --ablation mean --curve
    """
    from circuits.importance import pruning_curve
    from circuits.importance.scores import check_names, head_scores, measure_importance, objective_of
    from circuits.tasks import get_task

    outputs.check_files(by_example)
    if not curve:
        further = ("curve_by", "curve_ablation", "recompute", "keep_per_layer", "percent", "n_random")
        line.refuse("without --curve", *further)
    if text is None:
        line.refuse("without --text", "column", "length")
    else:
        line.refuse("beside --text", "task")
    ablations = [name for name in ablation or ["zero"] if name != "none"]
    known = get_task(task)
    check_names(method, ablations)
    with notices.shown():
        loaded = placement.load(model)
        shared: dict[str, Any] = {
            "text": None, "seed": seed, "n_prompts": n_prompts, "batch_size": batch_size,
            "progress": notices.progress,
        }  # fmt: skip
        if text is not None:
            from interp.data import sequences

            shared["text"] = sequences(loaded, file_texts(text, column=column), n=n_prompts, length=length)
        objective = objective_of(loaded, known, **shared)
        found = measure_importance(objective, ablations)
        scores = head_scores(objective, found, method=method, normalise_layers=normalise, seed=seed)
        pruned = None
        if curve:
            # What the heads are ranked by is the same, on half of the examples.
            names = curve_by or list(dict.fromkeys((method, *(() if recompute else ablations))))
            pruned = pruning_curve(
                loaded, known, methods=names, ablation=curve_ablation or next(iter(ablations), "zero"),
                normalise_layers=normalise, recompute=recompute, keep_per_layer=keep_per_layer, percent=percent,
                n_random=n_random, **shared,
            )  # fmt: skip
    if by_example is not None:
        write_bytes(found.to_frame().to_csv(index=False).encode(), by_example)
    if save is not None:
        scores.save(save)
        if pruned is not None:
            pruned.save(save / "curve")
    outputs.write(
        page=lambda: _page(scores, pruned, top),
        document=lambda: _document(scores, pruned),
        frame=lambda: _frame(scores, pruned),
    )


def _document(scores: HeadScores, curve: PruningCurve | None) -> dict[str, Any]:
    from interp.cli.export import scores_document

    document = scores_document(scores)
    return document if curve is None else document | {"curve": _curve_document(curve)}


def _frame(scores: HeadScores, curve: PruningCurve | None) -> pd.DataFrame:
    from interp.cli.export import ranked_frame

    return ranked_frame(scores) if curve is None else curve.to_frame()


def _curve_document(curve: PruningCurve) -> dict[str, Any]:
    return {
        "notes": curve.notes,
        "provenance": curve.provenance.to_dict(),
        "area between": {name: curve.area_between(name) for name in _named(curve)} if "random" in curve.orders else {},
        "points": curve.to_frame().to_dict("records"),
    }


def _named(curve: PruningCurve) -> list[str]:
    return [name for name in curve.orders if name != "random"]


def _page(scores: HeadScores, curve: PruningCurve | None, top: int) -> Page:
    from interp.report import Page, head_grid

    notes = scores.notes
    blocks: list[Any] = [_table(scores, top)]
    blocks.append(
        f"the model: {notes['metric']} {notes['model']['metric']:.2f}, accuracy {notes['model']['accuracy']:.2f} | "
        f"chance: {notes['chance']['metric']:.2f}, {notes['chance']['accuracy']:.2f}"
    )
    for name, found in notes["agreement"].items():
        blocks.append(
            f"rank correlation with {name} ablation: signed {found['signed']:.2f}, absolute {found['absolute']:.2f}"
        )
    if curve is not None:
        blocks += [_curve_table(curve), *_areas(curve), curve.plot()]
    blocks.append(
        f"all columns but the score: {notes['unit']}; positive where the head helps; rank: share of its layer below it"
    )
    return Page(title=f"{scores.name}: every head", blocks=[*blocks, head_grid(scores)], provenance=scores.provenance)


def _table(scores: HeadScores, top: int) -> Table:
    from interp.report import titled_table
    from interp.tables import number

    table = titled_table(f"{scores.name}, {scores.notes['examples']} examples; score: {scores.unit}")
    shown = [name for name in scores.columns if name not in ("kv group", "layer mean", "layer rank")]
    for name in ("", "head", "score", "95 % interval", *shown, "others", "rank"):
        table.add_column(name, justify="left" if name == "head" else "right", no_wrap=True)
    for rank, head in enumerate(scores.top(top), start=1):
        place = (head.layer, head.head)
        interval = "–"
        if scores.ci_low is not None and scores.ci_high is not None:
            interval = f"{float(scores.ci_low[place]):z.2f} to {float(scores.ci_high[place]):z.2f}"
        values = [float(scores.columns[name][place]) for name in (*shown, "layer mean", "layer rank")]
        cells = [number(value, "z.2f") for value in values]
        table.add_row(str(rank), head.label, f"{scores[head]:z.2f}", interval, *cells)
    return table


def _curve_table(curve: PruningCurve) -> Table:
    from interp.report import titled_table

    table = titled_table(f"{curve.name}: {curve.notes['metric']} (accuracy)")
    for name in ("pruned", *_named(curve), "random, lowest to highest"):
        table.add_column(name, justify="right", no_wrap=True)
    random = [index for index, name in enumerate(curve.orders) if name == "random"]
    for step, count in enumerate(curve.n_pruned.tolist()):
        cells = [
            f"{float(curve.metric[index, step]):.2f} ({float(curve.accuracy[index, step]):.2f})"
            for index in range(len(_named(curve)))
        ]
        metric, accuracy = curve.metric[random, step].tolist(), curve.accuracy[random, step].tolist()
        spans = [f"{min(values):.2f} to {max(values):.2f}" for values in (metric, accuracy) if values]
        table.add_row(f"{count} ({count / curve.n_heads:.0%})", *cells, f"{spans[0]} ({spans[1]})" if spans else "–")
    table.add_row("chance", f"{curve.chance_metric:.2f} ({curve.chance_accuracy:.2f})")
    return table


def _areas(curve: PruningCurve) -> list[str]:
    if "random" not in curve.orders:
        return []
    found = {name: curve.area_between(name) for name in _named(curve)}
    return [
        f"area between {name} and random: {area['area']:+z.2f} {curve.unit} (single random orders "
        f"{area['lowest random']:+z.2f} to {area['highest random']:+z.2f})"
        for name, area in found.items()
    ]
