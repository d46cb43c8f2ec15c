"""`TokenMap`: numbers over tokens or token pairs, with the text of the tokens."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.figures import Axis, bars, heatmap
from interp.frozen import frozen_tensor
from interp.heads import HeadRef
from interp.saved_result import SavedResult
from interp.tables import html_table, number, visible

# The axes a map can have, in the only order they can have.
DIMS = ("layer", "head", "query", "key")

# How many entries a notebook shows.
SHOWN_ENTRIES = 10


class TokenEntry(NamedTuple):
    """One number of a `TokenMap` and its place; None stands for an axis that the map does not have."""

    value: float
    layer: int | None = None
    head: int | None = None
    query: int | None = None
    key: int | None = None
    query_token: str | None = None
    key_token: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TokenMap(SavedResult):
    """Numbers over the tokens of one prompt. The tensor is copied to the CPU when the object is made.

    Arguments, beside those of `SavedResult`:
        values: one axis per entry of `dims`, floating point; NaN where nothing was measured.
        dims: names of the axes, out of layer, head, query, key, in this order; query or key must be among them.
        tokens: text of each key position (what is attended to).
        query_tokens: text of each query position (what attends); the same as `tokens` unless given.
        chance: value expected where nothing special happens.

    Raises:
        InputError: axes, tokens and values disagree, or notes cannot be written as JSON.
    """

    KIND: ClassVar[str] = "token_map"

    values: Float[Tensor, "..."]
    dims: tuple[str, ...]
    tokens: tuple[str, ...]
    query_tokens: tuple[str, ...] = ()
    chance: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._freeze("values", frozen_tensor(self.values))
        self._freeze("dims", tuple(self.dims))
        self._freeze("tokens", tuple(self.tokens))
        self._freeze("query_tokens", tuple(self.query_tokens or self.tokens))
        self._check()

    def at(
        self, *, layer: int | None = None, head: int | None = None, query: int | None = None, key: int | None = None
    ) -> "TokenMap":
        """The part of the map at one index of each axis named; these axes are gone and `notes["at"]` records them.

        Raises:
            InputError: the map has no such axis, the index is outside it, or no token axis would remain.
        """
        wanted = {"layer": layer, "head": head, "query": query, "key": key}
        chosen = {name: index for name, index in wanted.items() if index is not None}
        for name, index in chosen.items():
            self._check_index(name, index)
        places = tuple(chosen.get(name, slice(None)) for name in self.dims)
        remaining = tuple(name for name in self.dims if name not in chosen)
        notes = {**self.notes, "at": {**self.notes.get("at", {}), **chosen}}
        return replace(self, values=self.values[places], dims=remaining, notes=notes)

    def top(self, k: int | None = None, *, absolute: bool = False) -> list[TokenEntry]:
        """The highest entries, highest first; of equal ones the earlier layer, head, query, key comes first.

        Arguments:
            k: how many; None for all. Entries without a value (NaN) have no rank and are left out.
            absolute: rank by magnitude.

        Raises:
            InputError: `k` is not positive.
        """
        if k is not None and k < 1:
            raise InputError(f"top(k={k}) asks for nothing: expected a positive number; leave k out for all entries.")
        values = self.values.flatten()
        measured = (~values.isnan()).nonzero().flatten()
        keys = values[measured].abs() if absolute else values[measured]
        order = measured[torch.sort(keys, descending=True, stable=True).indices[:k]]
        return [self._entry(index) for index in order.tolist()]

    def to_frame(self) -> pd.DataFrame:
        """One row per number: the index along each axis, the head's label, the tokens' text, and value.

        Columns, as far as the map has the axis: layer, head, label, query, query_token, key, key_token, value.
        """
        places = np.unravel_index(np.arange(self.values.numel()), tuple(self.values.shape))
        axes = dict(zip(self.dims, (place.tolist() for place in places), strict=True))
        frame: dict[str, list[object]] = {name: axes[name] for name in ("layer", "head") if name in axes}
        if len(frame) == 2:
            pairs = zip(axes["layer"], axes["head"], strict=True)
            frame["label"] = [HeadRef(layer, head, self.stack).label for layer, head in pairs]
        for name, texts in (("query", self.query_tokens), ("key", self.tokens)):
            if name in axes:
                frame |= {name: axes[name], f"{name}_token": [texts[index] for index in axes[name]]}
        return pd.DataFrame(frame | {"value": self.values.flatten().tolist()})

    def plot(self) -> go.Figure:
        """Bars for one axis, a map for two, with the first position on top.

        Raises:
            InputError: there are more than two axes; choose with `at`.
        """
        if len(self.dims) > 2:
            raise InputError(
                f"A map over {', '.join(self.dims)} cannot be drawn: expected at most two axes; choose a part "
                "first, as in .at(layer=0, head=0).plot()."
            )
        shared = {"title": self._title(), "unit": self.unit}
        axes = [Axis(name, self._texts(name)) for name in self.dims]
        cells = [self._cells(name) for name in self.dims]
        if len(axes) == 1:
            return bars(self.values, x=axes[0], labels=cells[0], **shared)
        labels = [[f"{row}, {column}" for column in cells[1]] for row in cells[0]]
        return heatmap(self.values, x=axes[1], y=axes[0], signed=self.signed, labels=labels, **shared)

    def __repr__(self) -> str:
        shape = " x ".join(f"{size} {name}" for size, name in zip(self.values.shape, self.dims, strict=True))
        missing = int(self.values.isnan().sum())
        return f"TokenMap({self.name!r}, {shape}{f', {missing} not measured' if missing else ''})"

    def _repr_html_(self) -> str:
        entries = self.top(SHOWN_ENTRIES, absolute=self.signed)
        rows = [
            [*(self._cell(name, getattr(entry, name)) for name in self.dims), number(entry.value)] for entry in entries
        ]
        order = "by magnitude" if self.signed else "highest first"
        missing = int(self.values.isnan().sum())
        counts = f"{len(entries)} of {self.values.numel()} entries, {order}. Not measured: {missing}."
        return html_table(
            caption=self._title(),
            headers=[*self.dims, self.unit or "value"],
            rows=rows,
            notes=[counts, self.provenance.summary],
        )

    def _title(self) -> str:
        chosen = ", ".join(f"{name} {index}" for name, index in self.notes.get("at", {}).items())
        return f"{self.name} ({chosen})" if chosen else self.name

    def _texts(self, dim: str) -> tuple[str, ...] | None:
        return {"query": self.query_tokens, "key": self.tokens}.get(dim)

    def _cell(self, dim: str, index: int) -> str:
        texts = self._texts(dim)
        return f"{dim} {index}" if texts is None else f"{dim} {index} '{visible(texts[index])}'"

    def _cells(self, dim: str) -> list[str]:
        return [self._cell(dim, index) for index in range(self.values.shape[self.dims.index(dim)])]

    def _entry(self, flat_index: int) -> TokenEntry:
        indices = np.unravel_index(flat_index, tuple(self.values.shape))
        place: dict[str, Any] = {name: int(index) for name, index in zip(self.dims, indices, strict=True)}
        texts = {name: self._texts(name) for name in place}
        place |= {f"{name}_token": words[place[name]] for name, words in texts.items() if words is not None}
        return TokenEntry(value=float(self.values.flatten()[flat_index]), **place)

    def _check_index(self, name: str, index: int) -> None:
        if name not in self.dims:
            raise InputError(f"This map has no axis {name!r}: expected one of {', '.join(self.dims)}.")
        size = self.values.shape[self.dims.index(name)]
        if not 0 <= index < size:
            raise InputError(f"{name}={index} is outside the map: expected a number from 0 to {size - 1}.")

    def _check(self) -> None:
        if not self.values.is_floating_point() or 0 in self.values.shape:
            raise InputError(
                f"TokenMap.values has shape {list(self.values.shape)} and {self.values.dtype}: expected floating point "
                "numbers, at least one along every axis."
            )
        in_order = self.dims == tuple(name for name in DIMS if name in self.dims)
        if not in_order or not {"query", "key"} & set(self.dims):
            raise InputError(
                f"TokenMap.dims is {self.dims}: expected names out of {DIMS}, in this order, with query or key among "
                "them; numbers per head alone are HeadScores."
            )
        if self.values.ndim != len(self.dims):
            raise InputError(f"TokenMap.values has {self.values.ndim} axes, expected {len(self.dims)}: {self.dims}.")
        for name, size in zip(self.dims, self.values.shape, strict=True):
            texts = self._texts(name)
            if texts is not None and len(texts) != size:
                raise InputError(f"TokenMap: the {name} axis has {size} positions, but {len(texts)} token texts.")
