"""`interp catalogue`: what the heads of a model are."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.options import (
    Line,
    ModelOption,
    Notices,
    Placement,
    SeedOption,
    names_in,
    save_option,
    with_option_groups,
)
from interp.cli.outputs import Outputs
from interp.cli.sources import ColumnOption, file_texts

if TYPE_CHECKING:
    from rich.table import Table

    from interp.head_catalogue import HeadCatalogue
    from interp.report import Page

WHOLE = 64
"""Heads of a model that are all shown."""


@with_option_groups
def catalogue(
    *,
    model: ModelOption = "mini",
    text: Annotated[
        list[Path] | None,
        typer.Option("--text", help="Text, JSONL, CSV or Parquet file; can be repeated. Else the model writes text."),
    ] = None,
    column: ColumnOption = None,
    types: Annotated[
        str | None, typer.Option("--types", help="Names with commas between; a wrong name lists all.")
    ] = None,
    threshold: Annotated[
        list[str] | None, typer.Option("--threshold", metavar="TYPE=NUMBER", help="Another threshold; can be repeated.")
    ] = None,
    n: Annotated[int, typer.Option("--n", help="Sequences of text.")] = 16,
    length: Annotated[int | None, typer.Option("--length", help="Tokens of each; 256, or the context.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every head, also of a model of more than 64.")] = False,
    top: Annotated[int, typer.Option("--top", min=1, help="Heads shown of each type of a larger model.")] = 5,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Sequences at a time; changes no score.")] = 8,
    seed: SeedOption = 0,
    placement: Placement,
    outputs: Outputs,
    save: Annotated[Path | None, save_option("Directory for interp.load_result.")] = None,
    notices: Notices,
    line: Line,
) -> None:
    """Say of every head what it is: its types with score, interval, chance level, percentile and confidence.

    Example: interp catalogue --model mini --text stories.txt --csv heads.csv
    """
    from circuits.catalogue import catalogue as run
    from interp.report import catalogue_page

    if not text:
        line.refuse("without --text", "column")
    with notices.shown():
        found = run(
            placement.load(model),
            None if not text else chain.from_iterable(file_texts(path, column=column) for path in text),
            types=None if types is None else names_in(types),
            thresholds=dict(map(_threshold, threshold or ())),
            n=n, length=length, batch_size=batch_size, seed=seed, progress=notices.progress,
        )  # fmt: skip
    if save is not None:
        found.save(save)
    outputs.write(
        page=lambda: catalogue_page(found),
        document=lambda: _document(found),
        frame=found.to_frame,
        terminal=lambda: _page(found, top if len(found.heads) > WHOLE and not everything else None),
    )


def _threshold(given: str) -> tuple[str, float]:
    from interp.errors import InputError

    name, _, number = given.partition("=")
    try:
        return name.strip(), float(number)
    except ValueError as error:
        raise InputError(f"--threshold {given} is not TYPE=NUMBER. Write it like induction=0.5.") from error


def _document(found: HeadCatalogue) -> dict[str, Any]:
    """Everything in the result, by head."""
    heads = found.heads_frame().to_dict("records")
    frame = found.to_frame().drop(columns=["layer", "head"])
    evidence = {label: part.drop(columns="label").to_dict("records") for label, part in frame.groupby("label")}
    return {
        "name": found.name,
        "notes": found.notes,
        "provenance": found.provenance.to_dict(),
        "heads": [head | {"evidence": evidence[head["label"]]} for head in heads],
    }


def _page(found: HeadCatalogue, top: int | None) -> Page:
    """All heads, or with `top` the numbers of each type by layer and the clearest heads of each type."""
    from interp.report import Page
    from interp.report.catalogue import LEGEND, by_layer, facts, heads_table, title_of

    title = title_of(found)
    if top is None:
        tables = [heads_table(title, by_layer(found), found)]
    else:
        clearest = [[(head, [kind]) for head in found.heads_of(kind)[:top]] for kind in found.types]
        shown = [group for group in clearest if group]
        tables = [_counts(title, found), heads_table("Clearest heads of each type", shown, found)]
    left_out = [f"left out: {name}, because {reason}" for name, reason in found.notes["left out"].items()]
    blocks = [*tables, *facts(found), *_rules(found), *left_out, LEGEND]
    return Page(title=title, blocks=blocks, provenance=found.provenance)


def _counts(title: str, found: HeadCatalogue) -> Table:
    """Heads of each type by layer, implied ones not counted."""
    from interp.report import titled_table

    counts = {kind: by_layer for kind, by_layer in found.counts().items() if any(by_layer)}
    table = titled_table(title)
    for name in ("layer", *counts):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in range(found.n_layers):
        table.add_row(str(layer), *(str(by_layer[layer] or "") for by_layer in counts.values()))
    table.add_row("all", *(str(sum(by_layer)) for by_layer in counts.values()))
    return table


def _rules(found: HeadCatalogue) -> list[str]:
    """The rules of the types that are shown."""
    shown = {kind for head in found.heads for kind in (*found.types_of(head), *found.types_of(head, "uncertain"))}
    rules = {kind: found.notes["rules"][kind] for kind in found.types if kind in shown}
    return [f"{kind}: {rule['meaning']}; {rule['rule']} ({rule['source']})" for kind, rule in rules.items()]
