"""`Page`: a title, blocks, and where the numbers came from; as one HTML file that needs nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import plotly.graph_objects as go
from markupsafe import Markup, escape
from rich.table import Table

from interp.frozen import thaw_json
from interp.provenance import Provenance
from interp.report.blocks import Block, Grid
from interp.tables import ENVIRONMENT

HERE = Path(__file__).parent
ARXIV = re.compile(r"(?:arXiv )?(?<![\d.])(\d{4}\.\d{5})(?!\d)")
HEAD = "head"
"""The column whose cells other blocks can lead to."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """An answer that a terminal and a browser can show.

    Attributes:
        title: in one line.
        blocks: from top to bottom.
        provenance: its warnings and itself stand at the foot.
    """

    title: str
    blocks: Sequence[Block]
    provenance: Provenance

    def html(self) -> str:
        """The page with its styles and its script; no network, and no text of others as markup."""
        tables = [_Plain.of(block) for block in self.blocks if isinstance(block, Table)]
        found = {name for table in tables for name in table.names}
        template = ENVIRONMENT.from_string((HERE / "page.html.jinja").read_text(encoding="utf-8"))
        rendered = template.render(
            title=self.title,
            blocks=list(self._parts(iter(tables))),
            ids=found,
            warnings=self.provenance.warnings,
            provenance=_rows(self.provenance),
            style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
            script=Markup((HERE / "page.js").read_text(encoding="utf-8")),
            linked=linked,
        )
        return rendered + "\n"

    def _parts(self, tables: Iterator[_Plain]) -> Iterator[tuple[str, Any]]:
        """Every block with its kind, as the template takes it."""
        has_script = False
        for block in self.blocks:
            if isinstance(block, Table):
                yield "table", next(tables)
            elif isinstance(block, Grid):
                yield "grid", block
            elif isinstance(block, go.Figure):
                # Plotly escapes the figure's JSON; its script is four megabytes, so a page holds it once.
                drawn = block.to_html(full_html=False, include_plotlyjs=not has_script, config={"displaylogo": False})
                has_script = True
                yield "figure", Markup(drawn)
            else:
                yield "text", block


class _Plain(NamedTuple):
    """A table of a terminal as a page shows it: groups of rows of (text, name or "")."""

    title: str
    columns: list[tuple[str, str]]
    groups: list[list[list[tuple[str, str]]]]
    names: set[str]

    @classmethod
    def of(cls, table: Table) -> _Plain:
        columns = [(str(column.header), column.justify) for column in table.columns]
        named = [index for index, (header, _) in enumerate(columns) if header == HEAD]
        names: set[str] = set()
        groups: list[list[list[tuple[str, str]]]] = [[]]
        for row, cells in zip(table.rows, zip(*(column.cells for column in table.columns), strict=True), strict=True):
            texts = [str(cell) for cell in cells]
            fresh = {i for i in named if texts[i] and texts[i] not in names and " " not in texts[i]}
            names |= {texts[index] for index in fresh}
            groups[-1].append([(text, text if index in fresh else "") for index, text in enumerate(texts)])
            if row.end_section:
                groups.append([])
        return cls(str(table.title or ""), columns, [group for group in groups if group], names)


def linked(text: str) -> Markup:
    """Text with every arXiv number as a link.

    Example:
        >>> print(linked("<b> Clark et al. 2019, arXiv 1906.04341"))
        &lt;b&gt; Clark et al. 2019, <a href="https://arxiv.org/abs/1906.04341">arXiv 1906.04341</a>
    """
    return Markup(ARXIV.sub(r'<a href="https://arxiv.org/abs/\1">\g<0></a>', str(escape(text))))


def _rows(provenance: Provenance) -> list[tuple[str, str]]:
    """What is known of where the numbers came from, name and value."""
    known = {name: value for name, value in provenance.to_dict().items() if name != "warnings"}
    return [(name.replace("_", " "), _words(value)) for name, value in known.items() if value not in (None, "", {})]


def _words(value: object) -> str:
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(thaw_json(value), ensure_ascii=False)
    return str(value)
