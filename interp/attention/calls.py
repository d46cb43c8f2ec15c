"""One attention call with participants: which rows are needed, who sees them, what the layer gets back.

Rows that nobody reads or edits come from the fused kernel (SDPA). Needed rows are computed block by block, shown,
edited, multiplied with the values and forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from interp.attention.kernel import (
    Block,
    Visibility,
    Workspace,
    block_output,
    block_pattern,
    block_scores,
    query_blocks,
    row_dtype,
)
from interp.attention.participants import Editor, Participant, Reader
from interp.attention.rows import AttentionRows, LayerCall, Stream
from interp.attention.sites import AttentionSite
from interp.errors import HookNotLive, ModelNotSupported

UNDERSTOOD = frozenset({"is_causal", "softcap", "s_aux", "position_bias"})
NO_EFFECT = frozenset(
    {
        # Bookkeeping of the model around attention; the window is already part of the mask.
        "sliding_window", "position_ids", "use_cache", "output_router_logits", "output_hidden_states", "deterministic",
        "cache_position", "past_key_values", "return_dict", "logits_to_keep", "labels", "num_items_in_batch",
        "max_seqlen", "cu_seqlens", "layer_idx", "mm_token_type_ids", "pixel_values", "image_grid_thw", "image_sizes",
        "encoder_hidden_states", "encoder_attention_mask", "decoder_input_ids", "interpolate_pos_encoding",
    }
)  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class Variant:
    """What makes this call more than plain softmax attention.

    Attributes:
        scale: factor on the scores.
        causal: without a mask, queries see no later keys.
        softcap: scores become ``cap * tanh(score / cap)`` (Gemma 2).
        bias: added to the scores (T5).
        sink_logits: one logit per head that takes part in the softmax and is dropped (GPT-OSS).
    """

    scale: float
    causal: bool
    softcap: float | None
    bias: Tensor | None
    sink_logits: Tensor | None

    @property
    def fusible(self) -> bool:
        """Whether SDPA can compute it."""
        return self.softcap is None and self.sink_logits is None


def variant_of(
    module: nn.Module, query: Tensor, mask: Tensor | None, scaling: float | None, kwargs: dict[str, Any]
) -> Variant:
    """Read the keywords of an attention call; a keyword that is not understood is refused, never ignored."""
    if kwargs.get("output_attentions"):
        raise ModelNotSupported(
            "output_attentions=True was passed inside a watch() session, where maps are never stored. Leave it out and "
            "use interp.capture_patterns(model, ...) for full maps."
        )
    strange = sorted(
        name for name, value in kwargs.items()
        if value is not None and value is not False and name not in UNDERSTOOD | NO_EFFECT | {"output_attentions"}
    )  # fmt: skip
    if strange:
        raise ModelNotSupported(
            f"{type(module).__name__} passes {', '.join(strange)} to its attention function, which interp does not "
            "understand; ignoring it could give wrong numbers. Please report this model."
        )
    causal = kwargs.get("is_causal")
    causal = bool(getattr(module, "is_causal", True) if causal is None else causal)
    return Variant(
        scale=query.shape[-1] ** -0.5 if scaling is None else float(scaling),
        causal=causal and mask is None and query.shape[2] > 1,
        softcap=kwargs.get("softcap"),
        bias=kwargs.get("position_bias"),
        sink_logits=kwargs.get("s_aux"),
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class CallContext:
    """Where a call stands: its site, its participants, its tokens, and the buffers it may use."""

    site: AttentionSite
    participants: tuple[Participant, ...]
    stream: Stream
    key_stream: Stream
    offset: int
    workspace: Workspace
    max_elements: int
    residual: Tensor | None
    output_weights: Tensor | None


class WatchedCall:
    """One call of one attention module. `run` gives the head outputs ``[batch, query, head, d_value]``."""

    def __init__(
        self,
        context: CallContext,
        module: nn.Module,
        query: Float[Tensor, "batch head query d_head"],
        key: Float[Tensor, "batch kv_head key d_head"],
        value: Float[Tensor, "batch kv_head key d_value"],
        mask: Tensor | None,
        view: Visibility,
        variant: Variant,
    ) -> None:
        self.context, self.module, self.view, self.variant, self.mask = context, module, view, variant, mask
        self.query, self.key, self.value = query, _rows_together(key), _rows_together(value)
        self.decoding = context.site.kind in ("self", "cross") and context.stream.past > 0
        self.queries = torch.arange(query.shape[2], device=query.device) + self._first_query()
        self.keys = torch.arange(key.shape[2], device=query.device) + self._first_key()
        site = context.site
        taking_part = [p for p in context.participants if p.selects(site.layer, site.kind, self.decoding)]
        self.row_editors = [p for p in taking_part if isinstance(p, Editor) and p.overrides(Editor.row_methods)]
        self.row_readers = [p for p in taking_part if isinstance(p, Reader) and p.overrides(Reader.row_methods)]
        self.z_editors = [p for p in taking_part if isinstance(p, Editor) and p.overrides(Editor.call_methods)]
        self.call_readers = [p for p in taking_part if isinstance(p, Reader) and p.overrides(Reader.call_methods)]
        self.end = int(self.queries[-1]) + 1
        self.wanted: dict[Participant, Tensor | None] = {
            p: p.query_indices(self.queries, self.end) for p in (*self.row_editors, *self.row_readers)
        }
        # The next block overwrites the buffers, so autograd must not have saved them.
        self.recycle = not torch.is_grad_enabled()

    def run(self) -> Float[Tensor, "batch query head d_value"]:
        """Compute, show and edit this call."""
        needed = self._needed_queries()
        observers = [e for e in self.row_editors if type(e).observe_rows is not Editor.observe_rows]
        if observers:
            for block in self._blocks(needed):
                rows = self._rows(block)
                for editor in observers:
                    self._show(editor, editor.observe_rows, rows)
        every_row = len(needed) == self.query.shape[2]
        z = None if every_row else self._fused()
        pieces: list[Tensor] = []
        for block in self._blocks(needed):
            rows, changed = self._edit(self._rows(block))
            for reader in self.row_readers:
                self._show(reader, reader.read_rows, rows)
            if every_row:
                pieces.append(block_output(rows.pattern, self.value, block))
            elif changed:
                assert z is not None
                z = z.index_copy(
                    1, block.queries.to(z.device), block_output(rows.pattern, self.value, block).to(z.dtype)
                )
        return self._finish(torch.cat(pieces, 1) if z is None else z)

    def _finish(self, z: Float[Tensor, "batch query head d_value"]) -> Float[Tensor, "batch query head d_value"]:
        z = z.to(self.query.dtype)
        for editor in self.z_editors:
            edited = editor.edit_z(self._call(z))
            z = z if edited is None else _same_shape(edited, z, editor, "edit_z")
        for reader in self.call_readers:
            reader.read_call(self._call(z))
        return z.contiguous()

    def _edit(self, rows: AttentionRows) -> tuple[AttentionRows, bool]:
        changed = False
        for editor in self.row_editors:
            if type(editor).edit_rows is Editor.edit_rows:
                continue
            part = self._part(editor, rows)
            if part is None:
                continue
            edited = editor.edit_rows(part)
            if edited is None:
                continue
            edited = _same_shape(edited, part.pattern, editor, "edit_rows")
            if part is not rows:
                edited = rows.pattern.index_copy(2, self._overlap(editor, rows), edited)
            rows, changed = rows.edited(edited), True
        return rows, changed

    def _show(self, participant: Participant, method: Any, rows: AttentionRows) -> None:
        part = self._part(participant, rows)
        if part is not None:
            method(part)

    def _part(self, participant: Participant, rows: AttentionRows) -> AttentionRows | None:
        """The rows of a block that a participant asked for; the block itself when it wants all of them."""
        if self.wanted[participant] is None:
            return rows
        overlap = self._overlap(participant, rows)
        if len(overlap) == 0:
            return None
        return rows if len(overlap) == len(rows.queries) else rows.at(overlap)

    def _overlap(self, participant: Participant, rows: AttentionRows) -> Int[Tensor, " row"]:
        wanted = self.wanted[participant]
        assert wanted is not None
        return torch.isin(rows.queries, self.queries[wanted]).nonzero().squeeze(-1)

    def _needed_queries(self) -> Int[Tensor, " query"]:
        every = torch.arange(self.query.shape[2])
        wanted = list(self.wanted.values())
        if not self.variant.fusible or any(indices is None for indices in wanted):
            return every
        chosen = [indices.cpu() for indices in wanted if indices is not None]
        needed = torch.cat(chosen).unique() if chosen else every[:0]
        # Where most rows are needed, computing the others too costs less than a fused run of all of them.
        return every if 2 * len(needed) > len(every) else needed

    def _blocks(self, needed: Int[Tensor, " query"]) -> Sequence[Block]:
        width = self.query.shape[0] * self.query.shape[1]
        return list(query_blocks(needed, self.key.shape[2], self.view, width, self.context.max_elements))

    def _rows(self, block: Block) -> AttentionRows:
        query = block.rows_of(self.query, 2)
        shape = (*query.shape[:3], block.end_key - block.first_key)
        in_buffers = self.recycle and row_dtype(query.dtype) == torch.float32
        buffer = self.context.workspace.take if in_buffers else None
        variant = self.variant
        scores = block_scores(
            query, self.key, block, self.view, scale=variant.scale, softcap=variant.softcap, bias=variant.bias,
            out=buffer("scores", shape, query.device) if buffer else None,
        )  # fmt: skip
        pattern = block_pattern(
            scores, block, self.view, sink_logits=variant.sink_logits,
            out=buffer("pattern", shape, query.device) if buffer else None,
        )  # fmt: skip
        return AttentionRows(
            layer=self.context.site.layer,
            kind=self.context.site.kind,
            pattern=pattern,
            scores=scores,
            queries=self.queries[block.queries.to(self.queries.device)],
            keys=self.keys[block.first_key : block.end_key],
            stream=self.context.stream,
            key_stream=self.context.key_stream,
            decoding=self.decoding,
            sink_logit=variant.sink_logits is not None,
        )

    def _fused(self) -> Float[Tensor, "batch query head d_value"]:
        # The keyword decides about causality, so it must say what the module would have said.
        return sdpa_attention_forward(
            self.module, self.query, self.key, self.value, self.mask,
            scaling=self.variant.scale, is_causal=self.variant.causal, position_bias=self.variant.bias,
        )[0]  # fmt: skip

    def _call(self, z: Float[Tensor, "batch query head d_value"]) -> LayerCall:
        return LayerCall(
            layer=self.context.site.layer,
            kind=self.context.site.kind,
            query=self.query,
            key=self.key,
            value=self.value,
            z=z,
            scale=self.variant.scale,
            queries=self.queries,
            keys=self.keys,
            stream=self.context.stream,
            key_stream=self.context.key_stream,
            decoding=self.decoding,
            residual=self.context.residual,
            output_weights=self.context.output_weights,
        )

    def _first_query(self) -> int:
        kind = self.context.site.kind
        return self.context.stream.past if kind in ("self", "cross") else self.context.offset

    def _first_key(self) -> int:
        """A sliding-window cache keeps only the latest keys, so its first column is not position 0."""
        if self.context.site.kind == "self":
            return max(0, self.context.stream.past + self.query.shape[2] - self.key.shape[2])
        return self.context.offset if self.context.site.kind == "vision" else 0


def _rows_together(states: Tensor) -> Tensor:
    """A tensor whose last two axes are dense, as matrix products want them; the heads may lie apart."""
    return states if states.stride()[-2:] == (states.shape[-1], 1) else states.contiguous()


def _same_shape(edited: Tensor, original: Tensor, editor: Editor, method: str) -> Tensor:
    if edited.shape != original.shape:
        raise HookNotLive(
            f"{type(editor).__name__}.{method} returned shape {tuple(edited.shape)} for {tuple(original.shape)}; "
            "return a tensor of the same shape, or None to leave it."
        )
    return edited.to(original.dtype)
