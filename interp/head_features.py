"""`HeadFeatures`: a table of features of every head on every text."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.frozen import frozen_tensor
from interp.head_scores import HeadScores
from interp.heads import HeadRef
from interp.saved_result import SavedResult
from interp.statistics import mean_interval


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class HeadFeatures(SavedResult):
    """A table of features per text and head.

    Arguments, beside those of `SavedResult`:
        values: ``[text, layer, head, feature]``; NaN for heads that a layer does not have.
        uniform: the features of uniform attention over the visible keys of each text, mean over layers,
            ``[text, feature]``.
        features: names of the features.
    """

    KIND: ClassVar[str] = "head_features"

    values: Float[Tensor, "text layer head feature"]
    uniform: Float[Tensor, "text feature"]
    features: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._freeze("values", frozen_tensor(self.values))
        self._freeze("uniform", frozen_tensor(self.uniform))
        self._freeze("features", tuple(self.features))
        expected = (self.values.shape[0], len(self.features))
        if self.values.dim() != 4 or self.values.shape[3] != expected[1] or tuple(self.uniform.shape) != expected:
            raise InputError(
                f"HeadFeatures has values {list(self.values.shape)}, uniform {list(self.uniform.shape)} and "
                f"{expected[1]} names: expected [text, layer, head, feature], [text, feature] and one name per feature."
            )

    def to_frame(self) -> pd.DataFrame:
        """One row per text and head: text, layer, head, label, then the features."""
        texts, layers, heads = np.indices(tuple(self.values.shape[:3])).reshape(3, -1)
        labels = [HeadRef(layer, head, self.stack).label for layer, head in zip(layers, heads, strict=True)]
        frame = pd.DataFrame({"text": texts, "layer": layers, "head": heads, "label": labels})
        return frame.join(pd.DataFrame(self.values.flatten(0, 2).numpy(), columns=list(self.features)))

    def to_matrix(self) -> pd.DataFrame:
        """One row per text and one column per head and feature, as a classifier of texts takes it."""
        _, n_layers, n_heads, _ = self.values.shape
        heads = [HeadRef(layer, head, self.stack).label for layer in range(n_layers) for head in range(n_heads)]
        names = [f"{head} {feature}" for head in heads for feature in self.features]
        return pd.DataFrame(self.values.flatten(1).numpy(), columns=names).dropna(axis="columns")

    def scores(self, feature: str) -> HeadScores:
        """One feature as the mean over texts, with 95 % intervals; chance is that of uniform attention."""
        if feature not in self.features:
            raise InputError(f"There is no feature {feature!r}: expected one of {', '.join(self.features)}.")
        index = self.features.index(feature)
        values = self.values[..., index]
        mean, low, high = mean_interval(values)
        several = len(values) > 1
        return HeadScores(
            name=feature,
            scores=mean,
            unit="",
            stack=self.stack,
            chance=float(self.uniform[:, index].mean()),
            ci_low=low if several else None,
            ci_high=high if several else None,
            higher_is="larger",
            provenance=self.provenance,
            notes={"texts": len(values)},
        )

    def __repr__(self) -> str:
        texts, layers, heads, features = self.values.shape
        return f"HeadFeatures({self.name!r}, {texts} texts, {layers} layers x {heads} heads, {features} features)"
