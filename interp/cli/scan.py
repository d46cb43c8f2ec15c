"""`interp scan`: every analyzer in one pass over a file, a dataset or a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.options import (
    CsvOption,
    DebugOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    QuietOption,
    SeedOption,
    check_targets,
    load_model,
    reported_warnings,
    write_bytes,
    write_text,
)

if TYPE_CHECKING:
    from interp.model.model import Model
    from interp.model.tokens import TokenBatch
    from interp.results import HeadScores, TokenMap

STANDARD = "first-token,previous-token,duplicate-token,induction,entropy"


def scan(
    model: ModelOption = "mini",
    text: Annotated[Path | None, typer.Option("--text", help="Text, JSONL, JSON, CSV or Parquet file.")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Dataset of the Hugging Face hub, streamed.")] = None,
    task: Annotated[str | None, typer.Option("--task", help="Prompts of a task, such as ioi.")] = None,
    analyzers: Annotated[
        str, typer.Option("--analyzers", help="Names with commas between; a wrong name lists all.")
    ] = STANDARD,
    n: Annotated[int, typer.Option("--n", help="Sequences; 1 for analyzers that describe a single text.")] = 100,
    length: Annotated[int | None, typer.Option("--length", help="Tokens per sequence; 512, or the context.")] = None,
    apart: Annotated[bool, typer.Option("--apart", help="One document per sequence instead of packing them.")] = False,
    column: Annotated[str | None, typer.Option("--column", help="Column with the text; text.")] = None,
    sample_by: Annotated[
        str, typer.Option("--sample-by", help="One document of a text file: document (all of it), paragraph or line.")
    ] = "document",
    config: Annotated[str | None, typer.Option("--config", help="Configuration of the dataset.")] = None,
    split: Annotated[str, typer.Option("--split", help="Split of the dataset.")] = "train",
    bos: Annotated[bool | None, typer.Option("--bos/--no-bos", help="BOS in front; the tokenizer's habit.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Sequences at a time; changes no score.")] = 8,
    top: Annotated[int, typer.Option("--top", min=1, help="Rows shown of each analyzer.")] = 5,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    json: JsonOption = None,
    csv: CsvOption = None,
    parquet: Annotated[Path | None, typer.Option("--parquet", help="Write the tidy frame.")] = None,
    save: Annotated[
        Path | None,
        typer.Option("--save", help="Directory for the results; an interrupted scan goes on from what it holds."),
    ] = None,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Score every head with several analyzers in one pass over text or prompts.

    Example: interp scan --model mini --task ioi --analyzers induction,entropy --csv heads.csv
    """
    from interp.cli.export import results_document, tidy_frame, to_json
    from interp.data import sequences
    from interp.errors import InputError
    from interp.scanning import scan as run

    check_targets(json, csv)
    if sum(source is not None for source in (text, dataset, task)) != 1:
        raise InputError("A scan reads one source. Give one of --text FILE, --dataset NAME and --task NAME.")
    with reported_warnings(quiet=quiet, debug=debug):
        loaded = load_model(model, device, dtype)
        if task is not None:
            data = _prompts(loaded, task, n, seed, bos)
        else:
            texts = _texts(text, dataset, column=column, sample_by=sample_by, config=config, split=split)
            data = sequences(loaded, texts, n=n, length=length, packed=not apart, prepend_bos=bos)
        results = run(
            loaded, data, [name.strip() for name in analyzers.split(",")],
            batch_size=batch_size, seed=seed if task else None, progress=False if quiet else None, checkpoint=save,
        )  # fmt: skip
    if save is not None:
        for name, result in results.items():
            result.save(save / name)
    if json is not None:
        write_text(to_json(results_document(results)), json)
    if csv is not None:
        write_text(tidy_frame(results).to_csv(index=False), csv)
    if parquet is not None:
        write_bytes(tidy_frame(results).to_parquet(index=False), parquet)
    if "-" not in (json, csv):
        _print(results, top)


def _prompts(model: Model, task: str, n: int, seed: int, bos: bool | None) -> TokenBatch:
    from circuits.tasks import get_task
    from interp.model.tokens import TokenBatch

    prompts = get_task(task).prompts(model.tokenizer, n=n, seed=seed, prepend_bos=bos)
    return TokenBatch(prompts.clean, prompts.attention_mask, prompts.prepend_bos)


def _texts(
    file: Path | None, dataset: str | None, *, column: str | None, sample_by: Any, config: str | None, split: str
) -> Iterator[str]:
    import logging

    import datasets

    from interp.data import texts_of_dataset, texts_of_file

    datasets.logging.set_verbosity(logging.CRITICAL)  # what goes wrong is said once, by our own error
    if file is not None:
        return texts_of_file(file, column=column, sample_by=sample_by)
    assert dataset is not None
    return texts_of_dataset(dataset, config=config, split=split, column=column)


def _print(results: Mapping[str, HeadScores | TokenMap], top: int) -> None:
    from rich import box
    from rich.table import Table

    from interp.cli.console import console

    provenance = next(iter(results.values())).provenance
    table = Table(
        title=f"Highest of each analyzer, {provenance.model}", box=box.SIMPLE_HEAD, title_justify="left",
        title_style="bold", pad_edge=False, padding=(0, 1, 0, 0),
    )  # fmt: skip
    for name in ("analyzer", "head"):
        table.add_column(name, no_wrap=True)
    for name in ("score", "95 % interval", "chance"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("unit")
    for name, result in results.items():
        for index, cells in enumerate(_rows(result, top)):
            table.add_row("" if index else name, *cells, "" if index else result.unit)
        table.add_section()
    out = console()
    out.print(table)
    warnings = dict.fromkeys(sentence for result in results.values() for sentence in result.provenance.warnings)
    for line in (*(f"warning: {sentence}" for sentence in warnings), replace(provenance, warnings=()).summary):
        out.print(line)


def _rows(result: HeadScores | TokenMap, top: int) -> list[list[str]]:
    from interp.results import HeadScores
    from interp.tables import number, visible

    if isinstance(result, HeadScores):
        frame = result.to_frame().set_index("label")
        found = [frame.loc[head.label] for head in result.top(top, absolute=result.signed)]
        return [
            [str(row.name), number(row["score"]), _interval(row["ci_low"], row["ci_high"]), number(row["chance"])]
            for row in found
        ]
    rows: list[list[str]] = []
    for entry in result.top(top, absolute=result.signed):
        head = "" if entry.layer is None else f"L{entry.layer}" + ("" if entry.head is None else f"H{entry.head}")
        places = [
            f"{name} {place} '{visible(token or '')}'"
            for name, place, token in (
                ("query", entry.query, entry.query_token), ("key", entry.key, entry.key_token)
            )
            if place is not None
        ]  # fmt: skip
        rows.append([" ".join([head, *places]), number(entry.value), "", number(result.chance)])
    return rows


def _interval(low: float, high: float) -> str:
    return "" if low != low else f"{low:.3f} to {high:.3f}"
