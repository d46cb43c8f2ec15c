"""`interp topology`: topological features of the attention graphs of every head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.options import (
    CsvOption,
    DebugOption,
    DeviceOption,
    DtypeOption,
    HtmlOption,
    JsonOption,
    ModelOption,
    ParquetOption,
    QuietOption,
    SeedOption,
    load_model,
    reported_warnings,
)
from interp.cli.outputs import Outputs
from interp.cli.sources import (
    ApartOption,
    BosOption,
    ColumnOption,
    ConfigOption,
    DatasetOption,
    SampleByOption,
    SplitOption,
    TaskOption,
    TextOption,
    check_source,
    read_source,
)

if TYPE_CHECKING:
    from rich.table import Table

    from interp.report import Page
    from interp.results import HeadFeatures

LEGEND = (
    "means over texts; b0, b1: components and independent cycles of the graph cut at the threshold; h0: bars of the "
    "filtration; to_...: distance from a canonical pattern, 0 for the pattern itself, 1 without a common entry"
)


def topology(
    model: ModelOption = "mini",
    text: TextOption = None,
    dataset: DatasetOption = None,
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
    apart: ApartOption = False,
    column: ColumnOption = None,
    sample_by: SampleByOption = "document",
    config: ConfigOption = None,
    split: SplitOption = "train",
    bos: BosOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    json: JsonOption = None,
    csv: CsvOption = None,
    parquet: ParquetOption = None,
    html: HtmlOption = None,
    save: Annotated[Path | None, typer.Option("--save", help="Directory for interp.load_result.")] = None,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Describe the attention graph of every head on every text: components, cycles, distances to known patterns.

    The CSV has a row for each text and head, and a column for each feature.

    Example: interp topology --model mini --task ioi --n 10 --threshold 0.1 --csv features.csv
    """
    from interp.analyzers.topology import THRESHOLDS, Topology, topological_features

    outputs = Outputs(json=json, csv=csv, html=html, parquet=parquet)
    check_source("A table of features", text=text, dataset=dataset, task=task)
    parameters = Topology(thresholds=tuple(threshold or THRESHOLDS), max_cycles=max_cycles)
    with reported_warnings(quiet=quiet, debug=debug):
        loaded = load_model(model, device, dtype)
        data = read_source(
            loaded, text=text, dataset=dataset, task=task, n=n, length=length, apart=apart, column=column,
            sample_by=sample_by, config=config, split=split, bos=bos, seed=seed,
        )  # fmt: skip
        found = topological_features(
            loaded, data, parameters, seed=seed if task else None, progress=False if quiet else None
        )
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
