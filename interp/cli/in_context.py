"""`interp in-context`: how much better late tokens are predicted than early ones, and by which heads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.options import Line, ModelOption, Notices, Placement, save_option, with_option_groups
from interp.cli.outputs import Outputs
from interp.cli.sources import Documents

if TYPE_CHECKING:
    from rich.table import Table

    from interp.report import Page
    from interp.results import HeadScores, LossCurve

LEGEND = (
    "nats; effect: what leaving the head out takes from the score, positive where it helps late tokens more than early "
    "ones; late, early: change of the loss there; others: mean effect of the layer's other heads"
)


@with_option_groups
def in_context(
    *,
    model: ModelOption = "mini",
    documents: Documents,
    early: Annotated[int, typer.Option("--early", help="Position whose loss is compared.")] = 50,
    late: Annotated[int, typer.Option("--late", help="Position that it is compared with.")] = 500,
    heads: Annotated[bool, typer.Option("--heads/--no-heads", help="Also leave out every head by itself.")] = True,
    ablation: Annotated[
        str, typer.Option("--ablation", help="full, or pattern-preserving: later heads look where they looked before.")
    ] = "full",
    n: Annotated[int, typer.Option("--n", help="Sequences, each of two tokens more than --late.")] = 100,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Sequences at a time; changes no score.")] = 8,
    top: Annotated[int, typer.Option("--top", min=1, help="Heads shown.")] = 10,
    placement: Placement,
    outputs: Outputs,
    save: Annotated[Path | None, save_option("Directory for curve/ and heads/.")] = None,
    notices: Notices,
    line: Line,
) -> None:
    """Measure in-context learning: the loss late in a text minus the loss early in it, and what each head adds.

    The CSV has a row for each head; without heads, for each position.

    Example: interp in-context --model gpt2 --text book.txt --n 20
    """
    from interp.analyzers.in_context import in_context_heads, in_context_score
    from interp.cli.export import ranked_frame

    documents.check("In-context learning", line)
    if not heads:
        line.refuse("without heads", "ablation", "top")
    with notices.shown():
        loaded = placement.load(model)
        data = documents.read(loaded, n=n, length=late + 2)
        options: dict[str, Any] = {"early": early, "late": late, "batch_size": batch_size}
        curve = in_context_score(loaded, data, **options)
        scores = None
        if heads:
            options |= {"ablation": ablation, "progress": notices.progress}
            scores = in_context_heads(loaded, data, **options)
    if save is not None:
        curve.save(save / "curve")
        if scores is not None:
            scores.save(save / "heads")
    outputs.write(
        page=lambda: _page(curve, scores, top),
        document=lambda: _document(curve, scores),
        frame=lambda: curve.to_frame() if scores is None else ranked_frame(scores),
    )


def _document(curve: LossCurve, scores: HeadScores | None) -> dict[str, Any]:
    from interp.cli.export import scores_document

    names = ("name", "unit", "early", "late", "score", "ci_low", "ci_high", "control", "notes")
    return {
        **{name: getattr(curve, name) for name in names},
        "provenance": curve.provenance.to_dict(),
        "positions": curve.to_frame().to_dict("records"),
        **({} if scores is None else {"heads": scores_document(scores)}),
    }


def _page(curve: LossCurve, scores: HeadScores | None, top: int) -> Page:
    from interp.report import Page, head_grid

    blocks: list[Any] = [
        f"in-context learning of {curve.provenance.model}: loss at {curve.late} minus loss at {curve.early} "
        f"{curve.score:+.3f} nats ({curve.ci_low:+.3f} to {curve.ci_high:+.3f}), {curve.notes['examples']} texts",
        f"with the beginning of another text {curve.control:+.3f}",
        curve.plot(),
    ]
    if scores is not None:
        blocks += [_table(scores, top), LEGEND, head_grid(scores)]
    return Page(title="In-context learning", blocks=blocks, provenance=curve.provenance)


def _table(scores: HeadScores, top: int) -> Table:
    from interp.report import titled_table

    table = titled_table("heads that carry it")
    table.add_column("head", no_wrap=True)
    for name in ("effect", "95 % interval", "late", "early", "others"):
        table.add_column(name, justify="right", no_wrap=True)
    records = {record["label"]: record for record in scores.to_frame().to_dict("records")}
    for head in scores.top(top):
        row = records[head.label]
        cells = [f"{row[name]:+z.3f}" for name in ("late", "early", "layer mean")]
        interval = f"{row['ci_low']:+z.3f} to {row['ci_high']:+z.3f}"
        table.add_row(head.label, f"{row['score']:+z.3f}", interval, *cells)
    return table
