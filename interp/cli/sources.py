"""Where a command's data comes from: a file, a dataset of the hub, or the prompts of a task."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from interp.cli.options import Line
    from interp.model.model import Model
    from interp.model.tokens import TokenBatch

TaskOption = Annotated[str | None, typer.Option("--task", help="Prompts of a task, such as ioi.")]
ImageOption = Annotated[list[Path] | None, typer.Option("--image", help="Picture; can be repeated.")]
LengthOption = Annotated[int | None, typer.Option("--length", help="Tokens per sequence; 512, or the context.")]
ColumnOption = Annotated[str | None, typer.Option("--column", help="Column with the text; text.")]


@dataclass(frozen=True, kw_only=True)
class Documents:
    """The options that name documents, and say how they become sequences of tokens."""

    text: Annotated[Path | None, typer.Option("--text", help="Text, JSONL, JSON, CSV, TSV or Parquet file.")] = None
    dataset: Annotated[str | None, typer.Option("--dataset", help="Dataset of the hub, streamed; or a directory.")] = (
        None
    )
    apart: Annotated[bool, typer.Option("--apart", help="One document per sequence instead of packing them.")] = False
    column: ColumnOption = None
    sample_by: Annotated[
        str, typer.Option("--sample-by", help="One document of a text file: document (all of it), paragraph or line.")
    ] = "document"
    config: Annotated[str | None, typer.Option("--config", help="Configuration of the dataset.")] = None
    split: Annotated[str, typer.Option("--split", help="Split of the dataset.")] = "train"
    bos: Annotated[bool | None, typer.Option("--bos/--no-bos", help="BOS in front; the tokenizer's habit.")] = None

    def check(self, reader: str, line: Line, **others: object) -> None:
        """Refuse none and several, and options of another one; `others` are the values of further options by name."""
        from interp.errors import InputError

        sources = {"text": self.text, "dataset": self.dataset, **others}
        if sum(source is not None for source in sources.values()) != 1:
            *first, last = (f"--{name} {'FILE' if name in ('text', 'image') else 'NAME'}" for name in sources)
            raise InputError(f"{reader} reads one source. Give one of {', '.join(first)} and {last}.")
        (given,) = (name for name, source in sources.items() if source is not None)
        if given != "text":
            line.refuse(f"beside --{given}", "sample_by")
        if given != "dataset":
            line.refuse(f"beside --{given}", "config", "split")
        if given not in ("text", "dataset"):
            line.refuse(f"beside --{given}", "apart", "column", "length")
        if given == "image":
            line.refuse("beside --image", "bos", "batch_size")

    def read(self, model: Model, *, n: int, length: int | None, task: str | None = None, seed: int = 0) -> TokenBatch:
        """At most `n` sequences from the one source that is given: documents, or the prompts of a task."""
        from interp.data import sequences, texts_of_dataset

        if task is not None:
            return _prompts(model, task, n, seed, self.bos)
        if self.text is not None:
            texts = file_texts(self.text, column=self.column, sample_by=self.sample_by)
        else:
            assert self.dataset is not None
            _silence_datasets()
            texts = texts_of_dataset(self.dataset, config=self.config, split=self.split, column=self.column)
        return sequences(model, texts, n=n, length=length, packed=not self.apart, prepend_bos=self.bos)


def file_texts(path: Path, *, column: str | None = None, sample_by: Any = "document") -> Iterator[str]:
    """The documents of a local file; what goes wrong is said once, by our own error."""
    from interp.data import texts_of_file

    _silence_datasets()
    return texts_of_file(path, column=column, sample_by=sample_by)


def _prompts(model: Model, task: str, n: int, seed: int, bos: bool | None) -> TokenBatch:
    from circuits.tasks import get_task
    from interp.model.tokens import TokenBatch

    prompts = get_task(task).prompts(model.tokenizer, n=n, seed=seed, prepend_bos=bos)
    return TokenBatch(prompts.clean, prompts.attention_mask, prompts.prepend_bos)


def _silence_datasets() -> None:
    import logging

    import datasets
    import huggingface_hub.utils.logging as hub_logging

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)
    hub_logging.set_verbosity_error()
