"""What every analyzer is: documented parameters, a reader, a result.

An analyzer of heads averages twice: over the rows of an example, then over examples with equal weight. So batch size,
padding and the order of examples never change a score. The interval of that mean is Student's.
Chance is one number for all heads, or one per layer where sliding windows make layers see differently far.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.attention.participants import Reader
from interp.attention.rows import AttentionRows, Stream
from interp.errors import InputError
from interp.model.model import Model
from interp.provenance import Provenance
from interp.results import HeadScores, TokenMap
from interp.statistics import mean_interval

TEXT = frozenset({"self", "encoder", "cross"})
"""The kinds of attention over tokens of a text."""
KINDS = TEXT | {"vision"}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a reader must know of the model and the pictures.

    Attributes:
        kind: of the attention that is read.
        patches: rows and columns of patches in every picture, where they are known.
    """

    n_layers: int
    n_heads: int
    kind: str
    patches: tuple[int, int] | None = None


class AnalyzerReader(Reader, ABC):
    """A reader that ends in a result."""

    @abstractmethod
    def result(self, provenance: Provenance, tokens: list[str]) -> HeadScores | TokenMap:
        """The result; `tokens` are the texts of the first sequence's tokens."""


@dataclass(frozen=True, kw_only=True)
class Analyzer(ABC):
    """Parameters of one method; `reader` makes a fresh reader for one scan.

    Attributes:
        name: what it is called.
        reads: the kinds of attention that it can read. Positions of patches count row by row, in one sequence behind
            the tokens in front of them ([CLS], registers).
        least: the lowest sensible value of its parameters, as far as they have one.
    """

    name: ClassVar[str]
    reads: ClassVar[frozenset[str]] = KINDS
    least: ClassVar[Mapping[str, float]] = {}

    def __post_init__(self) -> None:
        for parameter, least in self.least.items():
            value = getattr(self, parameter)
            if not value >= least:
                raise InputError(f"{self.name} was given {parameter}={value}: expected at least {least:g}.")

    @classmethod
    def for_model(cls, model: Model | None) -> Analyzer:  # noqa: ARG003
        """The analyzer that its name stands for; with default parameters, unless these depend on the model."""
        return cls()

    @abstractmethod
    def reader(self, shape: Shape) -> AnalyzerReader:
        """A reader with nothing read yet."""


def refuse_cross(kind: str) -> None:
    """Distances, and copies of a token, need queries and keys of one text.

    Raises:
        InputError: it is cross attention.
    """
    if kind == "cross":
        raise InputError("Cross attention joins two texts, which have no distances. Scan another kind of attention.")


def chance_of_layers(by_layer: Float[Tensor, " layer"], n_heads: int) -> float | Float[Tensor, "layer head"]:
    """Chance levels of layers as those of heads; one number where all layers see alike, as without sliding windows.

    Example:
        >>> chance_of_layers(torch.tensor([0.25, torch.nan, 0.25]), 2), chance_of_layers(torch.tensor([0.5, 0.25]), 1)
        (0.25, tensor([[0.5000],
                [0.2500]]))
    """
    known = by_layer[~by_layer.isnan()]
    if len(known) == 0 or torch.allclose(known, known[0], rtol=1e-9, atol=0):
        return float(by_layer.nanmean())
    return by_layer[:, None].expand(-1, n_heads)


class HeadMeanReader(AnalyzerReader):
    """Averages one number per row: over the rows of each example, then over examples. Subclasses call `add`."""

    higher_is: ClassVar[str] = "stronger"

    def __init__(self, shape: Shape, *, name: str, unit: str, value_range: tuple[float, float] | None) -> None:
        self.kinds = frozenset({shape.kind})
        self.shape, self.name, self.unit, self.value_range = shape, name, unit, value_range
        self._examples: list[Float[Tensor, "example layer head"]] = []
        self._chances: list[Float[Tensor, "example layer"]] = []
        self._sums: dict[int, Float[Tensor, "example head"]] = {}
        self._expected: dict[int, Float[Tensor, " example"]] = {}
        self._counts: dict[int, Float[Tensor, " example"] | Float[Tensor, "example head"]] = {}
        self._expected_counts: dict[int, Float[Tensor, " example"]] = {}

    def begin(self, stream: Stream) -> None:
        if stream.past == 0:
            self._flush()

    def add(
        self,
        rows: AttentionRows,
        values: Float[Tensor, "batch head query"],
        chance: Float[Tensor, "batch query"],
        counted: Bool[Tensor, "batch query"] | Bool[Tensor, "1 query"] | bool = True,
    ) -> None:
        """Add one number per row, and what uniform attention over the visible keys would have given there.

        Padding rows, and rows where `counted` is False, take no part.
        """
        weight = torch.as_tensor(counted, device=values.device)
        if rows.query_valid is not None:
            weight = weight & rows.query_valid
        weight = weight.expand(values.shape[0], values.shape[2]).double()
        self.add_sums(
            rows.layer,
            (values * weight[:, None]).sum(-1),
            (chance * weight).sum(-1),
            weight.sum(-1),
        )

    def add_sums(
        self,
        layer: int,
        sums: Float[Tensor, "batch head"],
        expected: Float[Tensor, " batch"],
        counts: Float[Tensor, " batch"] | Float[Tensor, "batch head"],
        expected_counts: Float[Tensor, " batch"] | None = None,
    ) -> None:
        """Add sums over rows, their values under uniform attention, and the number of rows.

        What a score is divided by may be a head's own, such as its attention to some keys; uniform attention then has
        the `expected_counts`.
        """
        uniform = counts if expected_counts is None else expected_counts
        stores = (self._sums, self._expected, self._counts, self._expected_counts)
        for store, value in zip(stores, (sums, expected, counts, uniform), strict=True):
            store[layer] = store[layer] + value if layer in store else value

    def result(self, provenance: Provenance, tokens: list[str]) -> HeadScores:
        self._flush()
        examples = torch.cat(self._examples)
        mean, low, high = mean_interval(examples, within=self.value_range)
        several = not bool(low.isnan().all())
        return HeadScores(
            name=self.name,
            scores=mean,
            unit=self.unit,
            value_range=self.value_range,
            chance=chance_of_layers(torch.cat(self._chances).nanmean(0), self.shape.n_heads),
            ci_low=low if several else None,
            ci_high=high if several else None,
            higher_is=self.higher_is,
            provenance=provenance,
            notes={"examples": int((~examples.isnan()).sum(0).max())},
        )

    def _flush(self) -> None:
        if not self._sums:
            return
        n_examples = next(iter(self._sums.values())).shape[0]
        means = torch.full((n_examples, self.shape.n_layers, self.shape.n_heads), torch.nan, dtype=torch.float64)
        chances = torch.full((n_examples, self.shape.n_layers), torch.nan, dtype=torch.float64)
        for layer, sums in self._sums.items():
            counts = self._counts[layer].double()
            counts = counts if counts.dim() == 2 else counts[:, None]
            means[:, layer, : sums.shape[1]] = (sums.double() / counts).cpu()
            chances[:, layer] = (self._expected[layer].double() / self._expected_counts[layer].double()).cpu()
        self._examples.append(means)
        self._chances.append(chances)
        for store in (self._sums, self._expected, self._counts, self._expected_counts):
            store.clear()
