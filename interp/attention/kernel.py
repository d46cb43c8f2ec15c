"""The arithmetic of attention in blocks of queries: pure functions on tensors, no model.

A block needs ``batch * head * query * key`` numbers twice (scores and pattern); its number of queries follows from a
memory budget, so peak memory does not grow with the square of the context.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

MASKED = torch.finfo(torch.float32).min
MAX_BLOCK_QUERIES = 128


@dataclass(frozen=True, eq=False, kw_only=True)
class Visibility:
    """Which keys each query may see.

    Attributes:
        mask: True or an additive float where attention is allowed, ``[batch or 1, head or 1, query, key]``; None when
            `causal` says it all.
        causal: with no mask, query ``i`` of the call sees keys ``0..i`` (else every key).
        first, last: smallest and largest visible key per query over the batch, on the CPU; None without a mask.
        blind: queries that see nothing (padding), ``[batch or 1, head or 1, query]``; None when there are none.
    """

    mask: Tensor | None
    causal: bool
    first: Int[Tensor, " query"] | None = None
    last: Int[Tensor, " query"] | None = None
    blind: Bool[Tensor, "batch head query"] | None = None


def visibility(mask: Tensor | None, causal: bool) -> Visibility:
    """Read the key range of every query from a mask once, so that blocks skip what nobody sees."""
    if mask is None:
        return Visibility(mask=None, causal=causal)
    allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    sees = allowed.any(-1)
    columns = allowed.flatten(0, 1).any(0)
    first = columns.int().argmax(-1)
    last = columns.shape[-1] - 1 - columns.flip(-1).int().argmax(-1)
    blind = None if bool(sees.all()) else ~sees
    return Visibility(mask=mask, causal=False, first=first.cpu(), last=last.cpu(), blind=blind)


@dataclass(frozen=True, eq=False)
class Block:
    """Query rows `queries` (indices within the call) over keys ``first_key:end_key``; `start` if rows are a run."""

    queries: Int[Tensor, " query"]
    first_key: int
    end_key: int
    start: int | None

    def rows_of(self, tensor: Tensor, dim: int) -> Tensor:
        """The block's query rows along `dim`: a view for a run of rows, a copy otherwise."""
        if self.start is not None:
            return tensor.narrow(dim, self.start, len(self.queries))
        return tensor.index_select(dim, self.queries.to(tensor.device))


def query_blocks(
    queries: Int[Tensor, " query"],
    n_keys: int,
    view: Visibility,
    row_width: int,
    max_elements: int,
) -> Iterator[Block]:
    """Cut the wanted queries (ascending indices on the CPU) into blocks of at most `max_elements` scores.

    `row_width` is ``batch * head``, the number of rows that one query stands for. A block always holds at least one
    query, whatever the budget.
    """
    contiguous = len(queries) > 0 and int(queries[-1] - queries[0]) == len(queries) - 1
    position = 0
    while position < len(queries):
        widest = _key_range(queries[position : position + MAX_BLOCK_QUERIES], n_keys, view)
        budget = max_elements // max(1, row_width * (widest[1] - widest[0]))
        size = max(1, min(MAX_BLOCK_QUERIES, budget))
        chunk = queries[position : position + size]
        first_key, end_key = _key_range(chunk, n_keys, view)
        yield Block(chunk, first_key, end_key, int(chunk[0]) if contiguous else None)
        position += size


def _key_range(chunk: Int[Tensor, " query"], n_keys: int, view: Visibility) -> tuple[int, int]:
    if view.first is not None and view.last is not None:
        return int(view.first[chunk].min()), int(view.last[chunk].max()) + 1
    return 0, min(n_keys, int(chunk[-1]) + 1) if view.causal else n_keys


class Workspace:
    """Reusable block-sized buffers; allocating them for every block costs more than the arithmetic on them."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """A float32 tensor of this shape cut from the named buffer, which grows when needed."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        inference = torch.is_inference_mode_enabled()
        if buffer is None or buffer.numel() < size or buffer.device != device or buffer.is_inference() != inference:
            buffer = torch.empty(size, dtype=torch.float32, device=device)
            self._buffers[name] = buffer
        return buffer[:size].view(shape)


