"""`interp composition`: which heads read what earlier heads write, by the weights alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.options import ModelOption, Notices, Placement, save_option, with_option_groups
from interp.cli.outputs import Outputs

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from interp.analyzers.composition import Mode
    from interp.heads import HeadRef
    from interp.report import Page
    from interp.results import HeadPairs

LEGEND = (
    "source: the head that writes; destination: the later head that reads it through its queries (Q), keys (K) or "
    "values (V); chance: the same two heads turned at random against each other; z: standard deviations above that, "
    "and the highest of some hundred pairs of random heads has a z of 3 to 4, at times 6"
)


@with_option_groups
def composition(
    *,
    model: ModelOption = "mini",
    kind: Annotated[str, typer.Option("--kind", help="q, k, v, or all.")] = "all",
    head: Annotated[str | None, typer.Option("--head", help="Show the pairs of this head, as L1H3.")] = None,
    by: Annotated[str, typer.Option("--by", help="Highest by score, or by z.")] = "score",
    top: Annotated[int, typer.Option("--top", min=1, help="Pairs shown of each kind.")] = 5,
    placement: Placement,
    outputs: Outputs,
    save: Annotated[Path | None, save_option("Directory; one result per kind in it.")] = None,
    notices: Notices,
) -> None:
    """Find the pairs of heads where a later head reads what an earlier one writes, by their weights alone.

    Scores are TransformerLens' composition scores, of weights with the norms folded in. The CSV has a row for each kind
    and pair.

    Example: interp composition --model mini --kind k --top 10 --html pairs.html
    """
    from interp.analyzers.composition import composition as compose

    modes = _modes(kind)
    with notices.shown():
        loaded = placement.load(model)
        found = [compose(loaded, mode) for mode in modes]
        strongest = [pairs.top(top, by, head=head) for pairs in found]
    if save is not None:
        for pairs in found:
            pairs.save(save / pairs.name.lower())
    outputs.write(
        page=lambda: _page(found, strongest, by),
        document=lambda: {pairs.name.lower(): _document(pairs) for pairs in found},
        frame=lambda: _frame(found),
    )


def _modes(kind: str) -> Sequence[Mode]:
    from typing import get_args

    from interp.analyzers.composition import Mode
    from interp.errors import InputError

    known: tuple[Mode, ...] = get_args(Mode)
    chosen: list[Mode] = [mode for mode in known if kind.upper() in (mode, "ALL")]
    if not chosen:
        raise InputError(f"There is no kind of composition {kind!r}. Choose from q, k, v and all.")
    return chosen


def _document(pairs: HeadPairs) -> dict[str, Any]:
    return {
        "chance": pairs.chance,
        "provenance": pairs.provenance.to_dict(),
        "pairs": pairs.to_frame().to_dict("records"),
    }


def _frame(found: Sequence[HeadPairs]) -> pd.DataFrame:
    import pandas as pd

    frames = {pairs.name.lower(): pairs.to_frame() for pairs in found}
    return pd.concat(frames, names=["kind"]).reset_index(level="kind").reset_index(drop=True)


def _page(found: Sequence[HeadPairs], strongest: Sequence[list[tuple[HeadRef, HeadRef]]], by: str) -> Page:
    from interp.analyzers.composition import strongest_source
    from interp.report import Page, head_grids, pair_grids

    warnings = [sentence for pairs in found for sentence in pairs.provenance.warnings]
    modes = ", ".join(str(pairs.provenance.parameters["mode"]) for pairs in found)
    return Page(
        title=f"Heads of {found[0].provenance.model} that read each other",
        blocks=[
            _table(found, strongest, by),
            LEGEND,
            *pair_grids(found),
            *head_grids(replace(strongest_source(p), name=f"{p.name} with the strongest source") for p in found),
        ],
        provenance=replace(found[0].provenance.with_warnings(*warnings), parameters={"mode": modes}),
    )


def _table(found: Sequence[HeadPairs], strongest: Sequence[list[tuple[HeadRef, HeadRef]]], by: str) -> Table:
    from interp.report import titled_table

    table = titled_table(f"Strongest compositions of heads, by {by}, {found[0].provenance.model}")
    for name in ("kind", "source", "destination"):
        table.add_column(name, no_wrap=True)
    for name in ("score", "chance", "z"):
        table.add_column(name, justify="right", no_wrap=True)
    for pairs, shown in zip(found, strongest, strict=True):
        for index, (source, destination) in enumerate(shown):
            z = float(pairs.z[*source[:2], *destination[:2]])
            numbers = (f"{pairs[source, destination]:.3f}", f"{pairs.chance:.3f}", f"{z:.1f}")
            table.add_row("" if index else pairs.name, source.label, destination.label, *numbers)
        table.add_section()
    return table
