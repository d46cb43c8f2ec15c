"""The console that tables are printed on."""

from __future__ import annotations

import sys

from rich.console import Console

PIPE_WIDTH = 100


def console() -> Console:
    """Standard output: as wide as the terminal, 100 columns where there is none; colours unless NO_COLOR is set."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)
