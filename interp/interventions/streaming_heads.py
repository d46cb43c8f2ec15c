"""`StreamingHeads`: chosen heads see the first and the most recent keys only."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from interp.attention.participants import Editor
from interp.attention.rows import AttentionRows, LayerCall
from interp.errors import InputError, ModelNotSupported

BLOCK = 256


def streaming_attention(
    query: Float[Tensor, "batch head query d_head"],
    key: Float[Tensor, "batch kv_head key d_head"],
    value: Float[Tensor, "batch kv_head key d_value"],
    *,
    sink: int,
    recent: int,
    scale: float,
    first_query: int = 0,
) -> Float[Tensor, "batch query head d_value"]:
    """Causal attention in which query i sees key j only if ``j < sink`` or ``i - j < recent`` (itself included).

    Blocks of queries gather the keys they may see, so time and memory are ``queries * (sink + recent)``, not the square
    of the length.
    *Source*: Xiao et al. 2024, arXiv 2410.10819 (the streaming head of DuoAttention); positions are the real ones.

    Arguments:
        first_query: position of the first query among the keys.
    """
    pieces: list[Tensor] = []
    for start in range(0, query.shape[2], BLOCK):
        part = query[:, :, start : start + BLOCK]
        positions = torch.arange(part.shape[2], device=query.device) + first_query + start
        first, end = int(positions[0]), int(positions[-1]) + 1
        edge = min(sink, end)
        columns = [torch.arange(edge), torch.arange(max(edge, first - recent + 1), end)]
        keys = torch.cat(columns).to(query.device)
        seen = streaming_keys(positions, keys, sink=sink, recent=recent)
        pieces.append(
            scaled_dot_product_attention(
                part, key[:, :, keys], value[:, :, keys], attn_mask=seen, scale=scale, enable_gqa=True
            )
        )
    return torch.cat(pieces, 2).transpose(1, 2)


def streaming_keys(
    queries: Int[Tensor, " query"], keys: Int[Tensor, " key"], *, sink: int, recent: int
) -> Bool[Tensor, "query key"]:
    """Which keys a streaming head sees, by position.

    Example:
        >>> streaming_keys(torch.tensor([6]), torch.arange(8), sink=2, recent=3)[0].nonzero().flatten().tolist()
        [0, 1, 4, 5, 6]
    """
    distance = queries[:, None] - keys
    return (distance >= 0) & ((keys < sink) | (distance < recent))


class StreamingHeads(Editor):
    """Lets chosen heads attend to sinks and recent tokens only, as if their cache held nothing else.

    Identity, bitwise: no head chosen, or no sequence longer than ``sink + recent``.

    *Difference from StreamingLLM* (arXiv 2309.17453): keys keep the positions they have in the text, where that method
    counts positions in its cache; and of several new tokens each drops its own keys, not those of the last one.

    The attention of these heads is computed anew from queries and keys, so every call is checked to be plain causal
    softmax attention on its last row: soft caps, sink logits, biases and sliding windows are refused.

    Arguments:
        heads: True for a streaming head.
        sink: first positions that stay visible.
        recent: latest positions that stay visible, the query's own included.

    Example:
        >>> import interp
        >>> model = interp.load("mini")
        >>> tokens = model.to_tokens("Then Mary gave a ring to John")
        >>> heads = torch.ones(model.n_layers, model.n_heads, dtype=torch.bool)
        >>> with interp.watch(model, StreamingHeads(heads, sink=1, recent=2)):
        ...     _ = model(tokens)
    """

    queries = torch.tensor([-1])

    def __init__(self, heads: Bool[Tensor, "layer head"], *, sink: int, recent: int) -> None:
        if sink < 0 or recent < 1:
            raise InputError(f"sink={sink}, recent={recent}: expected at least 0 and 1, since a token sees itself.")
        self.heads, self.sink, self.recent = heads, sink, recent
        self.layers = frozenset(heads.any(-1).nonzero().flatten().tolist())
        self._last_row: AttentionRows | None = None

    def observe_rows(self, rows: AttentionRows) -> None:
        assert rows.scores is not None
        # The buffers of a block are used again.
        self._last_row = replace(rows, scores=rows.scores.clone())

    def edit_z(self, call: LayerCall) -> Float[Tensor, "batch query head d_value"] | None:
        if int(call.queries[-1]) < self.sink + self.recent:
            return None  # every query sees all there is
        self._check(call)
        streaming = streaming_attention(
            call.query, call.key, call.value,
            sink=self.sink, recent=self.recent, scale=call.scale, first_query=int(call.queries[0]),
        )  # fmt: skip
        chosen = self.heads[call.layer, : call.z.shape[2]].to(call.z.device)
        return torch.where(chosen[:, None], streaming.to(call.z.dtype), call.z)

    def _check(self, call: LayerCall) -> None:
        """Refuse attention that a product of queries and keys does not describe."""
        row = self._last_row
        assert row is not None and row.scores is not None
        if call.stream.valid is not None and not bool(call.stream.valid[:, 0].all()):
            raise InputError("Streaming heads count sinks from the first column. Pad on the right, or not at all.")
        real = torch.ones_like(row.visible) if row.query_valid is None else row.query_valid[..., None]
        sees_all = len(row.keys) == call.key.shape[2] and int(row.keys[0]) == 0 and bool((row.visible | ~real).all())
        if not sees_all or row.sink_logit or not self._explained(row.scores, row.visible, call):
            raise ModelNotSupported(
                f"Layer {call.layer} is not plain causal softmax attention (soft cap, sink logit, bias or sliding "
                "window), so its streaming heads would be computed wrongly. Leave the layer out of the chosen heads."
            )

    def _explained(
        self, scores: Float[Tensor, "batch head 1 key"], visible: Bool[Tensor, "batch 1 key"], call: LayerCall
    ) -> bool:
        """Whether the scores of the last row are products of its query with the keys."""
        keys = call.key.repeat_interleave(call.query.shape[1] // call.key.shape[1], 1)
        expected = (call.query[:, :, -1:] @ keys.transpose(-1, -2)) * call.scale
        tolerance = 1e-2 if call.query.dtype in (torch.float16, torch.bfloat16) else 1e-4
        close = torch.isclose(expected.to(scores), scores, rtol=tolerance, atol=tolerance)
        return bool((close | ~visible[:, None]).all())
