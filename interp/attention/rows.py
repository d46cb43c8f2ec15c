"""What a participant sees: blocks of attention rows, whole layer calls, and the tokens they belong to.

Vocabulary:
    position   column of the token tensor, padding included, counted from the start of the sequence (not of the call)
    call       one run of one layer's attention: the whole prompt (prefill) or, while decoding, the new tokens
    block      some query rows of one call, over the keys that any of them can see
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.attention.kernel import MASKED


@dataclass(frozen=True, eq=False)
class Stream:
    """The tokens of one sequence batch as known when a forward pass starts.

    Attributes:
        tokens: ids of every position seen so far, ``[batch, position]``; -1 where only embeddings were given;
            None for streams without token ids (image patches).
        valid: False at padding, ``[batch, position]``; None when nothing is padded or nothing is known.
        past: positions already in the cache before this pass; 0 at prefill.
        images: True at tokens that stand for a patch of an image: one id for all of them, whatever they show. None
            where there are none.
    """

    tokens: Int[Tensor, "batch position"] | None
    valid: Bool[Tensor, "batch position"] | None
    past: int
    images: Bool[Tensor, "batch position"] | None = None


@dataclass(eq=False, kw_only=True)
class AttentionRows:
    """One block of attention rows, valid only while the participant's method runs: clone what you keep.

    Attributes:
        layer: zero-based layer inside its stack.
        kind: ``"self"``, ``"encoder"``, ``"cross"`` or ``"vision"``.
        pattern: probabilities ``[batch, head, query, key]``, float32; rows sum to 1, or to less with a sink logit;
            rows of fully masked (padding) queries are zero.
        scores: the scaled, soft-capped and biased scores before the softmax, same shape; masked entries hold the
            smallest finite float32. Present until an editor has changed the pattern, then None.
        queries: absolute position of every query row, ascending.
        keys: absolute position of every key column; a run of consecutive numbers.
        stream: the tokens of the queries; `key_stream` those of the keys (another one only for cross attention).
        decoding: True when the call continues a cache.
        sink_logit: True when a learned sink logit takes part of every row's mass (GPT-OSS).
    """

    layer: int
    kind: str
    pattern: Float[Tensor, "batch head query key"]
    scores: Float[Tensor, "batch head query key"] | None
    queries: Int[Tensor, " query"]
    keys: Int[Tensor, " key"]
    stream: Stream
    key_stream: Stream
    decoding: bool
    sink_logit: bool

    @cached_property
    def query_valid(self) -> Bool[Tensor, "batch query"] | None:
        """False for padding queries, whose rows mean nothing; None when no query is padding."""
        return _columns(self.stream.valid, self.queries)

    @cached_property
    def key_valid(self) -> Bool[Tensor, "batch key"] | None:
        """False for padding keys; None when no key is padding."""
        return _columns(self.key_stream.valid, self.keys)

    @cached_property
    def visible(self) -> Bool[Tensor, "batch query key"]:
        """Which keys each real query sees (the same for all heads); all False for padding queries."""
        assert self.scores is not None  # `edited` hands the answer on before it drops the scores
        visible = self.scores[:, 0] > MASKED / 2
        return visible if self.query_valid is None else visible & self.query_valid[..., None]

    @cached_property
    def n_visible(self) -> Float[Tensor, "batch query"]:
        """Number of keys that each query sees; 0 for padding queries."""
        return self.visible.sum(-1).double()

    @cached_property
    def first_key(self) -> Int[Tensor, " batch"]:
        """Position of the first real key of each sequence (more than 0 under left padding)."""
        if self.key_stream.valid is None:
            return torch.zeros(self.pattern.shape[0], dtype=torch.long, device=self.pattern.device)
        return self.key_stream.valid.long().argmax(-1).to(self.pattern.device)

    @cached_property
    def entropy(self) -> Float[Tensor, "batch head query"]:
        """Shannon entropy of every row in nats, in [0, log(number of visible keys)].

        With the scores at hand it is ``logsumexp - sum(pattern * score)``, no logarithm of the map; the log-sum-exp is
        the largest score minus the logarithm of the largest probability.
        """
        if self.scores is None:
            return -torch.special.xlogy(self.pattern, self.pattern).sum(-1)
        log_sum_exp = self.scores.amax(-1) - self.pattern.amax(-1).log()
        mass = self.pattern.sum(-1)
        expected = torch.empty_like(mass)
        for head in range(self.pattern.shape[1]):  # one head at a time: the product stays in the cache
            expected[:, head] = (self.pattern[:, head] * self.scores[:, head]).sum(-1)
        return torch.where(mass > 0, (mass * log_sum_exp - expected).clamp_min(0), 0)

    def at(self, rows: Int[Tensor, " row"]) -> AttentionRows:
        """The same block reduced to the query rows with these indices."""
        part = replace(
            self,
            pattern=_selected(self.pattern, 2, rows),
            scores=None if self.scores is None else _selected(self.scores, 2, rows),
            queries=_selected(self.queries, 0, rows),
        )
        if self.scores is None:
            part.__dict__["visible"] = _selected(self.visible, 1, rows)
        return part

    def edited(self, pattern: Float[Tensor, "batch head query key"]) -> AttentionRows:
        """The same block with another pattern; its scores no longer describe it and are dropped."""
        changed = replace(self, pattern=pattern, scores=None)
        changed.__dict__["visible"] = self.visible
        return changed


@dataclass(eq=False, kw_only=True)
class LayerCall:
    """One whole attention call of one layer, after its rows were read and edited.

    Attributes:
        layer, kind, stream, key_stream, decoding: as in `AttentionRows`.
        query: post-RoPE queries ``[batch, head, query, d_head]``.
        key, value: post-RoPE keys and values ``[batch, kv_head, key, d_head]``, cache included; query head ``h``
            uses KV head ``h // (n_heads // n_kv_heads)``.
        z: head outputs before the output projection, ``[batch, query, head, d_head]``.
        scale: factor on ``query @ key``.
        queries, keys: absolute positions.
        residual: input of the layer's block ``[batch, query, d_model]`` (TransformerLens' ``resid_pre``); None
            unless a participant asked for it.
        output_weights: W_O of every head ``[head, d_head, d_model]``, a view of the model's weight; None where no
            single matrix takes the heads' outputs, or its numbers are not at hand. A norm or factor may follow it.
    """

    layer: int
    kind: str
    query: Float[Tensor, "batch head query d_head"]
    key: Float[Tensor, "batch kv_head key d_head"]
    value: Float[Tensor, "batch kv_head key d_value"]
    z: Float[Tensor, "batch query head d_value"]
    scale: float
    queries: Int[Tensor, " query"]
    keys: Int[Tensor, " key"]
    stream: Stream
    key_stream: Stream
    decoding: bool
    residual: Float[Tensor, "batch query d_model"] | None = field(default=None)
    output_weights: Float[Tensor, "head d_value d_model"] | None = field(default=None)

    @cached_property
    def query_valid(self) -> Bool[Tensor, "batch query"] | None:
        """False for padding queries; None when no query is padding."""
        return _columns(self.stream.valid, self.queries)


def _selected(tensor: Tensor, dim: int, indices: Int[Tensor, " some"]) -> Tensor:
    """Entries along `dim` with ascending indices: a view for a run of them, a copy otherwise."""
    first, last = (int(indices[0]), int(indices[-1])) if len(indices) else (0, -1)
    if last - first == len(indices) - 1:
        return tensor.narrow(dim, first, len(indices))
    return tensor.index_select(dim, indices)


def _columns(
    valid: Bool[Tensor, "batch position"] | None, positions: Int[Tensor, " some"]
) -> Bool[Tensor, "batch some"] | None:
    return None if valid is None else valid.to(positions.device).index_select(1, positions)
