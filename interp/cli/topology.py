"""`interp topology`: topological features of the attention graphs of every head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.options import Line, ModelOption, Notices, Placement, SeedOption, save_option, with_option_groups
from interp.cli.outputs import Outputs
from interp.cli.sources import Documents, TaskOption

if TYPE_CHECKING:
    from rich.table import Table

    from interp.report import Page
    from interp.results import HeadFeatures

LEGEND = (
    "means over texts; b0, b1: components and independent cycles of the graph cut at the threshold; h0: bars of the "
    "filtration; to_...: distance from a canonical pattern, 0 for the pattern itself, 1 without a common entry"
)


@with_option_groups
def topology(
    *,
    model: ModelOption = "mini",
    documents: Documents,
    task: TaskOption = None,
    threshold: Annotated[
        list[float] | None,
        typer.Option(
            "--threshold", help="Attention that makes an edge; can be repeated.  [default: six, 0.025 to 0.75]"
        ),
    ] = None,
    max_cycles: Annotated[
        int, typer.Option("--max-cycles", min=0, help="Directed cycles are counted up to this number.")
    ] = 500,
    n: Annotated[int, typer.Option("--n", help="Sequences; each makes one graph per head.")] = 20,
    length: Annotated[int | None, typer.Option("--length", help="Tokens per sequence.")] = 128,
    seed: SeedOption = 0,
    placement: Placement,
    outputs: Outputs,
    save: Annotated[Path | None, save_option("Directory for interp.load_result.")] = None,
    notices: Notices,
    line: Line,
) -> None:
    """Describe the attention graph of every head on every text: components, cycles, distances to known patterns.

    The CSV has a row for each text and head, and a column for each feature.

    Example: interp topology --model mini --task ioi --n 10 --threshold 0.1 --csv features.csv
    """
    from interp.analyzers.topology import THRESHOLDS, Topology, topological_features

    documents.check("A table of features", line, task=task)
    parameters = Topology(thresholds=tuple(threshold or THRESHOLDS), max_cycles=max_cycles)
    with notices.shown():
        loaded = placement.load(model)
        data = documents.read(loaded, n=n, length=length, task=task, seed=seed)
        found = topological_features(loaded, data, parameters, seed=seed if task else None, progress=notices.progress)
    if save is not None:
        found.save(save)
    outputs.write(page=lambda: _page(found), document=lambda: _document(found), frame=found.to_frame)


def _document(found: HeadFeatures) -> dict[str, Any]:
    return {
        "name": found.name,
        "notes": found.notes,
        "provenance": found.provenance.to_dict(),
        "uniform": [dict(zip(found.features, row, strict=True)) for row in found.uniform.tolist()],
        "rows": found.to_frame().to_dict("records"),
    }


def _page(found: HeadFeatures) -> Page:
    from interp.report import Page, head_grids

    grids = head_grids(map(found.scores, found.features))
    return Page(title="Attention graphs", blocks=[_table(found), LEGEND, *grids], provenance=found.provenance)


def _table(found: HeadFeatures) -> Table:
    from interp.report import titled_table
    from interp.tables import number

    texts = f"{len(found.values)} text{'s' * (len(found.values) != 1)}"
    table = titled_table(f"Features of attention graphs, {found.provenance.model}, {texts}")
    table.add_column("feature", no_wrap=True)
    for name in ("uniform", "lowest", "", "highest", ""):
        table.add_column(name, justify="right", no_wrap=True)
    for index, feature in enumerate(found.features):
        scores = found.scores(feature)
        ranked = scores.top()
        ends = ranked[-1], ranked[0]
        differ = scores[ends[0]] != scores[ends[1]]
        cells = [cell for head in ends for cell in (number(scores[head]), head.label if differ else "")]
        table.add_row(feature, number(float(found.uniform[:, index].mean())), *cells)
    return table
