"""`interp retrieval`: heads that fetch from far away, by several methods, and how far these agree."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.options import Line, ModelOption, Notices, Placement, SeedOption, save_option, with_option_groups
from interp.cli.outputs import Outputs

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from circuits.retrieval import Agreement, Needle
    from interp.report import Page
    from interp.results import HeadScores

OPTIONS_OF = {
    ("needle",): ("scoring",),
    ("duo-gates",): ("steps", "learning_rate"),
    ("duo-surrogate",): ("probes",),
    ("duo-gates", "duo-surrogate"): ("penalty",),
    ("distant-mass", "local-heads", "duo-gates", "duo-surrogate"): ("sink", "recent"),
}
"""Parameters that belong to some of the methods."""


@with_option_groups
def retrieval(
    *,
    model: ModelOption = "mini",
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="needle, razor, distant-mass, local-heads, qrhead, duo-surrogate or duo-gates; can be repeated. "
            "Default: needle, razor and distant-mass.",
        ),
    ] = None,
    haystack: Annotated[
        Path | None, typer.Option("--haystack", help="A long text to hide needles in; random tokens without it.")
    ] = None,
    needles: Annotated[
        Path | None,
        typer.Option("--needles", help="JSONL with text, question and answer, hidden in the haystack; three built in."),
    ] = None,
    random_needles: Annotated[
        int | None, typer.Option("--random-needles", help="Needles among random tokens; three without it.")
    ] = None,
    length: Annotated[list[int] | None, typer.Option("--length", help="Tokens of a prompt; can be repeated.")] = None,
    depth: Annotated[
        list[float] | None,
        typer.Option("--depth", help="A place of each needle, 0 (start) to 1 (end); can be repeated."),
    ] = None,
    depths: Annotated[
        int | None, typer.Option("--depths", help="So many places, from start to end, instead of --depth; 5.")
    ] = None,
    shared: Annotated[
        bool, typer.Option("--shared", help="Hide all needles in one haystack: faster, and they distract.")
    ] = False,
    scoring: Annotated[str, typer.Option("--scoring", help="teacher-forced or decode, for needle.")] = "teacher-forced",
    sink: Annotated[int | None, typer.Option("--sink", help="First keys of a streaming head.")] = None,
    recent: Annotated[int | None, typer.Option("--recent", help="Latest keys of a streaming head.")] = None,
    steps: Annotated[int, typer.Option("--steps", help="Steps of duo-gates.")] = 2000,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Highest rate of duo-gates.")] = 0.02,
    penalty: Annotated[float, typer.Option("--lambda", help="Price of open gates, in both duo methods.")] = 0.05,
    probes: Annotated[int, typer.Option("--probes", help="Random directions of duo-surrogate.")] = 32,
    overlap: Annotated[
        int | None, typer.Option("--overlap", help="Highest heads whose overlap methods are compared by; a tenth.")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Heads shown.")] = 10,
    seed: SeedOption = 0,
    placement: Placement,
    outputs: Outputs,
    save: Annotated[Path | None, save_option("Directory; one result per method in it.")] = None,
    notices: Notices,
    line: Line,
) -> None:
    """Score every head by how much it fetches from far away, by several methods side by side.

    Example: interp retrieval --model mini --method needle --method razor
    """
    from circuits.retrieval import NEEDLES, agreement, rankings, retrieval_heads
    from interp.errors import InputError

    if needles is not None and haystack is None:
        raise InputError("Without a text there is nothing to hide needles in. Give --haystack FILE too.")
    if depth and depths is not None:
        raise InputError(f"--depths {depths} asks for evenly spaced places, --depth for chosen ones. Give one of them.")
    text = None if haystack is None else _read(haystack)
    hidden = NEEDLES if needles is None else _needles(needles)
    methods = method or ["needle", "razor", "distant-mass"]
    for name, options in OPTIONS_OF.items():
        if not any(chosen in name for chosen in methods):
            line.refuse(f"without --method {' or '.join(name)}", *options)
    with notices.shown():
        found = retrieval_heads(
            placement.load(model),
            methods,
            haystack=text,
            needles=hidden,
            lengths=length,
            depths=depth or (5 if depths is None else depths),
            shared=shared,
            n_needles=random_needles,
            sink=sink,
            recent=recent,
            scoring=scoring,  # pyright: ignore[reportArgumentType]
            steps=steps,
            learning_rate=learning_rate,
            penalty=penalty,
            probes=probes,
            seed=seed,
            progress=notices.progress,
        )
    ranked = {name: values for name, values in rankings(found).items() if not bool(values.isnan().all())}
    agreed = agreement(ranked, provenance=found[methods[0]].provenance, k=overlap) if len(ranked) > 1 else None
    if save is not None:
        for name, scores in found.items():
            scores.save(save / name)
        if agreed is not None:
            agreed.save(save / "agreement")
    outputs.write(
        page=lambda: _page(found, top, agreed),
        document=lambda: _document(found, agreed),
        frame=lambda: _frame(found),
    )


def _document(found: dict[str, HeadScores], agreed: Agreement | None) -> dict[str, Any]:
    from interp.cli.export import scores_document

    return {
        "methods": {name: scores_document(scores) for name, scores in found.items()},
        "agreement": [] if agreed is None else agreed.to_frame().to_dict("records"),
    }


def _needles(path: Path) -> list[Needle]:
    from circuits.retrieval import Needle
    from interp.errors import InputError

    lines = [line for line in _read(path).splitlines() if line.strip()]
    try:
        needles = [Needle(**json_format.loads(line)) for line in lines]
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is no list of needles ({error}). Give lines with text, question and answer."
        ) from error
    if not needles:
        raise InputError(f"{path} holds no needle. Give lines with text, question and answer.")
    return needles


def _read(path: Path) -> str:
    from interp.errors import InputError

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as UTF-8 text ({error}). Give a text file.") from error


def _frame(found: dict[str, HeadScores]) -> pd.DataFrame:
    """One row per head, highest by the first method first.

    A method's score has its name; its interval, columns and labels have the name in front, as in "needle soft".
    """
    import pandas as pd

    first, *_ = found.values()
    parts = [first.to_frame()[["layer", "head", "label"]]]
    for name, scores in found.items():
        own = scores.to_frame().drop(columns=["layer", "head", "label", "chance"])
        own = own.loc[:, own.notna().any() | (own.columns == "score")]
        parts.append(
            own.rename(columns={column: f"{name} {column}" for column in own}).rename(columns={f"{name} score": name})
        )
    frame = pd.concat(parts, axis=1)
    return frame.sort_values(next(iter(found)), ascending=False, kind="stable", na_position="last")


def _page(found: dict[str, HeadScores], top: int, agreed: Agreement | None) -> Page:
    from interp.report import Page, head_grids
    from interp.tables import number

    first, *_ = found.values()
    blocks: list[Any] = [_table(found, top)]
    if nothing := [name for name, scores in found.items() if len(scores.unmeasured) == len(scores.heads)]:
        blocks.append(f"not measured on these prompts, which may be too short for it: {', '.join(nothing)}")
    if "needle" in found:
        instances = found["needle"].notes["instances"]
        answered = sum(instance["answered"] for instance in instances)
        counted = found["needle"].notes["counted"]
        blocks.append(f"needles: {len(instances)} prompts, {answered} answered by the model, {counted} counted")
    if agreed is not None:
        blocks += [
            f"{pair['method']} and {pair['other']}: rank correlation {number(pair['spearman'], '+z.2f')} (chance 0 +- "
            f"{pair['spearman chance sd']:.2f}), overlap of the top {pair['k']} {pair['jaccard']:.2f} "
            f"(chance {pair['jaccard chance']:.2f})"
            for pair in agreed.to_frame().to_dict("records")
        ]
    blocks += head_grids(found.values())
    sentences = [sentence for scores in found.values() for sentence in scores.provenance.warnings]
    provenance = first.provenance.with_warnings(*sentences)
    return Page(title="Heads that fetch from far away", blocks=blocks, provenance=provenance)


def _table(found: dict[str, HeadScores], top: int) -> Table:
    """The highest heads by the first method, with the score of every method."""
    from interp.report import titled_table
    from interp.tables import number

    table = titled_table(f"Heads by {next(iter(found.values())).name}")
    table.add_column("head", no_wrap=True)
    chances = {name: scores.chance for name, scores in found.items()}
    if "needle" in found:
        chances["needle soft"] = found["needle"].notes["chance soft"]
    for name in chances:
        table.add_column(name, justify="right")
    for row in _frame(found).head(top).to_dict("records"):
        table.add_row(row["label"], *(number(row[name], ".3g") for name in chances))
    table.add_row(
        "chance", *(number(chance, ".3g") if isinstance(chance, float) else "" for chance in chances.values())
    )
    return table
