"""The console that tables are printed on, and what all tables look like."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import dropwhile, takewhile
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table

from interp.report.blocks import titled_table

if TYPE_CHECKING:
    from interp.report import Page

PIPE_WIDTH = 100
LEAST_WRAPPED = 12
"""Characters that a column which may wrap keeps."""


def console() -> Console:
    """Standard output, as wide as the terminal or COLUMNS, else 100 columns; colours unless NO_COLOR is set."""
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal() else PIPE_WIDTH
    return Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)


def print_page(page: Page) -> None:
    """Print the paragraphs and tables of a page, then the warnings and where the numbers came from."""
    out = console()
    after_words = False
    for block in page.blocks:
        if isinstance(block, Table):
            out.print("\n" * after_words, end="")
            print_table(out, block)
            after_words = False
        elif isinstance(block, str):
            out.print(block)
            after_words = True
    for sentence in page.provenance.warnings:
        out.print(f"warning: {sentence}")
    out.print(replace(page.provenance, warnings=()).summary)


def print_table(out: Console, table: Table) -> None:
    """Print a table under its title; one that is too wide in parts that repeat its first columns."""
    if table.title:
        out.print(str(table.title), style="bold")
    for part in _parts(table, out.width):
        out.print(part)


def _parts(table: Table, width: int) -> Iterator[Table]:
    """The table without its title, cut between columns where the width needs it."""
    n_keys = _n_keys(table, width)
    room = width - 1 - sum(map(_width, table.columns[:n_keys]))
    chosen: list[list[int]] = [[]]
    left = room
    for index, column in enumerate(table.columns[n_keys:], start=n_keys):
        left -= _width(column)
        if left < 0 and chosen[-1]:
            chosen.append([])
            left = room - _width(column)
        chosen[-1].append(index)
    for indices in chosen:
        yield _with_columns(table, [*range(n_keys), *indices])


def _n_keys(table: Table, width: int) -> int:
    """Columns that say whose row it is: a rank, then the words in front, as far as every other column fits beside them.

    At least one of the words is repeated.
    """
    names = list(dropwhile(lambda column: not str(column.header), table.columns))
    words = list(takewhile(lambda column: column.justify == "left", names))
    least = len(table.columns) - len(names) + min(1, len(words))
    widths = list(map(_width, table.columns))
    for n_keys in range(least + max(0, len(words) - 1), least, -1):
        if sum(widths[:n_keys]) + max(widths[n_keys:], default=0) < width:
            return n_keys
    return max(1, least)


def _width(column: Column) -> int:
    """Characters that a column needs, with the two that separate it from the next."""
    texts = [str(column.header), *map(str, column.cells)]
    whole = max(map(cell_len, texts))
    words = max((cell_len(word) for text in texts for word in text.split()), default=0)
    return 2 + (whole if column.no_wrap else max(words, min(whole, LEAST_WRAPPED)))


def _with_columns(table: Table, indices: Sequence[int]) -> Table:
    part = titled_table("")
    cells = [list(map(str, table.columns[index].cells)) for index in indices]
    for index in indices:
        column = table.columns[index]
        part.add_column(str(column.header), justify=column.justify, no_wrap=column.no_wrap)
    for number, row in enumerate(table.rows):
        part.add_row(*(column[number] for column in cells), end_section=row.end_section)
    return part
