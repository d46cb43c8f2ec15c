"""What a page is made of: paragraphs, tables, grids of coloured cells, figures.

A terminal shows the paragraphs and tables of a page; grids and figures need a browser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import plotly.graph_objects as go
from rich import box
from rich.table import Table

LONGEST = 7
"""Characters of a number in a cell."""


class Cell(NamedTuple):
    """One cell of a grid.

    Attributes:
        lines: the text in it, one entry per line.
        tip: what is shown when the pointer or the keyboard is on it, one entry per line.
        background: CSS background; "" for none.
        light: whether the text is white instead of black.
        dashed: whether the border says that this is uncertain.
        name: text of a table cell on the same page that the cell leads to, such as "L0H3".
    """

    lines: Sequence[str]
    tip: Sequence[str]
    background: str = ""
    light: bool = False
    dashed: bool = False
    name: str = ""


class Key(NamedTuple):
    """What a colour means."""

    background: str
    code: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Coloured cells in rows and columns with names.

    Attributes:
        title: in one line.
        corner: what the rows and columns are, such as "layer / head".
        columns: names of the columns.
        rows: name and cells of each row; None where there is no such cell.
        notes: sentences below it.
        keys: the meaning of colours, where these are names.
        ramp: lowest number, highest number and the CSS colours between, where colours are numbers.
    """

    title: str
    corner: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell | None]]]
    notes: Sequence[str] = ()
    keys: Sequence[Key] = ()
    ramp: tuple[str, str, Sequence[str]] | None = None

    @property
    def room(self) -> str:
        """What the cells need room for: "words", "numbers" or, without any text, "nothing"."""
        longest = max((len(line) for _, cells in self.rows for cell in cells if cell for line in cell.lines), default=0)
        return "words" if longest > LONGEST else "numbers" if longest else "nothing"


Block: TypeAlias = str | Table | Grid | go.Figure


def titled_table(title: str) -> Table:
    """A table without columns yet."""
    return Table(
        title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False, padding=(0, 1, 0, 0)
    )
