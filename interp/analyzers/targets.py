"""Attention to target keys, and by what it is divided: three normalisations that the literature does not tell apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.analyzers.analyzer import Analyzer, HeadMeanReader, Shape, refuse_cross
from interp.attention.rows import AttentionRows
from interp.errors import InputError

Normalisation = Literal["sum_per_query", "mean_per_entry", "per_row_all"]


@dataclass(frozen=True, kw_only=True)
class TargetAnalyzer(Analyzer):
    """Analyzers of heads that look at certain keys, the targets of a query; every query has none, one or several.

    A key beyond a sliding window is no target: a head cannot look at what it does not see.

    Arguments:
        normalisation: what the attention to targets is divided by, over all rows of an example:

            ``sum_per_query``   the queries that have a target: the share of their attention, in [0, 1]
            ``mean_per_entry``  the targets: RazorAttention's score, below 1 where queries have several targets
            ``per_row_all``     all attention, of rows without a target too: ``error_measure="mul"`` of TransformerLens'
                                ``detect_head``. A perfect induction head on four copies of 25 tokens behind a BOS has
                                1, 0.5 and 75/101 = 0.7426 in these.
        exclude_bos, exclude_current_token: with ``per_row_all`` alone: attention to the first token, or to the query's
            own, counts neither as attention nor as a target. NaN for a head that attends to nothing else.
    """

    normalisation: Normalisation = "sum_per_query"
    exclude_bos: bool = False
    exclude_current_token: bool = False

    def __post_init__(self) -> None:
        if self.normalisation not in get_args(Normalisation):
            raise InputError(
                f"{self.name} has no normalisation {self.normalisation!r}. "
                f"Choose from {', '.join(get_args(Normalisation))}."
            )
        if self.normalisation != "per_row_all" and (self.exclude_bos or self.exclude_current_token):
            raise InputError(
                f"{self.name} leaves keys out in the normalisation per_row_all alone, not in {self.normalisation}: "
                "set normalisation='per_row_all', or drop exclude_bos and exclude_current_token."
            )

    @property
    def unit(self) -> str:
        return "attention mass per target" if self.normalisation == "mean_per_entry" else "attention mass"


class TargetReader(HeadMeanReader):
    """Sums attention to targets in the normalisation of its analyzer. Subclasses call `add_targets`."""

    def __init__(self, shape: Shape, analyzer: TargetAnalyzer) -> None:
        refuse_cross(shape.kind)
        super().__init__(shape, name=analyzer.name, unit=analyzer.unit, value_range=(0.0, 1.0))
        self.analyzer = analyzer

    def allowed(
        self, queries: Int[Tensor, "*#pair"], keys: Int[Tensor, "*#pair"], first: Int[Tensor, "*#pair"]
    ) -> Bool[Tensor, "*pair"]:
        """Which pairs of positions are not excluded; `first` is the first real key of their example."""
        beginning = (keys == first) & self.analyzer.exclude_bos
        itself = (keys == queries) & self.analyzer.exclude_current_token
        return ~(beginning | itself)

    def add_targets(
        self, rows: AttentionRows, sums: Float[Tensor, "batch head"], n_targets: Float[Tensor, "batch query"]
    ) -> None:
        """Add a block's attention to targets, given how many targets every query has."""
        expected = (n_targets / rows.n_visible.clamp_min(1)).sum(-1)
        if self.analyzer.normalisation == "per_row_all":
            self.add_sums(rows.layer, sums, expected, *self._all_mass(rows))
        else:
            per_target = self.analyzer.normalisation == "mean_per_entry"
            counts = n_targets if per_target else (n_targets > 0).double()
            self.add_sums(rows.layer, sums, expected, counts.sum(-1))

    def _all_mass(self, rows: AttentionRows) -> tuple[Float[Tensor, "batch head"], Float[Tensor, " batch"]]:
        """All attention of real rows to keys that are not excluded, and the same if it were uniform."""
        first = rows.first_key.to(rows.keys.device)[:, None, None]
        kept = rows.visible & self.allowed(rows.queries[:, None], rows.keys, first)
        mass = (rows.pattern * kept[:, None]).sum(-1).double().sum(-1)
        return mass, (kept.sum(-1) / rows.n_visible.clamp_min(1)).sum(-1)
