"""Options that several commands share, and what follows from them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from interp.model.model import Model

ModelOption = Annotated[str, typer.Option("--model", help="Embedded name, hub id or directory.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of every random choice.")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="Such as cpu or cuda:0; CUDA where there is one.")]
DtypeOption = Annotated[str | None, typer.Option("--dtype", help="Such as float32 or bfloat16; the checkpoint's own.")]
JsonOption = Annotated[
    str | None, typer.Option("--json", metavar="FILE|-", help="Write JSON; - prints it and nothing else.")
]
CsvOption = Annotated[
    str | None, typer.Option("--csv", metavar="FILE|-", help="Write CSV; - prints it and nothing else.")
]
HtmlOption = Annotated[str | None, typer.Option("--html", metavar="FILE|-", help="Write a page that needs no network.")]
ParquetOption = Annotated[Path | None, typer.Option("--parquet", help="Write the tidy frame.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress bars and no warnings.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Tracebacks of errors, and every library's warnings.")]


def load_model(name: str, device: str | None, dtype: str | None) -> Model:
    """Load a model without transformers' own progress bars and notices."""
    from transformers.utils import logging

    from interp.model.load import load

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return load(name, device=device, dtype=dtype)


@contextmanager
def reported_warnings(*, quiet: bool, debug: bool) -> Generator[None]:
    """Warnings of this package as one line each on standard error; other libraries' only when debugging."""
    from interp.errors import AnalysisWarning

    def show(message: Warning | str, *_: object, **__: object) -> None:
        if not quiet:
            sys.stderr.write(f"interp: warning: {message}\n")

    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
        warnings.simplefilter("always", AnalysisWarning)
        warnings.showwarning = show
        yield


def write_text(text: str, target: str) -> None:
    """Write to a file, or to standard output for `-`.

    Raises:
        InputError: the file cannot be written.
    """
    if target == "-":
        sys.stdout.write(text)
    else:
        write_bytes(text.encode("utf-8"), target)


def write_bytes(content: bytes, target: str | Path) -> None:
    """Write to a file.

    Raises:
        InputError: the file cannot be written.
    """
    from interp.errors import InputError

    try:
        Path(target).write_bytes(content)
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror}). Choose another path.") from error


def check_directory(target: str | Path | None) -> None:
    """Refuse a file in a directory that there is not, before hours of work.

    Raises:
        InputError: there is no such directory.
    """
    from interp.errors import InputError

    if target not in (None, "-") and not Path(target).absolute().parent.is_dir():
        raise InputError(f"{target} cannot be written (there is no such directory). Choose another path.")
