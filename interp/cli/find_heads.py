"""`interp find-heads`: rank the heads that do a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from interp.cli.options import ModelOption, Notices, Placement, SeedOption, save_option, with_option_groups
from interp.cli.outputs import Outputs


@with_option_groups
def find_heads(
    *,
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
    placement: Placement,
    outputs: Outputs,
    save: Annotated[Path | None, save_option("Directory for interp.load_result.")] = None,
    notices: Notices,
) -> None:
    """Rank the attention heads that do a task by their causal effect, with roles and evidence.

    Example: interp find-heads --task ioi --model mini --json heads.json
    """
    from circuits.find_heads import find_heads as analyse
    from circuits.tasks import get_task
    from interp.cli.export import ranked_frame, scores_document
    from interp.cli.head_table import heads_page

    known = get_task(task)
    with notices.shown():
        scores = analyse(
            placement.load(model),
            known,
            n_prompts=n_prompts,
            seed=seed,
            method=method,  # pyright: ignore[reportArgumentType]
            top=top,
            progress=notices.progress,
        )
    if save is not None:
        scores.save(save)
    outputs.write(
        page=lambda: heads_page(scores),
        document=lambda: scores_document(scores),
        frame=lambda: ranked_frame(scores),
    )
