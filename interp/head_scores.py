"""`HeadScores`: one number per attention head, with what is needed to read, rank, plot, save and trust it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float, Real
from torch import Tensor

from interp.errors import InputError
from interp.figures import Axis, heatmap
from interp.frozen import FrozenDict, frozen_tensor
from interp.heads import HeadRef
from interp.saved_result import SavedResult
from interp.tables import html_table, number

# Names of the frame's own columns, which extra columns may not take.
FRAME_COLUMNS = ("layer", "head", "label", "score", "ci_low", "ci_high", "chance")

# How many heads a notebook shows.
SHOWN_HEADS = 10


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class HeadScores(SavedResult):
    """One score per head. Tensors are copied to the CPU when the object is made.

    Arguments, beside those of `SavedResult`:
        scores: `[layer, head]`, floating point; NaN where a head was not measured.
        chance: score expected of a head that does nothing special; one number, or one per head.
        ci_low, ci_high: ends of the confidence interval, `[layer, head]`.
        columns: further numbers per head by name, each `[layer, head]`.
        labels: further words per head by name, such as its role: a tuple of layers, each a tuple of heads.
        higher_is: what a higher score says of a head, in words.

    Raises:
        InputError: shapes disagree, a column's name is taken, or notes cannot be written as JSON.
    """

    KIND: ClassVar[str] = "head_scores"

    scores: Float[Tensor, "layer head"]
    chance: float | Float[Tensor, "layer head"] | None = None
    ci_low: Float[Tensor, "layer head"] | None = None
    ci_high: Float[Tensor, "layer head"] | None = None
    columns: Mapping[str, Real[Tensor, "layer head"] | Bool[Tensor, "layer head"]] = field(
        default_factory=FrozenDict[Tensor]
    )
    labels: Mapping[str, tuple[tuple[str, ...], ...]] = field(default_factory=FrozenDict[tuple[tuple[str, ...], ...]])
    higher_is: str = "stronger"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("scores", "chance", "ci_low", "ci_high"):
            value = getattr(self, name)
            self._freeze(name, frozen_tensor(value) if isinstance(value, Tensor) else value)
        if isinstance(self.chance, int):
            self._freeze("chance", float(self.chance))
        self._freeze("columns", FrozenDict({name: frozen_tensor(values) for name, values in self.columns.items()}))
        self._freeze("labels", FrozenDict({name: tuple(map(tuple, rows)) for name, rows in self.labels.items()}))
        self._check()

    @property
    def n_layers(self) -> int:
        return self.scores.shape[0]

    @property
    def n_heads(self) -> int:
        return self.scores.shape[1]

    @property
    def heads(self) -> list[HeadRef]:
        """Every head, layer by layer."""
        return [HeadRef(layer, head, self.stack) for layer in range(self.n_layers) for head in range(self.n_heads)]

    @property
    def unmeasured(self) -> list[HeadRef]:
        """The heads whose score is NaN."""
        missing = self.scores.isnan().flatten().tolist()
        return [head for head, is_missing in zip(self.heads, missing, strict=True) if is_missing]

    @property
    def chances(self) -> Float[Tensor, "layer head"]:
        """The chance level of every head; NaN where none was given."""
        if isinstance(self.chance, Tensor):
            return self.chance.double()
        return torch.full(self.scores.shape, torch.nan if self.chance is None else self.chance, dtype=torch.float64)

    def __getitem__(self, head: object) -> float:
        """The score of `"L9H6"`, `"9.6"`, `(9, 6)` or a `HeadRef`."""
        layer, position = self._indices(head)
        return float(self.scores[layer, position])

    def top(self, k: int | None = None, by: str = "score", *, absolute: bool = False) -> list[HeadRef]:
        """The highest heads, highest first; of equal heads the lower layer, then the lower head, comes first.

        Arguments:
            k: how many; None for all. Heads without a value (NaN) have no rank and are left out, so there can be
                fewer; `unmeasured` lists them.
            by: "score", or the name of one of `columns`.
            absolute: rank by magnitude.

        Raises:
            InputError: `k` is not positive, or there is no such column.
        """
        if k is not None and k < 1:
            raise InputError(f"top(k={k}) asks for no heads: expected a positive number; leave k out for all heads.")
        values = self._values(by).double().flatten()
        keys = (values.abs() if absolute else values).tolist()
        ranked = [(key, head) for key, head in zip(keys, self.heads, strict=True) if key == key]
        # Python's sort is stable, so equal keys keep the order of layers and heads.
        ranked.sort(key=lambda pair: pair[0], reverse=True)
        return [head for _, head in ranked[:k]]

    def to_frame(self) -> pd.DataFrame:
        """One row per head: layer, head, label, score, ci_low, ci_high, chance, then `columns` and `labels`.

        What was not given (an interval, chance) is NaN.
        """
        return pd.DataFrame(self._frame_columns())

    def plot(self) -> go.Figure:
        """A map with heads from left to right and layers from top to bottom; unmeasured heads stay empty."""
        names = [head.label for head in self.heads]
        return heatmap(
            self.scores,
            x=Axis("head"),
            y=Axis("layer"),
            title=self.name,
            unit=self.unit,
            signed=self.signed,
            labels=[names[start : start + self.n_heads] for start in range(0, len(names), self.n_heads)],
        )

    def __repr__(self) -> str:
        parts = [f"{self.name!r}", f"{self.n_layers} layers x {self.n_heads} heads"]
        parts += [f"highest {head} {number(self[head])} {self.unit}".rstrip() for head in self.top(1)]
        parts += [f"{len(self.unmeasured)} not measured"] if self.unmeasured else []
        return f"HeadScores({', '.join(parts)})"

    def _repr_html_(self) -> str:
        frame = self._frame_columns()
        optional = [name for name in ("ci_low", "ci_high", "chance") if getattr(self, name) is not None]
        cells = {name: [number(value) for value in frame[name]] for name in ("score", *optional)}
        cells |= {name: frame[name] for name in self.labels}
        top = self.top(SHOWN_HEADS, absolute=self.signed)
        rows = [
            [head.label, *(column[head.layer * self.n_heads + head.head] for column in cells.values())] for head in top
        ]
        order = "by magnitude" if self.signed else f"highest first; a higher score is {self.higher_is}"
        counts = f"{len(top)} of {len(self.heads)} heads, {order}. Not measured: {len(self.unmeasured)}."
        caption = f"{self.name} ({self.unit})" if self.unit else self.name
        return html_table(
            caption=caption,
            headers=["head", *cells],
            rows=rows,
            notes=[counts, self.provenance.summary],
        )

    def _frame_columns(self) -> dict[str, list[Any]]:
        frame: dict[str, list[Any]] = {
            "layer": [head.layer for head in self.heads],
            "head": [head.head for head in self.heads],
            "label": [head.label for head in self.heads],
            "score": self.scores.flatten().tolist(),
        }
        frame |= {name: self._per_head(getattr(self, name)) for name in ("ci_low", "ci_high", "chance")}
        frame |= {name: values.flatten().tolist() for name, values in self.columns.items()}
        return frame | {name: [word for row in rows for word in row] for name, rows in self.labels.items()}

    def _values(self, by: str) -> Tensor:
        if by == "score":
            return self.scores
        if by not in self.columns:
            raise InputError(
                f"There is no column {by!r} to rank by: expected one of {', '.join(('score', *self.columns))}."
            )
        return self.columns[by]

    def _per_head(self, value: float | Tensor | None) -> list[float]:
        if isinstance(value, Tensor):
            return value.flatten().tolist()
        return [float("nan") if value is None else value] * len(self.heads)

    def _indices(self, head: object) -> tuple[int, int]:
        wanted = HeadRef.parse(head)
        inside = wanted.layer < self.n_layers and wanted.head < self.n_heads
        if not inside or wanted.stack not in ("", self.stack):
            first, last = self.heads[0], self.heads[-1]
            raise InputError(f"There is no score of {wanted.label}: expected a head from {first} to {last}.")
        return wanted.layer, wanted.head

    def _check(self) -> None:
        shape = tuple(self.scores.shape)
        if len(shape) != 2 or not self.scores.is_floating_point() or 0 in shape:
            raise InputError(
                f"HeadScores.scores has shape {list(shape)} and {self.scores.dtype}: expected a non-empty "
                "[layer, head] tensor of floating point numbers."
            )
        tensors = {name: getattr(self, name) for name in ("chance", "ci_low", "ci_high")} | dict(self.columns)
        for name, value in tensors.items():
            if isinstance(value, Tensor) and tuple(value.shape) != shape:
                raise InputError(
                    f"HeadScores: {name!r} has shape {list(value.shape)}, expected {list(shape)} as the scores have."
                )
        for name, rows in self.labels.items():
            if [len(row) for row in rows] != [shape[1]] * shape[0]:
                raise InputError(f"HeadScores: the labels {name!r} are not {shape[0]} layers of {shape[1]} words each.")
        names = (*FRAME_COLUMNS, *self.columns, *self.labels)
        if taken := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"HeadScores: the column names {taken} are taken; expected names of their own.")
