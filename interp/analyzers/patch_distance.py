"""How far and in which direction heads of a vision tower look on the grid of patches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.analyzers.analyzer import Analyzer, AnalyzerReader, HeadMeanReader, Shape
from interp.attention.rows import AttentionRows
from interp.errors import InputError
from interp.provenance import Provenance
from interp.results import HeadScores

LOCAL = 0.5


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where the patches of an image stand.

    Attributes:
        rows, columns: of the grid.
        lead: tokens in front of the patches, such as [CLS] and registers.
    """

    rows: int
    columns: int
    lead: int

    @classmethod
    def of(cls, n_tokens: int, shape: tuple[int, int]) -> Grid:
        """A grid of this shape at the end of a sequence.

        Raises:
            InputError: the sequence is shorter than the grid.

        Example:
            >>> Grid.of(10, (3, 3))
            Grid(rows=3, columns=3, lead=1)
        """
        rows, columns = shape
        if rows < 1 or columns < 1 or rows * columns > n_tokens:
            raise InputError(
                f"A grid of {rows} x {columns} patches does not fit into {n_tokens} tokens. Give the grid of the image."
            )
        return cls(rows=rows, columns=columns, lead=n_tokens - rows * columns)

    @property
    def places(self) -> Int[Tensor, "patch 2"]:
        """Row and column of every patch."""
        return torch.cartesian_prod(torch.arange(self.rows), torch.arange(self.columns))

    @property
    def offsets(self) -> Int[Tensor, "offset 2"]:
        """Every step from one patch to another: rows down and columns to the right."""
        down, right = (torch.arange(1 - size, size) for size in (self.rows, self.columns))
        return torch.cartesian_prod(down, right)

    @property
    def offset_of(self) -> Int[Tensor, "patch patch"]:
        """Index into `offsets` of the step from each query patch to each key patch."""
        step = self.places[None] - self.places[:, None]
        return (step[..., 0] + self.rows - 1) * (2 * self.columns - 1) + step[..., 1] + self.columns - 1

    @property
    def n_queries(self) -> Int[Tensor, " offset"]:
        """From how many patches each step leads to another patch."""
        return (self.rows - self.offsets[:, 0].abs()) * (self.columns - self.offsets[:, 1].abs())


def offset_sums(
    pattern: Float[Tensor, "*map query key"], offset_of: Int[Tensor, "query key"], n_offsets: int
) -> Float[Tensor, "*map offset"]:
    """Attention summed over all pairs of patches that are one step apart, for every step.

    Example:
        >>> grid = Grid.of(4, (2, 2))
        >>> offset_sums(torch.eye(4), grid.offset_of, 9).tolist()
        [0.0, 0.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0, 0.0]
    """
    sums = pattern.new_zeros(*pattern.shape[:-2], n_offsets)
    return sums.index_add_(-1, offset_of.flatten().to(pattern.device), pattern.flatten(-2))


@dataclass(frozen=True, kw_only=True)
class PatchDistance(Analyzer):
    """How far a head of a vision tower looks, in patches.

    *Formula*, over the queries q that are patches: mean of ``sum_k A[q, k] ||place(q) - place(k)||`` over the keys that
    are patches, Euclidean. *Range* [0, diagonal of the grid]. *Chance*: uniform attention over all visible keys.
    *Columns*, means over queries and images:
        lead mass: attention to the tokens in front of the patches ([CLS], registers).
        hop 0, hop 1, ...: attention to patches that many steps of a king away (Chebyshev distance); with ``lead mass``
            they add up to 1.
        offset mass: attention at the step that has the most, as a mean over the queries from which it stays on the
            grid; steps that fewer than half of the patches can take are left out.
        down, right: that step.
    *Label* ``reach``: "local" where ``offset mass`` exceeds 0.5.
    *Source*: the definitions are ours, after Li et al. 2023, arXiv 2303.13731, who give no formulas.

    Arguments:
        grid: rows and columns of patches; None for those that follow from the size of the pictures and the model's
            ``patch_size``.
    """

    name: ClassVar[str] = "patch-distance"
    reads: ClassVar[frozenset[str]] = frozenset({"vision"})
    grid: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.grid is not None and (len(self.grid) != 2 or min(self.grid) < 1):
            raise InputError(f"{self.name} was given grid={self.grid}: expected rows and columns, such as 24,24.")

    def reader(self, shape: Shape) -> AnalyzerReader:
        grid = shape.patches if self.grid is None else (self.grid[0], self.grid[1])
        if grid is None:
            raise InputError(
                f"How the patches of a picture lie cannot be told from this model. Give {self.name}.grid, as 24,24."
            )
        return _PatchDistance(shape, self.name, grid)


