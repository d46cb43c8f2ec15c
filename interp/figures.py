"""Plotly figures of results: maps and bars that leave plotly's global settings alone."""

from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import plotly.graph_objects as go
from jaxtyping import Real
from torch import Tensor

from interp.tables import visible

# Both scales can be told apart with every common colour blindness, and in grey.
DIVERGING, SEQUENTIAL = "RdBu_r", "Cividis"

# Okabe and Ito's colours for names, which every common kind of colour vision tells apart.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, YELLOW = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442"
)  # fmt: skip
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)

# With more labels than this they would overlap, so the axis shows positions instead.
MAX_TICK_LABELS = 60


class Axis(NamedTuple):
    """A figure's axis: its title and, where the positions have names, these names."""

    title: str
    names: Sequence[str] | None = None


def heatmap(
    values: Real[Tensor, "y x"],
    *,
    x: Axis,
    y: Axis,
    title: str,
    unit: str,
    signed: bool,
    labels: Sequence[Sequence[str]],
) -> go.Figure:
    """A map with the first row on top.

    Arguments:
        values: NaN cells stay empty.
        x, y: the axes.
        unit: title of the colour bar.
        signed: diverging colours centred at 0, else sequential colours.
        labels: name of each cell in one line, shown when the pointer is on it.
    """
    limit = _largest_magnitude(values)
    colours = {"colorscale": DIVERGING, "zmin": -limit, "zmax": limit} if signed else {"colorscale": SEQUENTIAL}
    trace = go.Heatmap(
        z=values.tolist(),
        customdata=[[escape(label) for label in row] for row in labels],
        hovertemplate="%{customdata}<br>%{z:.4g} " + escape(unit) + "<extra></extra>",
        colorbar={"title": {"text": escape(unit)}},
        **colours,
    )
    return _figure([trace], title=title).update_xaxes(_ticks(x)).update_yaxes(_ticks(y) | {"autorange": "reversed"})


def bars(values: Real[Tensor, " x"], *, x: Axis, title: str, unit: str, labels: Sequence[str]) -> go.Figure:
    """One bar per position."""
    trace = go.Bar(
        x=list(range(len(values))),
        y=values.tolist(),
        customdata=[escape(label) for label in labels],
        hovertemplate="%{customdata}<br>%{y:.4g} " + escape(unit) + "<extra></extra>",
    )
    return _figure([trace], title=title).update_xaxes(_ticks(x)).update_yaxes(title_text=escape(unit))


def _figure(traces: Sequence[go.Heatmap | go.Bar], *, title: str) -> go.Figure:
    return go.Figure(data=traces, layout={"title": {"text": escape(title)}})


def _ticks(axis: Axis) -> dict[str, Any]:
    title: dict[str, Any] = {"title": {"text": axis.title}}
    if axis.names is None or len(axis.names) > MAX_TICK_LABELS:
        return title
    # Plotly reads tick text as HTML.
    names = [escape(visible(name)) for name in axis.names]
    return title | {"tickmode": "array", "tickvals": list(range(len(names))), "ticktext": names}


def _largest_magnitude(values: Real[Tensor, "y x"]) -> float:
    finite = values[values.isfinite()]
    return (float(finite.abs().max()) if len(finite) else 0.0) or 1.0
