"""`interp scan`: every analyzer in one pass over a file, a dataset or a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.options import (
    Line,
    ModelOption,
    Notices,
    Placement,
    SeedOption,
    names_in,
    save_option,
    with_option_groups,
)
from interp.cli.outputs import Outputs
from interp.cli.parameters import SetOption, with_parameters
from interp.cli.sources import Documents, ImageOption, LengthOption, TaskOption

if TYPE_CHECKING:
    from rich.table import Table

    from interp.model.tokens import TokenBatch
    from interp.report import Page
    from interp.results import HeadScores, TokenEntry, TokenMap

STANDARD = "first-token,previous-token,duplicate-token,induction,entropy"
STANDARD_VISION = "patch-distance,first-token,entropy"


@with_option_groups
def scan(
    *,
    model: ModelOption = "mini",
    documents: Documents,
    task: TaskOption = None,
    image: ImageOption = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="Text around each --image, for attention to picture and text.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            help="Attention to read: self, encoder, cross, or vision (patches).  [default: the model's main one; "
            "vision for --image without --prompt]",
        ),
    ] = None,
    analyzers: Annotated[
        str | None,
        typer.Option(
            "--analyzers",
            help=f"Names with commas between; a wrong name lists all.  [default: {STANDARD}; of vision "
            f"{STANDARD_VISION}]",
        ),
    ] = None,
    parameters: SetOption = None,
    n: Annotated[
        int, typer.Option("--n", help="Sequences or pictures; 1 for analyzers that describe a single text.")
    ] = 100,
    length: LengthOption = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Sequences at a time; changes no score.")] = 8,
    top: Annotated[int, typer.Option("--top", min=1, help="Rows shown of each analyzer.")] = 5,
    seed: SeedOption = 0,
    placement: Placement,
    outputs: Outputs,
    save: Annotated[
        Path | None, save_option("Directory for the results; an interrupted scan goes on from what it holds.")
    ] = None,
    notices: Notices,
    line: Line,
) -> None:
    """Score every head with several analyzers in one pass over text, prompts or pictures.

    With --image alone, the attention of a vision tower over the patches of each picture; with --prompt, or --kind self,
    that of the language model over the text and the tokens that stand for the picture.

    Scores that a model has by itself, such as copying-weights and k-composition, can be named too and need no text.

    Example: interp scan --model mini --task ioi --analyzers induction,entropy --csv heads.csv
    """
    from interp.cli.export import results_document, tidy_frame
    from interp.errors import InputError
    from interp.model_scores import score_model
    from interp.pictures import picture_prompts
    from interp.scanning import scan as run

    if prompt is not None and not image:
        raise InputError("--prompt is the text around a picture. Give --image FILE too, or a text by --text FILE.")
    kind = kind or ("vision" if image and prompt is None else None)
    names = analyzers or (STANDARD_VISION if kind == "vision" else STANDARD)
    of_data, of_model = _by_what_they_read(names_in(names))
    if not of_data:
        sources = ("text", "dataset", "task", "image", "kind")
        line.refuse("for scores from the weights alone", *sources, "parameters", "n", "length", "batch_size")
    else:
        documents.check("A scan", line, task=task, image=image or None)
    with notices.shown():
        loaded = placement.load(model)
        results: dict[str, HeadScores | TokenMap] = {}
        read: list[str] = []
        if of_data:
            images = None
            if image:
                data, images = picture_prompts(loaded, image[:n], prompt)
            else:
                data = documents.read(loaded, n=n, length=length, task=task, seed=seed)
            chosen = with_parameters(of_data, parameters or (), loaded)
            results |= run(
                loaded, data, chosen, kind=kind, batch_size=1 if images else batch_size, seed=seed if task else None,
                progress=notices.progress, checkpoint=save, images=images,
            )  # fmt: skip
            read = [_what_was_read(data, images, kind)]
        if of_model:
            results |= score_model(loaded, of_model, seed=seed)
    if save is not None:
        for name, result in results.items():
            result.save(save / name)
    outputs.write(
        page=lambda: _page(results, read, top),
        document=lambda: results_document(results),
        frame=lambda: tidy_frame(results),
    )


def _what_was_read(data: TokenBatch | None, images: Sequence[Mapping[str, Any]] | None, kind: str | None) -> str:
    """The size of the data, in words."""
    n = len(images or data or ())
    pictures = "" if images is None else f"{n} picture{'s' * (n != 1)}"
    if kind == "vision":
        return f"read: {pictures}; positions count patches row by row, behind the tokens in front of them"
    assert data is not None
    sequences = f"{n} sequence{'s' * (n != 1)} of at most {data.tokens.shape[1]} tokens"
    return f"read: {pictures} in {sequences}" if pictures else f"read: {sequences}"


def _by_what_they_read(names: list[str]) -> tuple[list[str], list[str]]:
    """Names of analyzers, which read data, and of scores that a model has by itself."""
    from interp.analyzers import known_names
    from interp.errors import InputError
    from interp.model_scores import MODEL_SCORES

    known = [*known_names(), *MODEL_SCORES]
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"There is no analyzer {unknown[0]!r}. Choose from {', '.join(known)}.")
    return [name for name in names if name not in MODEL_SCORES], [name for name in names if name in MODEL_SCORES]


def _page(results: Mapping[str, HeadScores | TokenMap], read: list[str], top: int) -> Page:
    from interp.report import Page, head_grids, token_grid
    from interp.results import HeadScores, TokenMap

    provenance = next(iter(results.values())).provenance
    sentences = [sentence for result in results.values() for sentence in result.provenance.warnings]
    blocks: list[Any] = [_table(results, top), *read]
    blocks += head_grids(result for result in results.values() if isinstance(result, HeadScores))
    blocks += [token_grid(result) for result in results.values() if isinstance(result, TokenMap)]
    return Page(title=f"Scan of {provenance.model}", blocks=blocks, provenance=provenance.with_warnings(*sentences))


def _table(results: Mapping[str, HeadScores | TokenMap], top: int) -> Table:
    from interp.report import titled_table

    table = titled_table(f"Highest of each analyzer, {next(iter(results.values())).provenance.model}")
    for name in ("analyzer", "head"):
        table.add_column(name, no_wrap=True)
    for name in ("score", "95 % interval", "chance"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("unit")
    for name, result in results.items():
        for index, cells in enumerate(_rows(result, top) or [["nothing measured", "", "", ""]]):
            table.add_row("" if index else name, *cells, "" if index else result.unit)
        table.add_section()
    return table


def _rows(result: HeadScores | TokenMap, top: int) -> list[list[str]]:
    """Place, score, interval and chance of the highest entries."""
    from interp.results import HeadScores
    from interp.tables import number, number_format

    rows: list[tuple[str, float, float, float, float]] = []
    if isinstance(result, HeadScores):
        frame = result.to_frame().set_index("label")
        names = ["score", "ci_low", "ci_high", "chance"]
        rows += [
            (head.label, *frame.loc[head.label, names].tolist()) for head in result.top(top, absolute=result.signed)
        ]
    else:
        nan = float("nan")
        chance = nan if result.chance is None else result.chance
        rows += [(_place(entry), entry.value, nan, nan, chance) for entry in result.top(top, absolute=result.signed)]
    shown = number_format((value for row in rows for value in row[1:]), 4)
    return [
        [place, number(score, shown), "" if low != low else f"{low:{shown}} to {high:{shown}}", number(chance, shown)]
        for place, score, low, high, chance in rows
    ]


def _place(entry: TokenEntry) -> str:
    """A head or layer, and the tokens."""
    from interp.tables import visible

    head = "" if entry.layer is None else f"L{entry.layer}" + ("" if entry.head is None else f"H{entry.head}")
    tokens = (("query", entry.query, entry.query_token), ("key", entry.key, entry.key_token))
    places = [f"{name} {place} '{visible(token or '')}'" for name, place, token in tokens if place is not None]
    return " ".join([head, *places])
