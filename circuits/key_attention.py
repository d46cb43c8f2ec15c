"""Attention of every head between the named positions of a task's prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.forward import answer_logits, batches
from circuits.tasks import Task, TaskPrompts
from interp.attention.participants import Reader
from interp.attention.rows import AttentionRows
from interp.model.model import Model

TypeKind = Literal["previous", "duplicate", "induction"]
ReadKind = Literal["answer", "wrong", "content"]
Kind = TypeKind | ReadKind


@dataclass(frozen=True, kw_only=True)
class KeyPair:
    """A query position and an earlier key position, and what attention between them means.

    Attributes:
        reads: what stands at the key in every prompt: the answer's token, the wrong one's, or other content.
        types: which type of head attends so in every prompt: to the token before (``previous``), to an earlier copy of
            the query's token (``duplicate``), to what followed an earlier copy (``induction``; from the answer position
            only where the answer stands there, since greater-than looks for the year itself, not for what followed
            the century).
        chance: what uniform attention would give, averaged over prompts.
    """

    query: str
    key: str
    reads: ReadKind
    types: tuple[TypeKind, ...]
    chance: float

    @property
    def label(self) -> str:
        """As in print: ``END->IO``."""
        return f"{self.query}->{self.key}"


def key_pairs(task: Task, prompts: TaskPrompts) -> list[KeyPair]:
    """All pairs of the task's named positions of which the key stands before the query in every prompt.

    Pairs from the answer position come first.
    """
    names = sorted(task.key_positions, key=lambda name: name != task.answer_position)
    at = prompts.positions
    return [
        KeyPair(
            query=query,
            key=key,
            reads=_reads(prompts, at[key]),
            types=_types(prompts, at[query], at[key], final=query == task.answer_position),
            chance=float((1 / (at[query] + 1)).mean()),
        )
        for query in names
        for key in task.key_positions
        if bool((at[key] < at[query]).all())
    ]


def _reads(prompts: TaskPrompts, key: Int[Tensor, " prompt"]) -> ReadKind:
    token = prompts.clean.gather(1, key[:, None]).squeeze(1)
    if bool((token == prompts.answer).all()):
        return "answer"
    return "wrong" if bool((token == prompts.wrong).all()) else "content"


def _types(
    prompts: TaskPrompts, query: Int[Tensor, " prompt"], key: Int[Tensor, " prompt"], *, final: bool
) -> tuple[TypeKind, ...]:
    own, seen, before = prompts.clean.gather(1, torch.stack([query, key, (key - 1).clamp_min(0)], 1)).unbind(1)
    rules: dict[TypeKind, Tensor] = {
        "previous": key == query - 1,
        "duplicate": own == seen,
        "induction": (own == before) & (key > 0) & (seen == prompts.answer if final else True),
    }
    return tuple(kind for kind, holds in rules.items() if bool(holds.all()))


def key_attention(
    model: Model, task: Task, prompts: TaskPrompts, pairs: Sequence[KeyPair], *, batch_size: int = 64
) -> dict[str, Float[Tensor, "layer head"]]:
    """Mean attention of every head over the clean prompts, by the pair's label; NaN for absent heads.

    Only the rows of the named queries are computed; the others stay on the fused kernel.
    """
    totals = {pair.label: torch.full((model.n_layers, model.n_heads), torch.nan, dtype=torch.float64) for pair in pairs}
    for _, batch in batches(prompts, task, batch_size) if pairs else ():
        reader = _KeyReader(batch, pairs)
        with torch.inference_mode():
            answer_logits(model, batch.clean, batch.positions[task.answer_position], reader)
        for (label, layer), mass in reader.mass.items():
            total = totals[label][layer, : len(mass)]
            total.copy_(total.nan_to_num(0) + mass.cpu() / len(prompts))
    return {label: total.float() for label, total in totals.items()}


class _KeyReader(Reader):
    """Sums, over prompts, of the attention between their named positions."""

    def __init__(self, batch: TaskPrompts, pairs: Sequence[KeyPair]) -> None:
        self.pairs, self.positions = pairs, batch.positions
        self.queries = torch.cat([batch.positions[pair.query] for pair in pairs]).unique()
        self.mass: dict[tuple[str, int], Float[Tensor, " head"]] = {}

    def read_rows(self, rows: AttentionRows) -> None:
        device = rows.pattern.device
        for pair in self.pairs:
            query, key = (self.positions[name].to(device) for name in (pair.query, pair.key))
            column = key - rows.keys[0]
            inside = torch.isin(query, rows.queries) & (column >= 0) & (column < len(rows.keys))
            (prompt,) = inside.nonzero(as_tuple=True)
            row = torch.searchsorted(rows.queries, query[prompt])
            mass = rows.pattern[prompt, :, row, column[prompt]].double().sum(0)
            place = (pair.label, rows.layer)
            self.mass[place] = self.mass[place] + mass if place in self.mass else mass
