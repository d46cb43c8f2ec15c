"""`interp emergence`: how induction, sinks or previous-token heads appear during training."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interp.cli.options import Line, Notices, Placement, SeedOption, save_option, with_option_groups
from interp.cli.outputs import Outputs
from interp.cli.sources import ColumnOption, file_texts

if TYPE_CHECKING:
    from rich.table import Table

    from interp.emergence import Emergence
    from interp.model.tokens import TokenBatch
    from interp.report import Page

BAR, EIGHTHS = 5, " ▏▎▍▌▋▊▉"
SHORT = {"copying accuracy": "copying", "in-context score (nats)": "ICL"}
LEGEND = {
    "copying": "accuracy on the repetition of the random tokens; chance: one of them",
    "ICL": "loss at the last token minus that within the first copy, in nats; chance: behind other tokens",
}


@with_option_groups
def emergence(
    *,
    metric: Annotated[str, typer.Option("--metric", help="induction, sinks or previous-token.")] = "induction",
    model: Annotated[str | None, typer.Option("--model", help="Embedded model with curves of its own; mini.")] = None,
    checkpoints: Annotated[
        Path | None, typer.Option("--checkpoints", help="Measure the models in DIR/step-00100 and so on instead.")
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option("--text", help="File for sinks and previous-token; else the last checkpoint writes a text."),
    ] = None,
    column: ColumnOption = None,
    n: Annotated[int, typer.Option("--n", help="Sequences of the text.")] = 100,
    length: Annotated[int, typer.Option("--length", help="Tokens of each sequence of the text.")] = 64,
    top: Annotated[int, typer.Option("--top", min=1, help="Heads shown and named.")] = 5,
    seed: SeedOption = 0,
    placement: Placement,
    outputs: Outputs,
    save: Annotated[Path | None, save_option("Directory, for interp.load_result.")] = None,
    notices: Notices,
    line: Line,
) -> None:
    """Draw how a property of the heads emerges during training.

    Example: interp emergence --metric sinks --html sinks.html
    """
    from circuits.emergence import measure_emergence
    from interp.errors import InputError

    if model is not None and checkpoints is not None:
        raise InputError("--model reads the curves of an embedded model, --checkpoints measures others. Give one.")
    if text is not None and (checkpoints is None or metric == "induction"):
        raise InputError(
            "--text is what sinks and previous-token are measured on in --checkpoints; induction takes random tokens, "
            "and the curves of an embedded model are measured already. Leave it out."
        )
    if checkpoints is None:
        line.refuse("without --checkpoints", "device", "dtype", "seed")
    if text is None:
        line.refuse("without --text", "column", "n", "length")
    with notices.shown():
        if checkpoints is None:
            curves = _shipped(model or "mini", metric)
        else:
            tokens = (
                None if text is None else _tokens(checkpoints, placement, file_texts(text, column=column), n, length)
            )
            curves = measure_emergence(
                checkpoints, [metric], text=tokens, text_name=str(text), device=placement.device,
                dtype=placement.dtype, seed=seed, progress=notices.progress,
            )[metric]  # fmt: skip
    if save is not None:
        curves.save(save)
    outputs.write(page=lambda: _page(curves, top), document=curves.to_document, frame=curves.to_frame)


def _shipped(model: str, metric: str) -> Emergence:
    from circuits.emergence import shipped_emergence
    from interp.errors import InputError

    found = shipped_emergence(model)
    if metric not in found:
        raise InputError(f"There is no metric {metric!r}. Choose from {', '.join(found)}.")
    return found[metric]


def _tokens(checkpoints: Path, placement: Placement, texts: Iterable[str], n: int, length: int) -> TokenBatch:
    """The text that every checkpoint reads, by the tokenizer of the first."""
    from circuits.emergence import checkpoint_series
    from interp.data import sequences

    first, *_ = checkpoint_series(checkpoints).values()
    return sequences(placement.load(str(first)), texts, n=n, length=length)


def _page(curves: Emergence, top: int) -> Page:
    from interp.emergence import ONSET
    from interp.report import Page

    emerged = int((~curves.heads.columns["onset"].isnan()).sum())
    blocks = [
        curves.plot(top),
        _table(curves, top),
        f"{emerged} of {len(curves.heads.heads)} heads end at least a quarter of the way from chance to 1; "
        "the others have no onset",
        f"onset: {ONSET}",
        *(f"{short}: {LEGEND[short]}" for short in (SHORT[name] for name in curves.model if name in SHORT)),
        f"measured on {curves.notes['measured on']}; {curves.unit}",
    ]
    return Page(title=curves.title, blocks=blocks, provenance=curves.provenance)


def _table(curves: Emergence, top: int) -> Table:
    """One row per checkpoint: the highest heads, the mean of all, the whole model; below them their onsets."""
    from interp.report import titled_table

    heads = curves.heads
    named = curves.top(top)
    table = titled_table(curves.title)
    table.add_column("step", justify="right", no_wrap=True)
    for name in (*(head.label for head in named), "mean"):
        table.add_column(name, no_wrap=True)
    for name in curves.model:
        table.add_column(SHORT.get(name, name), justify="right", no_wrap=True)
    columns = [curves.head_curve(head) for head in named] + [curves.mean.tolist()]
    for index, step in enumerate(curves.steps.tolist()):
        values = (f"{float(found[index]):z.2f}" for found in curves.model.values())
        table.add_row(f"{step:,}", *(_bar(column[index]) for column in columns), *values)
    table.add_section()
    whole = curves.model_onsets()
    own = [float(heads.columns["onset"][head.layer, head.head]) for head in named]
    table.add_row("onset", *map(_step, [*own, *whole.values()]))
    chances = [f"{float(chance[-1]):z.2f}" for chance in curves.model_chance.values()]
    table.add_row("chance", *[f"{curves.chance:.2f}"] * (len(named) + 1), *chances)
    return table


def _bar(value: float) -> str:
    """A score in [0, 1] as a number and a bar of eighths of a character."""
    if value != value:
        return "–"
    eighths = round(value * BAR * 8)
    return f"{value:.2f} {'█' * (eighths // 8)}{EIGHTHS[eighths % 8]}".rstrip()


def _step(step: float) -> str:
    return "–" if step != step else f"{int(step):,}"
