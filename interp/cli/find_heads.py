"""`interp find-heads`: rank the heads that do a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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


def find_heads(
    task: Annotated[str, typer.Option("--task", help="A task, as ioi; a wrong name lists them all.")] = "ioi",
    model: ModelOption = "mini",
    n_prompts: Annotated[int, typer.Option("--n-prompts", help="Prompts of the task.")] = 100,
    seed: SeedOption = 0,
    method: Annotated[
        str, typer.Option("--method", help="exact, attribution (estimate, then patch the highest), or auto.")
    ] = "auto",
    top: Annotated[
        int | None, typer.Option("--top", help="Heads shown, and tested as a group; a quarter, at most 10.")
    ] = None,
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
    """Rank the attention heads that do a task by their causal effect, with roles and evidence.

    Example: interp find-heads --task ioi --model mini --json heads.json
    """
    from circuits.find_heads import find_heads as analyse
    from circuits.tasks import get_task
    from interp.cli.export import ranked_frame, scores_document
    from interp.cli.head_table import heads_page

    outputs = Outputs(json=json, csv=csv, html=html, parquet=parquet)
    known = get_task(task)
    with reported_warnings(quiet=quiet, debug=debug):
        scores = analyse(
            load_model(model, device, dtype),
            known,
            n_prompts=n_prompts,
            seed=seed,
            method=method,  # pyright: ignore[reportArgumentType]
            top=top,
            progress=False if quiet else None,
        )
    if save is not None:
        scores.save(save)
    outputs.write(
        page=lambda: heads_page(scores),
        document=lambda: scores_document(scores),
        frame=lambda: ranked_frame(scores),
    )
