"""`HeadPairs`: one number for every pair of an earlier head and a later one."""

from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.frozen import frozen_tensor
from interp.heads import HeadRef
from interp.saved_result import SavedResult


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class HeadPairs(SavedResult):
    """One score per pair of heads. Tensors are copied to the CPU when the object is made.

    Arguments, beside those of `SavedResult`:
        scores: ``[source_layer, source_head, layer, head]``; NaN where there is no such pair.
        chance: score expected of a pair that has nothing to do with each other.
        z: how many standard deviations of the null a score lies above it, same shape.

    Raises:
        InputError: shapes disagree.
    """

    KIND: ClassVar[str] = "head_pairs"

    scores: Float[Tensor, "source_layer source_head layer head"]
    chance: float
    z: Float[Tensor, "source_layer source_head layer head"]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("scores", "z"):
            self._freeze(name, frozen_tensor(getattr(self, name)))
        shape = tuple(self.scores.shape)
        if len(shape) != 4 or shape[:2] != shape[2:] or tuple(self.z.shape) != shape:
            raise InputError(
                f"HeadPairs: scores have shape {list(shape)} and z {list(self.z.shape)}; expected "
                "[source_layer, source_head, layer, head] of one model for both."
            )

    def __getitem__(self, pair: tuple[object, object]) -> float:
        """The score of a source and a destination, such as ``["L0H0", "L1H1"]``."""
        source, destination = (self._head(head) for head in pair)
        return float(self.scores[*source[:2], *destination[:2]])

    def top(self, k: int = 10, by: str = "score", *, head: object = None) -> list[tuple[HeadRef, HeadRef]]:
        """The highest pairs, highest first; of equal pairs the earlier source, then destination.

        Arguments:
            k: how many; pairs without a value (NaN) have no rank, so there can be fewer.
            by: "score" or "z".
            head: only pairs that this head is the source or the destination of; None for all pairs.

        Raises:
            InputError: `k` is not positive, or there is no such head or order.
        """
        values = {"score": self.scores, "z": self.z}
        if k < 1 or by not in values:
            raise InputError(f"top(k={k}, by={by!r}): expected a positive number of pairs, by 'score' or 'z'.")
        wanted = None if head is None else self._head(head)
        flat = values[by].flatten()
        order = flat.nan_to_num(-float("inf")).argsort(descending=True, stable=True)[: int((~flat.isnan()).sum())]
        pairs = (self._pair(index) for index in order.tolist())
        return list(islice((pair for pair in pairs if wanted is None or wanted in pair), k))

    def to_frame(self) -> pd.DataFrame:
        """One row per pair that has a score: source, destination, score, z, chance."""
        measured = (~self.scores.isnan()).flatten().nonzero().squeeze(1).tolist()
        pairs = [self._pair(index) for index in measured]
        return pd.DataFrame(
            {
                "source": [source.label for source, _ in pairs],
                "destination": [destination.label for _, destination in pairs],
                "score": self.scores.flatten()[measured].tolist(),
                "z": self.z.flatten()[measured].tolist(),
                "chance": self.chance,
            }
        )

    def __repr__(self) -> str:
        highest = "".join(f", highest {source} -> {head} {self[source, head]:.4g}" for source, head in self.top(1))
        return f"HeadPairs({self.name!r}, {int((~self.scores.isnan()).sum())} pairs{highest})"

    def _head(self, head: object) -> HeadRef:
        """The head of this name.

        Raises:
            InputError: the model has no such head.
        """
        found, (n_layers, n_heads) = HeadRef.parse(head), self.scores.shape[:2]
        if found.stack or found.layer >= n_layers or found.head >= n_heads:
            raise InputError(
                f"There is no head {found.label} among these pairs: expected one from L0H0 to "
                f"L{n_layers - 1}H{n_heads - 1}."
            )
        return found

    def _pair(self, index: int) -> tuple[HeadRef, HeadRef]:
        n_layers, n_heads = self.scores.shape[:2]
        source, destination = divmod(index, n_layers * n_heads)
        return HeadRef(*divmod(source, n_heads)), HeadRef(*divmod(destination, n_heads))
