"""`HeadDistances`: how differently every two heads attend."""

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.frozen import frozen_tensor
from interp.heads import HeadRef
from interp.saved_result import SavedResult


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class HeadDistances(SavedResult):
    """How differently every two heads attend.

    Arguments, beside those of `SavedResult`:
        divergence: mean Jensen-Shannon divergence in nats, ``[head, head]``, heads layer by layer as in `labels`.
        to_uniform: the same between each head and uniform attention over its visible keys, ``[head]``. Two heads that
            are both near to it are near to each other without sharing anything.
        labels: names of the heads.
    """

    KIND: ClassVar[str] = "head_distances"

    divergence: Float[Tensor, "head head"]
    to_uniform: Float[Tensor, " head"]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._freeze("divergence", frozen_tensor(self.divergence))
        self._freeze("to_uniform", frozen_tensor(self.to_uniform))
        self._freeze("labels", tuple(self.labels))
        n = len(self.labels)
        if n < 2 or tuple(self.divergence.shape) != (n, n) or tuple(self.to_uniform.shape) != (n,):
            raise InputError(
                f"HeadDistances has {n} labels, divergences {list(self.divergence.shape)} and {len(self.to_uniform)} "
                "distances to uniform attention: expected at least two labels, and as many of everything."
            )

    @property
    def heads(self) -> list[HeadRef]:
        """The heads along both axes."""
        return [HeadRef.parse(label) for label in self.labels]

    @property
    def distance(self) -> Float[Tensor, "head head"]:
        """Square root of the divergence, in [0, 0.8326], a metric."""
        return self.divergence.sqrt()

    def nearest(self, head: object, k: int = 5) -> list[tuple[HeadRef, float]]:
        """The heads that attend most like this one, with their distance; of equal ones the earlier comes first."""
        wanted = HeadRef.parse(head)
        if wanted not in self.heads or k < 1:
            raise InputError(
                f"The {k} heads nearest to {wanted.label} cannot be given: expected a head from {self.labels[0]} to "
                f"{self.labels[-1]} and a positive number."
            )
        row = self.distance[self.heads.index(wanted)].tolist()
        others = [(other, value) for other, value in zip(self.heads, row, strict=True) if other != wanted]
        return sorted(others, key=lambda pair: pair[1])[:k]

    def to_frame(self) -> pd.DataFrame:
        """One row per pair of heads: head, other, divergence, distance."""
        first, second = torch.triu_indices(len(self.labels), len(self.labels), 1).tolist()
        return pd.DataFrame(
            {
                "head": [self.labels[i] for i in first],
                "other": [self.labels[i] for i in second],
                "divergence": self.divergence[first, second].tolist(),
                "distance": self.distance[first, second].tolist(),
            }
        )

    def __repr__(self) -> str:
        return f"HeadDistances({self.name!r}, {len(self.labels)} heads)"
