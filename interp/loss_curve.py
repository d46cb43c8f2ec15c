"""`LossCurve`: next-token loss by position, with and without the beginning of the document."""

from dataclasses import dataclass
from html import escape
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from interp.figures import BLUE
from interp.frozen import frozen_tensor
from interp.saved_result import SavedResult


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LossCurve(SavedResult):
    """Loss by position and the in-context-learning score. Tensors are copied to the CPU when the object is made.

    Arguments, beside those of `SavedResult`:
        loss: mean over documents of the loss at each position: entry k predicts token ``k + 1`` from tokens ``0..k``.
        early, late: the positions that are compared.
        score: mean of ``loss[late] - loss[early]``; negative is in-context learning.
        ci_low, ci_high: ends of its 95 % interval over documents.
        control: the same with another document's tokens in front of the last ones before `late`.
    """

    KIND: ClassVar[str] = "loss_curve"

    loss: Float[Tensor, " position"]
    early: int
    late: int
    score: float
    ci_low: float
    ci_high: float
    control: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self._freeze("loss", frozen_tensor(self.loss))

    def to_frame(self) -> pd.DataFrame:
        """One row per position: position, loss."""
        return pd.DataFrame({"position": range(len(self.loss)), "loss": self.loss.tolist()})

    def plot(self) -> go.Figure:
        """The loss over positions; the two that are compared are marked."""
        figure = go.Figure(layout={"title": {"text": escape(self.name)}, "template": "plotly_white"})
        figure.add_scatter(
            x=list(range(len(self.loss))),
            y=self.loss.tolist(),
            line={"color": BLUE},
            hovertemplate="position %{x}<br>%{y:.4g}<extra></extra>",
        )
        for name in ("early", "late"):
            figure.add_vline(x=getattr(self, name), line_dash="dot", annotation_text=name)
        return figure.update_xaxes(title_text="position").update_yaxes(title_text=f"loss ({escape(self.unit)})")

    def __repr__(self) -> str:
        interval = f"{self.ci_low:.3f} to {self.ci_high:.3f}"
        difference = f"loss[{self.late}] - loss[{self.early}]"
        return f"LossCurve({difference} = {self.score:.3f} ({interval}), control {self.control:.3f})"
