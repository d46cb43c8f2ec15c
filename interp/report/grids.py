"""Grids of results: one cell per head, per pair of heads, or per token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import product
from typing import Any, TypeVar

import plotly.colors
from jaxtyping import Float
from torch import Tensor

from interp.figures import DIVERGING, SEQUENTIAL
from interp.head_distances import HeadDistances
from interp.head_pairs import HeadPairs
from interp.head_scores import HeadScores
from interp.heads import HeadRef
from interp.report.blocks import Cell, Grid
from interp.tables import number, number_format, visible
from interp.token_map import TokenMap

MOST_CELLS = 10_000
"""Cells of all grids of a page together, and of one of them: more make a page that no browser likes."""
MOST_TOKENS = 128
PALETTE, RAMP_STEP = 257, 32
Result = TypeVar("Result", HeadScores, HeadPairs)


class _Colours:
    """Numbers as colours and short texts, as `interp.figures.heatmap` colours them."""

    def __init__(self, values: Float[Tensor, "*any"], *, signed: bool) -> None:
        found = values[values.isfinite()].double()
        self.scale = DIVERGING if signed else SEQUENTIAL
        largest = float(found.abs().max()) if len(found) else 0.0
        low, high = (-largest, largest) if signed or not len(found) else (float(found.min()), float(found.max()))
        self.low, self.high = low, high
        self.format = "+" * signed + number_format([largest], 3)

    def text(self, value: float) -> str:
        return number(value, self.format)

    def colour(self, value: float) -> tuple[str, bool]:
        """CSS colour, and whether white text is easier to read on it."""
        if value != value:
            return "", False
        place = 0.5 if self.high == self.low else (value - self.low) / (self.high - self.low)
        colour = palette(self.scale)[round(min(1.0, max(0.0, place)) * (PALETTE - 1))]
        return colour, luminance(colour) < 0.18  # there black and white have the same contrast

    @property
    def ramp(self) -> tuple[str, str, Sequence[str]]:
        return number(self.low), number(self.high), palette(self.scale)[::RAMP_STEP]


@cache
def palette(scale: str) -> list[str]:
    """CSS colours from one end of a plotly scale to the other."""
    places = [index / (PALETTE - 1) for index in range(PALETTE)]
    return list(map(str, plotly.colors.sample_colorscale(scale, places)))


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)`` in [0, 1], as the Web Content Accessibility Guidelines define it.

    Example:
        >>> luminance("rgb(255, 255, 255)"), luminance("rgb(0, 0, 0)")
        (1.0, 0.0)
    """
    parts = [float(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return round(0.2126 * red + 0.7152 * green + 0.0722 * blue, 6)


def head_grid(scores: HeadScores) -> Grid:
    """Heads from left to right, layers from top to bottom; the tip of a head holds everything known of it."""
    colours = _Colours(scores.scores, signed=scores.signed)
    tips = [_tip(row, scores) for row in scores.to_frame().to_dict("records")]
    rows: list[tuple[str, list[Cell | None]]] = []
    for layer, values in enumerate(scores.scores.double().tolist()):
        cells: list[Cell | None] = []
        for head, value in enumerate(values):
            background, light = colours.colour(value)
            at = layer * scores.n_heads + head
            cells.append(Cell([colours.text(value)], tips[at], background, light, name=scores.heads[at].label))
        rows.append((f"L{layer}", cells))
    notes = [f"higher: {scores.higher_is}", *_chance(scores.chances)]
    if scores.unmeasured:
        notes.append(f"not measured: {len(scores.unmeasured)}")
    return Grid(
        title=f"{scores.name} ({scores.unit})" if scores.unit else scores.name,
        corner="layer / head",
        columns=[f"H{head}" for head in range(scores.n_heads)],
        rows=rows,
        notes=["; ".join(notes)],
        ramp=colours.ramp,
    )


def head_grids(results: Iterable[HeadScores]) -> Iterator[Grid | str]:
    """The grids of several results, as many as a page can hold; a sentence says what was left out."""
    return _grids(results, lambda scores: scores.scores.numel(), head_grid, "Not drawn")


def distance_grid(found: HeadDistances, order: Sequence[int], groups: Sequence[str]) -> Grid | str:
    """The distance of every two heads, heads in this order; `groups` says where each head belongs."""
    if len(order) ** 2 > MOST_CELLS:
        return f"The {len(order)} x {len(order)} distances are not drawn, as a page holds {MOST_CELLS:,} cells."
    colours = _Colours(found.distance, signed=False)
    names = [found.labels[index] for index in order]
    rows: list[tuple[str, list[Cell | None]]] = []
    for first in order:
        cells: list[Cell | None] = []
        for second in order:
            value = float(found.distance[first, second])
            background, light = colours.colour(value)
            tip = [f"{found.labels[first]} ({groups[first]}) and {found.labels[second]} ({groups[second]})"]
            cells.append(Cell([""], [*tip, f"distance {number(value)}"], background, light))
        rows.append((found.labels[first], cells))
    return Grid(title="distance of every two heads", corner="head", columns=names, rows=rows, ramp=colours.ramp)


def pair_grids(results: Iterable[HeadPairs]) -> Iterator[Grid | str]:
    """Sources from top to bottom, destinations from left to right; as many results as a page can hold."""
    return _grids(results, lambda found: int((~found.scores.isnan()).sum()), _pair_grid, "Pairs not drawn")


def _grids(
    results: Iterable[Result], n_cells: Callable[[Result], int], draw: Callable[[Result], Grid], missing: str
) -> Iterator[Grid | str]:
    """As many grids as a page can hold, then a sentence that begins with `missing` and names the others."""
    room, left_out = MOST_CELLS, list[str]()
    for found in results:
        room -= n_cells(found)
        if room < 0:
            left_out.append(found.name)
        else:
            yield draw(found)
    if left_out:
        yield f"{missing}, as a page holds {MOST_CELLS:,} cells: {', '.join(left_out)}."


def _pair_grid(found: HeadPairs) -> Grid:
    """The pairs that have a score, coloured by its distance from chance; heads without a pair have no row or column."""
    colours = _Colours(found.scores - found.chance, signed=True)
    heads = [HeadRef(layer, head) for layer, head in product(*map(range, found.scores.shape[:2]))]
    scores, z = (values.flatten(2).flatten(0, 1) for values in (found.scores, found.z))
    measured = ~scores.isnan()
    sources, destinations = (measured.any(axis).nonzero().flatten().tolist() for axis in (1, 0))
    rows: list[tuple[str, list[Cell | None]]] = []
    for source in sources:
        cells: list[Cell | None] = []
        for destination in destinations:
            value = float(scores[source, destination])
            background, light = colours.colour(value - found.chance)
            tip = [
                f"{heads[source]} to {heads[destination]}: {number(value)}, chance {number(found.chance)}, "
                f"z {number(float(z[source, destination]))}"
            ]
            cells.append(Cell([""], tip, background, light) if measured[source, destination] else None)
        rows.append((heads[source].label, cells))
    return Grid(
        title=f"{found.name} of every two heads",
        corner="source / destination",
        columns=[heads[destination].label for destination in destinations],
        rows=rows,
        notes=[f"colour: score minus chance ({number(found.chance)}); empty: the destination is not behind the source"],
        ramp=colours.ramp,
    )


def token_grid(found: TokenMap) -> Grid:
    """Tokens from left to right, layers from top to bottom; of a map with heads, the mean over them."""
    values = found.values.double()
    if "head" in found.dims:
        values = values.nanmean(found.dims.index("head"))
    values = values if "layer" in found.dims else values[None]
    tokens = found.tokens if "key" in found.dims else found.query_tokens
    shown, names = values[:, :MOST_TOKENS], [visible(token) for token in tokens[:MOST_TOKENS]]
    colours = _Colours(shown, signed=found.signed)
    rows: list[tuple[str, list[Cell | None]]] = []
    for layer, numbers in enumerate(shown.tolist()):
        cells: list[Cell | None] = []
        for place, value in enumerate(numbers):
            background, light = colours.colour(value)
            cells.append(Cell([""], [f"L{layer}, token {place} '{names[place]}': {number(value)}"], background, light))
        rows.append((f"L{layer}", cells))
    unit = f" ({found.unit})" if found.unit else ""
    mean = ", mean over heads" if "head" in found.dims else ""
    notes = [f"chance {number(found.chance)}"] if found.chance is not None else []
    notes += [f"the first {MOST_TOKENS} of {len(tokens)} tokens"] if len(tokens) > MOST_TOKENS else []
    notes += ["empty: not measured"] if bool(shown.isnan().any()) else []
    return Grid(
        title=f"{found.name}{mean}{unit}",
        corner="layer / token",
        columns=names,
        rows=rows,
        notes=["; ".join(notes)] if notes else [],
        ramp=colours.ramp,
    )


def _chance(chances: Float[Tensor, "layer head"]) -> Iterator[str]:
    """The chance level, or between what heads have it."""
    known = chances[~chances.isnan()]
    ends = dict.fromkeys(number(float(end)) for end in (known.min(), known.max())) if len(known) else {}
    if ends:
        yield f"chance {' to '.join(ends)}"


def _tip(row: dict[str, Any], scores: HeadScores) -> list[str]:
    """A head's score, interval, chance, and its columns and labels."""
    score = f"{row['label']}: {number(row['score'])} {scores.unit}".rstrip()
    if row["ci_low"] == row["ci_low"]:
        score += f" (95 % interval {number(row['ci_low'])} to {number(row['ci_high'])})"
    if row["chance"] == row["chance"]:
        score += f", chance {number(row['chance'])}"
    further = [f"{name} {number(float(row[name]))}" for name in scores.columns if row[name] == row[name]]
    words = [f"{name}: {row[name]}" for name in scores.labels if row[name]]
    return [score, *([", ".join(further)] if further else []), *words]
