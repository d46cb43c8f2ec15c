"""Pages that answer one question, each in one self-contained file."""

from interp.report.blocks import Cell, Grid, Key, titled_table
from interp.report.catalogue import catalogue_page
from interp.report.grids import distance_grid, head_grid, head_grids, pair_grids, token_grid
from interp.report.page import Page

__all__ = [
    "Cell",
    "Grid",
    "Key",
    "Page",
    "catalogue_page",
    "distance_grid",
    "head_grid",
    "head_grids",
    "pair_grids",
    "titled_table",
    "token_grid",
]
