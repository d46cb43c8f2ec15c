"""`Emergence`: one score per head at every checkpoint of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int
from plotly.subplots import make_subplots
from torch import Tensor

from interp.errors import InputError, ResultFormatError
from interp.figures import COLOURS, MAX_TICK_LABELS
from interp.frozen import FrozenDict, freeze_json, frozen_tensor, restore_json, thaw_json
from interp.head_scores import HeadScores
from interp.heads import HeadRef
from interp.provenance import Provenance
from interp.saved_result import SavedResult
from interp.tables import number

ONSET = "first checkpoint at which a value is more than half way from chance to where it ends"
SHOWN_HEADS = 5
DECIMALS = 6
OTHERS, CHANCE = "other heads", "chance, or control"
CHANCE_LINE: Mapping[str, Any] = {"color": "black", "dash": "dot", "width": 1}


def onset(values: Float[Tensor, "step ..."], chance: float | Float[Tensor, "step ..."]) -> Float[Tensor, "*rest"]:
    """Index of the first entry that is more than half way from chance to the last one; NaN where that one is chance.

    *Formula*: the least t with ``s * (values[t] - chance[t]) > s * (values[-1] - chance[-1]) / 2``, s the sign of the
    last difference, so that falling curves count too. What comes after t may fall below that again. Differences up to
    1e-6 are none.

    Example:
        >>> onset(torch.tensor([0.1, 0.2, 0.7, 1.0]), 0.1)
        tensor(2., dtype=torch.float64)
    """
    gain = values.double() - chance
    gain = gain * gain[-1].sign()
    first = (gain > gain[-1] / 2).int().argmax(0).double()
    return first.where(gain[-1] > 1e-6, torch.nan)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Emergence(SavedResult):
    """One score per head and checkpoint, and what the whole model does there. Tensors are copied to the CPU.

    Arguments, beside those of `SavedResult`:
        steps: training step of each checkpoint, increasing.
        scores: `[step, layer, head]`, in [0, 1]; NaN where a head was not measured.
        chance: score of a head that does nothing special.
        model: further measurements of the whole model by name, each `[step]`.
        model_chance: chance level, or control, of each of these, `[step]`.

    Raises:
        InputError: shapes disagree, or the steps are fewer than two or not increasing.
    """

    KIND: ClassVar[str] = "emergence"

    steps: Int[Tensor, " step"]
    scores: Float[Tensor, "step layer head"]
    chance: float
    model: Mapping[str, Float[Tensor, " step"]] = field(default_factory=FrozenDict[Tensor])
    model_chance: Mapping[str, Float[Tensor, " step"]] = field(default_factory=FrozenDict[Tensor])

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "scores"):
            self._freeze(name, frozen_tensor(getattr(self, name)))
        for name in ("model", "model_chance"):
            curves = getattr(self, name)
            self._freeze(name, FrozenDict({key: frozen_tensor(values) for key, values in curves.items()}))
        steps = self.steps.tolist()
        if len(steps) < 2 or steps[0] < 0 or any(a >= b for a, b in zip(steps, steps[1:], strict=False)):
            raise InputError(f"Emergence.steps is {steps}: expected at least two steps from 0 upwards, each once.")
        lengths = {len(curve) for curve in (self.scores, *self.model.values(), *self.model_chance.values())}
        if self.scores.dim() != 3 or lengths != {len(steps)} or set(self.model) != set(self.model_chance):
            raise InputError(
                f"Emergence: scores {list(self.scores.shape)}, model curves {list(self.model)} with the chance levels "
                f"of {list(self.model_chance)}; expected [{len(steps)}, layer, head] and {len(steps)} values each."
            )

    @property
    def title(self) -> str:
        """What the curves show, in words."""
        return f"{self.name} during the training of {self.provenance.model}"

    @property
    def mean(self) -> Float[Tensor, " step"]:
        """Mean over all heads."""
        return self.scores.flatten(1).nanmean(1)

    @property
    def heads(self) -> HeadScores:
        """Every head at the last checkpoint.

        Columns: ``highest``, its highest score at any checkpoint, and ``onset``, the first checkpoint at which it is
        more than half way from chance to its last score: the step, NaN for heads that end with less than a quarter of
        what lies between chance and 1. Training crosses the half somewhere between the checkpoint before and this one.
        """
        from interp.comparison import HAS_IT  # imports results itself

        last = self.scores[-1]
        has_it = (last - self.chance) / (1 - self.chance) >= HAS_IT
        return HeadScores(
            name=f"{self.name} at step {int(self.steps[-1]):,}",
            scores=last,
            unit=self.unit,
            value_range=self.value_range,
            chance=self.chance,
            columns={
                "highest": self.scores.nan_to_num(-torch.inf).amax(0).where(~last.isnan(), torch.nan),
                "onset": self._steps_at(onset(self.scores, self.chance)).where(has_it, torch.nan),
            },
            higher_is="more of it",
            provenance=self.provenance,
            stack=self.stack,
            notes={**self.notes, "onset": ONSET},
        )

    def top(self, k: int | None = None) -> list[HeadRef]:
        """The heads with the highest scores at any checkpoint, highest first; ties as in `HeadScores.top`."""
        return self.heads.top(k, by="highest")

    def head_curve(self, head: object) -> list[float]:
        """The scores of `"L1H2"`, `"1.2"`, `(1, 2)` or a `HeadRef`, checkpoint by checkpoint."""
        wanted = HeadRef.parse(head)
        self.heads[wanted]  # refuses heads that the model does not have
        return self.scores[:, wanted.layer, wanted.head].tolist()

    def model_onsets(self) -> dict[str, float]:
        """Onset of the mean of all heads (``mean``), NaN where no head has one, and of every measurement of the model.

        Returns:
            Steps by name; NaN for what ends at its chance level, or has lost more than three quarters of the furthest
            that it got from there.
        """
        found: dict[str, float] = {}
        for name, values in {"mean": self.mean, **self.model}.items():
            chance = self.model_chance.get(name, self.chance)
            gain = (values.double() - chance).abs()
            lost = gain[-1] < gain.max() / 4
            if name == "mean":
                lost |= self.heads.columns["onset"].isnan().all()
            found[name] = float(self._steps_at(onset(values, chance).masked_fill(lost, torch.nan)))
        return found

    def to_frame(self) -> pd.DataFrame:
        """One row per step and head: step, layer, head, label, score, chance, then what the whole model does there."""
        frames = [
            pd.DataFrame(
                {
                    "step": step,
                    "layer": [head.layer for head in heads],
                    "head": [head.head for head in heads],
                    "label": [head.label for head in heads],
                    "score": self.scores[index].flatten().tolist(),
                    "chance": self.chance,
                    **{name: float(values[index]) for name, values in self.model.items()},
                }
            )
            for heads in (self.heads.heads,)
            for index, step in enumerate(self.steps.tolist())
        ]
        return pd.concat(frames, ignore_index=True)

    def plot(self, top: int = SHOWN_HEADS) -> go.Figure:
        """Scores over training steps (logarithmic), the highest heads named, the others grey, chance dotted.

        Below it one panel for each measurement of the whole model. A checkpoint of step 0, which a logarithmic axis
        lacks, stands at half of the first other step.
        """
        n_rows = 1 + len(self.model)
        heights = [3.0] + [1.0] * len(self.model)
        figure = make_subplots(rows=n_rows, shared_xaxes=True, vertical_spacing=0.06, row_heights=heights)
        self._draw_heads(figure, top)
        for row, (name, values) in enumerate(self.model.items(), start=2):
            self._line(figure, values, name, color="black", row=row, legend=False)
            self._line(figure, self.model_chance[name], CHANCE, **CHANCE_LINE, row=row, legend=False)
            figure.update_yaxes(title_text=escape(name).replace(" ", "<br>", 1), row=row)
        subtitle = f"measured on {self.notes.get('measured on', 'texts')}; {self.provenance.summary}"
        title = {"text": escape(self.title), "subtitle": {"text": escape(subtitle)}}
        height = 440 + 150 * len(self.model)
        figure.update_layout(title=title, height=height, margin={"t": 90}, template="plotly_white")
        figure.update_xaxes(type="log", **self._ticks())
        return figure.update_xaxes(title_text="training step", row=n_rows)

    def to_document(self) -> dict[str, Any]:
        """Everything as JSON-like data with six decimals, NaN as None; `from_document` reads it."""
        return {
            "name": self.name,
            "unit": self.unit,
            "value_range": thaw_json(self.value_range),
            "chance": round(self.chance, DECIMALS),
            "notes": thaw_json(self.notes),
            "provenance": thaw_json(self.provenance.to_dict()),
            "steps": self.steps.tolist(),
            "scores": _numbers(self.scores),
            "model": {
                name: {"values": _numbers(values), "chance": _numbers(self.model_chance[name])}
                for name, values in self.model.items()
            },
        }

    @classmethod
    def from_document(cls, document: Any, *, where: str) -> Emergence:
        """What `to_document` gave, read from `where`.

        Raises:
            ResultFormatError: something is missing or has another form.
        """
        try:
            model = document["model"]
            limits = restore_json(document["value_range"])
            return cls(
                name=document["name"],
                unit=document["unit"],
                value_range=None if limits is None else tuple(limits),
                chance=document["chance"],
                notes=restore_json(document["notes"]),
                provenance=Provenance(**freeze_json(restore_json(document["provenance"]), where="provenance")),
                steps=torch.tensor(document["steps"]),
                scores=_tensor(document["scores"]),
                model={name: _tensor(curve["values"]) for name, curve in model.items()},
                model_chance={name: _tensor(curve["chance"]) for name, curve in model.items()},
            )
        except (AttributeError, InputError, KeyError, TypeError, ValueError) as error:
            raise ResultFormatError(
                f"{where} holds no emergence curves that can be read ({type(error).__name__}: {error}). Restore it "
                "from a copy, or measure again."
            ) from error

    def __repr__(self) -> str:
        n_steps, n_layers, n_heads = self.scores.shape
        highest = "".join(f", highest {head} {number(max(self.head_curve(head)))}" for head in self.top(1))
        return f"Emergence({self.name!r}, {n_steps} checkpoints, {n_layers} layers x {n_heads} heads{highest})"

    def _repr_html_(self) -> str:
        return self.heads._repr_html_()

    def _steps_at(self, index: Float[Tensor, "*rest"]) -> Float[Tensor, "*rest"]:
        return self.steps.double()[index.nan_to_num(0).long()].where(~index.isnan(), torch.nan)

    def _draw_heads(self, figure: go.Figure, top: int) -> None:
        ranked = self.top()
        named, others = ranked[:top], ranked[top:]
        for head in others:
            values = self.scores[:, head.layer, head.head]
            self._line(figure, values, head.label, group=OTHERS, legend=head == others[0], color="#BBBBBB", width=1)
        for index, head in enumerate(named):
            values = self.scores[:, head.layer, head.head]
            self._line(figure, values, head.label, color=COLOURS[index % len(COLOURS)])
        self._line(figure, self.mean, "mean of all heads", color="black", dash="dash")
        self._line(figure, torch.full_like(self.mean, self.chance), CHANCE, **CHANCE_LINE)
        figure.update_yaxes(title_text=escape(self.unit), rangemode="tozero", row=1)

    def _places(self) -> list[float]:
        """Where the steps stand on the logarithmic axis."""
        steps = self.steps.tolist()
        return [float(step or steps[1] / 2) for step in steps]

    def _ticks(self) -> dict[str, Any]:
        if len(self.steps) > MAX_TICK_LABELS:
            return {}
        texts = [f"{step:,}" for step in self.steps.tolist()]
        return {"tickmode": "array", "tickvals": self._places(), "ticktext": texts}

    def _line(
        self, figure: go.Figure, values: Float[Tensor, " step"], name: str, *, row: int = 1, group: str | None = None,
        legend: bool = True, color: str, dash: str = "solid", width: int = 2,
    ) -> None:  # fmt: skip
        figure.add_scatter(
            x=self._places(),
            y=values.tolist(),
            customdata=[f"{step:,}" for step in self.steps.tolist()],
            mode="lines+markers" if width > 1 and dash == "solid" else "lines",
            name=escape(group or name),
            legendgroup=escape(group or name),
            showlegend=legend,
            line={"color": color, "dash": dash, "width": width},
            hovertemplate=f"{escape(name)}<br>step %{{customdata}}<br>%{{y:.4g}}<extra></extra>",
            row=row,
            col=1,
        )


def _numbers(values: Tensor) -> list[Any]:
    numbers = values.double().numpy().round(DECIMALS).astype(object)
    numbers[values.isnan().numpy()] = None
    return numbers.tolist()


def _tensor(values: Any) -> Float[Tensor, "*any"]:
    return torch.from_numpy(np.array(values, dtype=np.float64))
