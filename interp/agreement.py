"""`Agreement`: how far several methods give heads the same ranks."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import ClassVar

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from interp.saved_result import SavedResult


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Agreement(SavedResult):
    """Agreement of every pair of methods.

    Arguments, beside those of `SavedResult`:
        methods: their names.
        spearman: rank correlation over the heads that both measured, `[method, method]`, in [-1, 1]; NaN where a
            method gives all heads one score. 0 by chance, with a standard deviation of ``1 / sqrt(n_heads - 1)``.
        jaccard: overlap of the `k` highest heads, `[method, method]`, in [0, 1]; `chance` is that of random sets.
        k: size of these sets.
        n_heads: heads that every method measured.
    """

    KIND: ClassVar[str] = "agreement"

    methods: tuple[str, ...]
    spearman: Float[Tensor, "method method"]
    jaccard: Float[Tensor, "method method"]
    k: int
    n_heads: int

    @property
    def chance(self) -> float:
        """Expected Jaccard overlap of two random sets of `k` heads."""
        return chance_jaccard(self.k, self.n_heads)

    def to_frame(self) -> pd.DataFrame:
        """One row per pair of methods."""
        pairs = [(i, j) for i in range(len(self.methods)) for j in range(i + 1, len(self.methods))]
        return pd.DataFrame(
            {
                "method": [self.methods[i] for i, _ in pairs],
                "other": [self.methods[j] for _, j in pairs],
                "spearman": [float(self.spearman[i, j]) for i, j in pairs],
                "spearman chance sd": (self.n_heads - 1) ** -0.5,
                "jaccard": [float(self.jaccard[i, j]) for i, j in pairs],
                "jaccard chance": self.chance,
                "k": self.k,
            }
        )

    def __repr__(self) -> str:
        return f"Agreement({', '.join(self.methods)}; top {self.k} of {self.n_heads} heads)"


def chance_jaccard(k: int, n_heads: int) -> float:
    """Expected Jaccard overlap of two independent random sets of `k` among `n_heads` heads.

    Example:
        >>> round(chance_jaccard(1, 4), 6)
        0.25
    """
    pairs = ((m, comb(k, m) * comb(n_heads - k, k - m) / comb(n_heads, k)) for m in range(k + 1))
    return sum(weight * m / (2 * k - m) for m, weight in pairs)