def row_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of scores and patterns: half precision is raised to float32, float64 stays."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def block_scores(
    query: Float[Tensor, "batch head query d_head"],
    key: Float[Tensor, "batch kv_head position d_head"],
    block: Block,
    view: Visibility,
    *,
    scale: float,
    softcap: float | None = None,
    bias: Tensor | None = None,
    out: Tensor | None = None,
) -> Float[Tensor, "batch head query key"]:
    """Masked scores of one block in float32 (float64 for a float64 model).

    `query` holds the block's rows only, `key` every position of the call. Soft capping comes before the bias, the bias
    before the mask, as in Gemma 2 and T5. Without autograd the result is written into `out`.
    """
    batch, n_heads, n_queries, d_head = query.shape
    n_kv_heads, n_keys = key.shape[1], block.end_key - block.first_key
    keys = key[:, :, block.first_key : block.end_key].transpose(-1, -2)
    grouped = query.reshape(batch, n_kv_heads, n_heads // n_kv_heads * n_queries, d_head)
    if out is not None and query.dtype == torch.float32:
        target = out.view(batch * n_kv_heads, -1, n_keys)
        torch.baddbmm(target, grouped.flatten(0, 1), keys.flatten(0, 1), beta=0, alpha=scale, out=target)
        scores = out
    else:
        scores = ((grouped @ keys) * scale).to(row_dtype(query.dtype)).view(batch, n_heads, n_queries, n_keys)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if bias is not None:
        scores = scores + block.rows_of(bias[..., block.first_key : block.end_key], 2)
    return _masked(scores, block, view, in_place=out is not None)


def _masked(scores: Tensor, block: Block, view: Visibility, in_place: bool) -> Tensor:
    fill = Tensor.masked_fill_ if in_place else Tensor.masked_fill
    if view.mask is not None:
        mask = block.rows_of(view.mask, 2)[..., block.first_key : block.end_key]
        if mask.dtype == torch.bool:
            return fill(scores, ~mask, MASKED)
        return torch.where(mask > torch.finfo(mask.dtype).min / 2, scores + mask, MASKED)
    if not view.causal:
        return scores
    seen_by_all = int(block.queries[0]) + 1
    keys = torch.arange(seen_by_all, block.end_key, device=scores.device)
    hidden = keys > block.queries.to(scores.device)[:, None]
    if in_place:
        scores[..., seen_by_all:].masked_fill_(hidden, MASKED)
        return scores
    visible = torch.zeros(len(block.queries), seen_by_all, dtype=torch.bool, device=scores.device)
    return scores.masked_fill(torch.cat([visible, hidden], -1), MASKED)


def block_pattern(
    scores: Float[Tensor, "batch head query key"],
    block: Block,
    view: Visibility,
    *,
    sink_logits: Float[Tensor, " head"] | None = None,
    out: Tensor | None = None,
) -> Float[Tensor, "batch head query key"]:
    """Softmax over the keys, in the dtype of the scores.

    A sink logit takes part in the sum and is dropped; blind rows become zero.
    """
    if sink_logits is not None:
        sink = sink_logits.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
        pattern = torch.cat([scores, sink], -1).softmax(-1)[..., :-1]
    elif out is not None:
        pattern = torch.softmax(scores, -1, out=out)
    else:
        pattern = scores.softmax(-1)
    if view.blind is None:
        return pattern
    return pattern.masked_fill(block.rows_of(view.blind, 2)[..., None], 0)


def block_output(
    pattern: Float[Tensor, "batch head query key"],
    value: Float[Tensor, "batch kv_head position d_value"],
    block: Block,
) -> Float[Tensor, "batch query head d_value"]:
    """Head outputs ``pattern @ value`` of one block, in the dtype of the values."""
    batch, n_heads, n_queries, n_keys = pattern.shape
    n_kv_heads = value.shape[1]
    values = value[:, :, block.first_key : block.end_key]
    grouped = pattern.to(value.dtype).reshape(batch, n_kv_heads, n_heads // n_kv_heads * n_queries, n_keys)
    return (grouped @ values).view(batch, n_heads, n_queries, -1).transpose(1, 2)
