"""Where the answer of a command goes: files, standard output, or the terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.options import check_file, write_bytes, write_text

if TYPE_CHECKING:
    import pandas as pd

    from interp.report import Page


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The options --json, --csv, --parquet and --html; ``-`` stands for standard output.

    Raises:
        InputError: several are to go to standard output or to one file, or a file cannot be written.
    """

    json: Annotated[
        str | None, typer.Option("--json", metavar="FILE|-", help="Write JSON; - prints it and nothing else.")
    ] = None
    csv: Annotated[
        str | None, typer.Option("--csv", metavar="FILE|-", help="Write CSV; - prints it and nothing else.")
    ] = None
    parquet: Annotated[Path | None, typer.Option("--parquet", help="Write the tidy frame.")] = None
    html: Annotated[
        str | None, typer.Option("--html", metavar="FILE|-", help="Write a page that needs no network.")
    ] = None

    def __post_init__(self) -> None:
        from interp.errors import InputError

        wanted = [f"--{name} -" for name in ("json", "csv", "html") if getattr(self, name) == "-"]
        if len(wanted) > 1:
            raise InputError(f"{' and '.join(wanted)} both want standard output. Write one of them to a file.")
        self.check_files()

    def check_files(self, *others: Path | None) -> None:
        """Refuse what cannot be written; `others` are files that a command writes itself.

        Raises:
            InputError: no file can be written there, or it is to hold two results.
        """
        from interp.errors import InputError

        given = [target for target in (self.json, self.csv, self.html, self.parquet) if target not in (None, "-")]
        files = [Path(target) for target in (*given, *others) if target is not None]
        for index, path in enumerate(files):
            if str(path) == "-":
                raise InputError("- is standard output, where --json, --csv or --html can go. Name a file instead.")
            check_file(path)
            if path.absolute() in [other.absolute() for other in files[:index]]:
                raise InputError(f"{path} is to hold two results, and one would replace the other. Name two files.")

    def write(
        self,
        *,
        page: Callable[[], Page],
        document: Callable[[], Any],
        frame: Callable[[], pd.DataFrame] | None = None,
        terminal: Callable[[], Page] | None = None,
    ) -> None:
        """Write what was asked for, and print the page where standard output is free.

        Arguments:
            page: what a browser shows, and what a terminal shows of it.
            document: the JSON.
            frame: the CSV and Parquet.
            terminal: another page for the terminal, where it should show less.
        """
        from interp.cli.console import print_page
        from interp.cli.export import to_json

        if self.html is not None:
            write_text(page().html(), self.html)
        if self.json is not None:
            write_text(to_json(document()), self.json)
        if self.csv is not None and frame is not None:
            write_text(frame().to_csv(index=False), self.csv)
        if self.parquet is not None and frame is not None:
            write_bytes(frame().to_parquet(index=False), self.parquet)
        if "-" not in (self.json, self.csv, self.html):
            print_page((terminal or page)())
