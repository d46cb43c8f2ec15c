"""`PruningCurve`: performance while more and more heads are left out, in several orders."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.figures import COLOURS
from interp.frozen import frozen_tensor
from interp.saved_result import SavedResult
from interp.tables import html_table, number

RANDOM = "random"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PruningCurve(SavedResult):
    """Metric and accuracy after every step of pruning, for orders by importance and for random orders.

    Arguments, beside those of `SavedResult`:
        orders: name of each order; all random ones are called "random".
        n_pruned: heads left out at each step, from 0 upwards.
        n_heads: heads of the model.
        metric, accuracy: `[order, step]`; higher is better.
        chance_metric, chance_accuracy: of a model that knows nothing of the example.
        pruned: of each order the labels of the heads, in the order in which they go.
    """

    KIND: ClassVar[str] = "pruning_curve"

    orders: tuple[str, ...]
    n_pruned: Int[Tensor, " step"]
    n_heads: int
    metric: Float[Tensor, "order step"]
    accuracy: Float[Tensor, "order step"]
    chance_metric: float
    chance_accuracy: float
    pruned: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._freeze("orders", tuple(self.orders))
        self._freeze("pruned", tuple(map(tuple, self.pruned)))
        for name in ("n_pruned", "metric", "accuracy"):
            self._freeze(name, frozen_tensor(getattr(self, name)))
        shape = (len(self.orders), len(self.n_pruned))
        if {tuple(self.metric.shape), tuple(self.accuracy.shape)} != {shape} or len(self.pruned) != shape[0]:
            raise InputError(
                f"PruningCurve: metric {list(self.metric.shape)}, accuracy {list(self.accuracy.shape)} and "
                f"{len(self.pruned)} lists of heads; expected {list(shape)} for these orders and steps."
            )

    @property
    def share_pruned(self) -> Float[Tensor, " step"]:
        """Share of all heads that is left out at each step."""
        return self.n_pruned.double() / self.n_heads

    @property
    def area(self) -> Float[Tensor, " order"]:
        """Mean of the metric over the share pruned (trapezoids), in the metric's unit."""
        share = self.share_pruned
        return torch.trapezoid(self.metric.double(), share) / (share[-1] - share[0])

    def area_between(self, order: str) -> dict[str, float]:
        """How much better an order keeps the metric than random orders do.

        Returns:
            ``area``: area between the order's curve and the mean random curve (positive is better than random);
            ``lowest random``, ``highest random``: the same for single random orders; ``share of random below``.

        Raises:
            InputError: there is no such order, or none is random.
        """
        if order not in self.orders or RANDOM not in self.orders:
            raise InputError(f"There are no orders {order!r} and {RANDOM!r} to compare among {', '.join(self.orders)}.")
        area = self.area
        random = area[[index for index, name in enumerate(self.orders) if name == RANDOM]]
        own = area[self.orders.index(order)]
        return {
            "area": float(own - random.mean()),
            "lowest random": float(random.min() - random.mean()),
            "highest random": float(random.max() - random.mean()),
            "share of random below": float((random < own).double().mean()),
        }

    def to_frame(self) -> pd.DataFrame:
        """One row per order and step: order, index (of the order), n_pruned, share_pruned, metric, accuracy, chance."""
        share = self.share_pruned
        rows = [
            {
                "order": name,
                "index": index,
                "n_pruned": int(self.n_pruned[step]),
                "share_pruned": float(share[step]),
                "metric": float(self.metric[index, step]),
                "accuracy": float(self.accuracy[index, step]),
                "chance_metric": self.chance_metric,
                "chance_accuracy": self.chance_accuracy,
            }
            for index, name in enumerate(self.orders)
            for step in range(len(self.n_pruned))
        ]
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """The metric over the share pruned: random orders thin and grey, chance dashed."""
        share = self.share_pruned.tolist()
        figure = go.Figure(layout={"title": {"text": escape(self.name)}, "template": "plotly_white"})
        named = [name for name in self.orders if name != RANDOM]
        for index, name in enumerate(self.orders):
            line = {"color": "lightgrey", "width": 1}
            if name != RANDOM:
                line = {"color": COLOURS[named.index(name) % len(COLOURS)], "width": 3}
            figure.add_scatter(
                x=share,
                y=self.metric[index].tolist(),
                name=name,
                legendgroup=name,
                showlegend=index == self.orders.index(name),
                line=line,
                hovertemplate="%{x:.0%} pruned<br>%{y:.4g} " + escape(self.unit) + f"<extra>{escape(name)}</extra>",
            )
        figure.add_hline(y=self.chance_metric, line_dash="dash", annotation_text="chance")
        figure.update_xaxes(title_text="share of heads pruned", tickformat=".0%")
        return figure.update_yaxes(title_text=escape(f"{self.notes.get('metric', 'metric')} ({self.unit})"))

    def __repr__(self) -> str:
        return f"PruningCurve({self.name!r}, {len(self.orders)} orders x {len(self.n_pruned)} steps)"

    def _repr_html_(self) -> str:
        named = [name for name in self.orders if name != RANDOM]
        chosen = [index for index, name in enumerate(self.orders) if name != RANDOM]
        random = self.metric[[index for index, name in enumerate(self.orders) if name == RANDOM]]
        rows = [
            [
                str(int(count)),
                *(number(float(self.metric[index, step])) for index in chosen),
                f"{number(float(random[:, step].min()))} to {number(float(random[:, step].max()))}"
                if len(random)
                else "",
            ]
            for step, count in enumerate(self.n_pruned)
        ]
        return html_table(
            caption=f"{self.name} ({self.unit})",
            headers=["pruned", *named, f"{len(random)} random orders"],
            rows=rows,
            notes=[f"Chance: {number(self.chance_metric)}.", self.provenance.summary],
        )
