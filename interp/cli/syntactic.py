"""`interp syntactic`: heads that look from a word to its governor, relation by relation."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.options import ModelOption, Notices, Placement, SeedOption, save_option, with_option_groups
from interp.cli.outputs import Outputs

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from interp.report import Page
    from interp.results import HeadScores

LEGEND = (
    "head and offset: the best of all on these arcs, so expect somewhat less of both on others; offset: governor minus "
    "dependent where it is most often; baseline: accuracy of always naming the word there; random: of any word in "
    "sight; held out: head minus offset on sentences where neither was chosen (half for half, bootstrap over "
    "sentences); better, worse: its interval excludes 0"
)


@with_option_groups
def syntactic(
    *,
    conllu: Annotated[Path, typer.Option("--conllu", help="CoNLL-U file with gold arcs, such as a UD treebank.")],
    model: ModelOption = "mini",
    n: Annotated[int | None, typer.Option("--n", min=1, help="Sentences, from the first; all.")] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", help="Relation outside of the score over all; can be repeated.  [default: punct]"),
    ] = None,
    min_arcs: Annotated[int, typer.Option("--min-arcs", help="Rarer relations are not shown.")] = 10,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Sentences at a time; changes no score.")] = 8,
    top: Annotated[int, typer.Option("--top", min=1, help="Relations shown, the most frequent first.")] = 20,
    seed: SeedOption = 0,
    placement: Placement,
    outputs: Outputs,
    save: Annotated[Path | None, save_option("Directory for interp.load_result.")] = None,
    notices: Notices,
) -> None:
    """Name the head that best points to the governors of each relation, beside the best fixed offset.

    Encoders show every arc in both directions; causal models only those whose governor is on the side they see.

    Example: interp syntactic --model bert-base-cased --conllu en_ewt-ud-dev.conllu --csv relations.csv
    """
    from interp.analyzers.conllu import read_conllu
    from interp.analyzers.syntactic import best_heads, syntactic_heads
    from interp.cli.export import scores_document

    sentences = read_conllu(conllu)[:n]
    with notices.shown():
        scores = syntactic_heads(
            placement.load(model), sentences, excluded=exclude or ["punct"], batch_size=batch_size,
            seed=seed, progress=notices.progress,
        )  # fmt: skip
    relations = best_heads(scores)
    if save is not None:
        scores.save(save)
    outputs.write(
        page=lambda: _page(scores, relations, min_arcs, None),
        document=lambda: scores_document(scores) | {"relations": relations.to_dict("records")},
        frame=lambda: relations,
        terminal=lambda: _page(scores, relations, min_arcs, top),
    )


def _page(scores: HeadScores, relations: pd.DataFrame, min_arcs: int, top: int | None) -> Page:
    from interp.report import Page, head_grid

    notes = scores.notes
    rows = [row for row in relations.to_dict("records") if row["arcs"] >= min_arcs]
    counts = Counter(row["verdict"] for row in rows)
    title = f"Best head of each relation, {scores.provenance.model}, {notes['sentences']} sentences"
    blocks: list[Any] = [
        _table(title, rows, top),
        f"of {len(rows)} relations and directions, the best head is better than the best offset in {counts['better']}, "
        f"worse in {counts['worse']}, neither for sure in {counts['open']}; too few sentences in {counts['too few']}",
    ]
    if notes["causal"]:
        blocks.append("causal attention: arcs to the left are scored dep->gov, arcs to the right gov->dep")
    if notes["words without a token"]:
        blocks.append(
            f"words without a token of their own, whose arcs are not scored: {notes['words without a token']}"
        )
    return Page(title=title, blocks=[*blocks, LEGEND, head_grid(scores)], provenance=scores.provenance)


def _table(title: str, rows: list[dict[str, Any]], top: int | None) -> Table:
    """The relations with most arcs first, both directions of one together."""
    from interp.report import titled_table

    table = titled_table(title)
    for name in ("relation", "direction"):
        table.add_column(name, no_wrap=True)
    for name in ("arcs", "head", "accuracy", "95 %", "offset", "baseline", "95 %"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for name in ("held out", "95 %", "random"):
        table.add_column(name, justify="right", no_wrap=True)
    arcs = Counter[str]()
    for row in rows:
        arcs[row["relation"]] += row["arcs"]
    for relation, _ in arcs.most_common(top):
        for row in rows:
            if row["relation"] == relation:
                table.add_row(*_cells(row))
        table.add_section()
    return table


def _cells(row: dict[str, Any]) -> list[str]:
    direction = row["direction"].replace("dependent", "dep").replace("governor", "gov")
    cells = [row["relation"], direction, str(row["arcs"]), row["head"], f"{row['accuracy']:.2f}"]
    cells += [f"{row['ci_low']:.2f}-{row['ci_high']:.2f}", f"{row['offset']:+d}", f"{row['baseline']:.2f}"]
    cells += [f"{row['baseline_low']:.2f}-{row['baseline_high']:.2f}", row["verdict"]]
    known = row["difference"] == row["difference"]
    held_out = [f"{row['difference']:+z.2f}", f"{row['difference_low']:+z.2f} to {row['difference_high']:+z.2f}"]
    return [*cells, *(held_out if known else ["", ""]), f"{row['random']:.2f}"]