class _PatchDistance(HeadMeanReader):
    """Sums attention by step; everything but the distance of each image follows from these sums."""

    higher_is = "farther"

    def __init__(self, shape: Shape, name: str, grid: tuple[int, int]) -> None:
        super().__init__(shape, name=name, unit="patches", value_range=None)
        self.shape_of_grid = grid
        self._n_tokens = 0
        self._n_queries: dict[int, int] = {}
        self._by_step: dict[int, Float[Tensor, "head offset"]] = {}

    def read_rows(self, rows: AttentionRows) -> None:
        grid = self._grid(rows)
        chosen = (rows.queries >= grid.lead).nonzero().flatten()
        queries = rows.queries[chosen] - grid.lead
        offset_of = grid.offset_of.to(queries.device)[queries]
        distance = grid.offsets.double().norm(dim=-1).to(rows.pattern)[offset_of]
        pattern = rows.pattern[:, :, chosen, grid.lead :]
        n_images, n_heads = pattern.shape[:2]
        counts = torch.full((n_images,), float(len(queries)), dtype=torch.float64)
        sums = torch.stack([(pattern[:, head] * distance).double().sum((1, 2)) for head in range(n_heads)], 1)
        expected = (distance.double().sum() / self._n_tokens).expand(n_images)
        self.add_sums(rows.layer, sums, expected, counts.to(sums.device))
        steps = offset_sums(pattern, offset_of, len(grid.offsets)).double().sum(0).cpu()
        self._by_step[rows.layer] = self._by_step.get(rows.layer, torch.zeros_like(steps)) + steps
        self._n_queries[rows.layer] = self._n_queries.get(rows.layer, 0) + n_images * len(queries)

    def result(self, provenance: Provenance, tokens: list[str]) -> HeadScores:
        scores = super().result(provenance, tokens)
        grid = Grid.of(self._n_tokens, self.shape_of_grid)
        mass = torch.full((*scores.scores.shape, len(grid.offsets)), torch.nan, dtype=torch.float64)
        for layer, steps in self._by_step.items():
            mass[layer, : len(steps)] = steps / self._n_queries[layer]
        hops = grid.offsets.abs().amax(-1)
        columns = {"lead mass": 1 - mass.sum(-1)}
        columns |= {f"hop {hop}": mass[..., hops == hop].sum(-1) for hop in range(int(hops.max()) + 1)}
        columns |= _best_step(mass, grid)
        labels = tuple(tuple("local" if m > LOCAL else "" for m in row) for row in columns["offset mass"].tolist())
        notes = {**scores.notes, "grid": [grid.rows, grid.columns], "leading tokens": grid.lead}
        return replace(scores, columns=columns, labels={"reach": labels}, notes=notes)

    def _grid(self, rows: AttentionRows) -> Grid:
        n_tokens = len(rows.keys)
        if int(rows.keys[0]) > 0 or not bool(rows.visible.all()):
            raise InputError(
                f"In layer {rows.layer} not all patches see each other, so rows are not those of one image in reading "
                f"order. {self.name} reads towers such as CLIP and ViT."
            )
        if self._n_tokens not in (0, n_tokens):
            raise InputError(
                f"Images of {self._n_tokens} and of {n_tokens} tokens have no common grid. Scan images of one size."
            )
        self._n_tokens = n_tokens
        return Grid.of(n_tokens, self.shape_of_grid)


def _best_step(mass: Float[Tensor, "layer head offset"], grid: Grid) -> dict[str, Float[Tensor, "layer head"]]:
    """The step with the most attention among those that at least half of the patches can take."""
    share = grid.n_queries / (grid.rows * grid.columns)
    means = (mass / share).masked_fill(share < 0.5, -torch.inf)
    largest, best = means.max(-1)
    measured = ~mass.isnan().any(-1)
    found = {"offset mass": largest, "down": grid.offsets[best, 0].double(), "right": grid.offsets[best, 1].double()}
    return {name: values.where(measured, torch.nan) for name, values in found.items()}
