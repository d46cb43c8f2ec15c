"""`interp distances`: how differently heads attend, and groups of heads that attend alike."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.options import Line, ModelOption, Notices, Placement, SeedOption, save_option, with_option_groups
from interp.cli.outputs import Outputs
from interp.cli.sources import Documents, LengthOption, TaskOption

if TYPE_CHECKING:
    from rich.table import Table

    from interp.report import Page
    from interp.results import HeadDistances, HeadScores

LEGEND = (
    "distance: square root of the mean Jensen-Shannon divergence, from 0 to 0.833; silhouette: 1 far nearer to the own "
    "group than to the next, 0 in between; from uniform: mean divergence from even attention, in nats"
)


@with_option_groups
def distances(
    *,
    model: ModelOption = "mini",
    documents: Documents,
    task: TaskOption = None,
    clusters: Annotated[
        int | None, typer.Option("--clusters", help="Groups; 2 to 10 of them, by the silhouette.")
    ] = None,
    head: Annotated[str | None, typer.Option("--head", help="Show the heads nearest to this one, as L1H3.")] = None,
    n: Annotated[int, typer.Option("--n", help="Sequences.")] = 20,
    length: LengthOption = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Pairs of heads shown.")] = 5,
    seed: SeedOption = 0,
    placement: Placement,
    outputs: Outputs,
    save: Annotated[Path | None, save_option("Directory for distances/ and clusters/.")] = None,
    notices: Notices,
    line: Line,
) -> None:
    """Compare the attention of every two heads, and group the heads that attend alike.

    The CSV has a row for each pair; the JSON also places the heads in the plane (metric scaling).

    Example: interp distances --model mini --task ioi --n 10 --clusters 5
    """
    from interp.analyzers.divergence import head_clusters, head_distances

    documents.check("A comparison of heads", line, task=task)
    with notices.shown():
        loaded = placement.load(model)
        data = documents.read(loaded, n=n, length=length, task=task, seed=seed)
        found = head_distances(loaded, data, seed=seed if task else None, progress=notices.progress)
        groups = head_clusters(found, clusters)
        pairs = _nearest(found, head, top)
    if save is not None:
        found.save(save / "distances")
        groups.save(save / "clusters")
    outputs.write(
        page=lambda: _page(found, groups, pairs),
        document=lambda: _document(found, groups, seed),
        frame=found.to_frame,
    )


def _nearest(found: HeadDistances, head: str | None, top: int) -> list[tuple[str, str, float]]:
    """The pairs of heads that are nearest to each other, or those of one head."""
    if head is not None:
        return [(head, other.label, distance) for other, distance in found.nearest(head, top)]
    frame = found.to_frame().sort_values("distance", kind="stable").head(top)
    return list(frame[["head", "other", "distance"]].itertuples(index=False, name=None))


def _document(found: HeadDistances, groups: HeadScores, seed: int) -> dict[str, Any]:
    from interp.analyzers.divergence import head_embedding

    records = {record["label"]: record for record in groups.to_frame().to_dict("records")}
    points = head_embedding(found, seed=seed).tolist()
    return {
        "name": found.name,
        "unit": found.unit,
        "notes": dict(found.notes) | dict(groups.notes),
        "provenance": found.provenance.to_dict(),
        "heads": [
            records[label] | {"x": x, "y": y} for label, (x, y) in zip(found.labels, points, strict=True)
        ],
        "pairs": found.to_frame().to_dict("records"),
    }  # fmt: skip


def _page(found: HeadDistances, groups: HeadScores, pairs: list[tuple[str, str, float]]) -> Page:
    from interp.report import Page, distance_grid

    frame = groups.to_frame()
    order = frame.sort_values("cluster", kind="stable").index.tolist()
    words = [f"group {cluster:.0f}" if cluster == cluster else "no group" for cluster in frame["cluster"]]
    blocks = [
        _table(found, groups),
        f"mean silhouette {groups.notes['mean silhouette']:.2f}",
        f"nearest: {', '.join(f'{head} and {other} {distance:.3f}' for head, other, distance in pairs)}",
        LEGEND,
        distance_grid(found, order, words),
    ]
    return Page(title="Heads that attend alike", blocks=blocks, provenance=found.provenance)


def _table(found: HeadDistances, groups: HeadScores) -> Table:
    from interp.report import titled_table

    n_groups, n_texts = groups.notes["clusters"], found.notes["texts"]
    texts = f"{n_texts} text{'s' * (n_texts != 1)}"
    table = titled_table(f"{n_groups} groups of heads that attend alike, {found.provenance.model}, {texts}")
    for name in ("group", "silhouette", "from uniform"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("heads")
    for cluster, part in groups.to_frame().dropna(subset="score").groupby("cluster"):
        means = part[["score", "to_uniform"]].mean()
        table.add_row(f"{cluster:.0f}", f"{means['score']:.2f}", f"{means['to_uniform']:.3f}", ", ".join(part["label"]))
    return table
