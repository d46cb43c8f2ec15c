"""Full attention maps, for the times when a user does want them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.attention.participants import Reader
from interp.attention.rows import AttentionRows, LayerCall
from interp.attention.session import watch
from interp.errors import InputError
from interp.heads import HeadRef
from interp.model.model import Inputs, Model
from interp.model.tokens import TokenBatch
from interp.results import Provenance

DEFAULT_MAX_BYTES = 2**30


@dataclass(frozen=True, eq=False, kw_only=True)
class Capture:
    """Attention maps and head outputs of one forward pass.

    Attributes:
        patterns: layer -> ``[batch, head, query, key]`` float32; only the chosen heads and query rows. A batch entry is
            a text, in a vision tower whatever the tower takes as one.
        gradients: layer -> gradient of the metric with respect to the pattern, same shape, 0 at keys that a query
            cannot see; empty without a metric.
        z: layer -> head outputs ``[batch, query, head, d_head]``; empty unless asked for.
        queries_and_keys: layer -> post-RoPE queries ``[batch, head, query, d_head]`` and keys
            ``[batch, kv_head, key, d_head]``; empty unless asked for.
        heads: the captured heads of each layer, in the order of the head axis.
        query_positions: absolute positions of the query axis.
        logits: of the same pass.
        tokens: token ids ``[text, position]``.
        str_tokens: text of every token, one list per sequence; None without a tokenizer.
        provenance: model, prompts and parameters.
    """

    patterns: dict[int, Float[Tensor, "batch head query key"]]
    gradients: dict[int, Float[Tensor, "batch head query key"]]
    z: dict[int, Float[Tensor, "batch query head d_head"]]
    queries_and_keys: dict[int, tuple[Tensor, Tensor]]
    heads: dict[int, tuple[int, ...]]
    query_positions: Int[Tensor, " query"]
    logits: Tensor
    tokens: Int[Tensor, "text position"]
    str_tokens: list[list[str]] | None
    provenance: Provenance

    def __getitem__(self, head: object) -> Float[Tensor, "batch query key"]:
        """The map of one head, given as ``"L1H3"``, ``"1.3"``, ``(1, 3)`` or `HeadRef`."""
        ref = HeadRef.parse(head)
        if ref.layer not in self.heads or ref.head not in self.heads[ref.layer]:
            raise InputError(f"{ref.label} was not captured. Ask for it with layers= or heads=.")
        return self.patterns[ref.layer][:, self.heads[ref.layer].index(ref.head)]


class _Extent(Reader):
    """How many queries and keys attention of one kind has."""

    queries = torch.arange(0)

    def __init__(self, kind: str) -> None:
        self.kinds = frozenset({kind})
        self.n_queries = self.n_keys = 0

    def read_call(self, call: LayerCall) -> None:
        self.n_queries = max(self.n_queries, int(call.queries[-1]) + 1)
        self.n_keys = max(self.n_keys, int(call.keys[-1]) + 1)


class _Capturer(Reader):
    """Writes blocks into full maps; in gradient mode keeps the blocks themselves, which are part of the graph."""

    def __init__(
        self, kind: str, heads: dict[int, tuple[int, ...]], queries: Tensor, n_keys: int, wants: frozenset[str]
    ) -> None:
        self.kinds, self.layers = frozenset({kind}), frozenset(heads)
        self.queries = self.positions = queries
        self.heads, self.n_keys, self.wants = heads, n_keys, wants
        self.patterns: dict[int, Tensor] = {}
        self.blocks: dict[int, list[tuple[Tensor, ...]]] = {}
        self.z: dict[int, Tensor] = {}
        self.queries_and_keys: dict[int, tuple[Tensor, Tensor]] = {}

    def read_rows(self, rows: AttentionRows) -> None:
        if "gradients" in self.wants:
            self.blocks.setdefault(rows.layer, []).append((rows.pattern, rows.visible, rows.queries, rows.keys))
        self.place(self.patterns, rows.layer, rows.pattern.detach(), rows.queries, rows.keys)

    def read_call(self, call: LayerCall) -> None:
        heads = list(self.heads[call.layer])
        if "z" in self.wants:
            self.z[call.layer] = call.z[:, :, heads].detach().clone()
        if "queries_and_keys" in self.wants:
            self.queries_and_keys[call.layer] = (call.query[:, heads].detach().clone(), call.key.detach().clone())

    def place(self, store: dict[int, Tensor], layer: int, block: Tensor, queries: Tensor, keys: Tensor) -> None:
        """Write one block into the full map of its layer."""
        heads = list(self.heads[layer])
        if layer not in store:
            shape = (block.shape[0], len(heads), len(self.positions), self.n_keys)
            store[layer] = torch.zeros(shape, dtype=block.dtype, device=block.device)
        rows = torch.searchsorted(self.positions.to(block.device), queries)
        store[layer][:, :, rows[:, None], keys[None]] = block[:, heads]


def capture_patterns(
    model: Model,
    inputs: Inputs,
    *,
    layers: Iterable[int] | None = None,
    heads: Iterable[object] | None = None,
    queries: Sequence[int] | None = None,
    z: bool = False,
    queries_and_keys: bool = False,
    metric: Callable[[Tensor], Tensor] | None = None,
    kind: str | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
    **kwargs: Any,
) -> Capture:
    """Run a model once and keep its full attention maps.

    Where queries or keys are not the tokens of the text (images, cross attention, a decoder beside an encoder), one
    more pass comes before, which counts them.

    Arguments:
        inputs: text, texts, token tensor or `TokenBatch`.
        layers: layers to keep; None for all.
        heads: single heads to keep (``"L1H3"``, ``(1, 3)``), instead of `layers`.
        queries: query positions to keep, negative ones from the end; None for all.
        z: also keep the head outputs.
        queries_and_keys: also keep the post-RoPE queries and keys.
        metric: a scalar of the logits ``[batch, position, vocab]``; its gradient with respect to every kept pattern
            comes along (all other edits of the pattern held fixed, later layers recomputed as they are).
        kind: ``"self"``, ``"encoder"``, ``"cross"`` or ``"vision"``; None for the model's main kind.
        max_bytes: refuse when the maps would need more than this.
        kwargs: for the Hugging Face model, such as ``pixel_values``.

    Raises:
        InputError: no such layer or head, or maps larger than `max_bytes`; the message gives the size.

    Example:
        >>> import interp
        >>> model = interp.load("mini")
        >>> maps = interp.capture_patterns(model, "Then Mary gave a ring to John", layers=[1])
        >>> maps["L1H0"].shape
        torch.Size([1, 8, 8])
    """
    batch = model.batch(inputs)
    kind = kind or model.sites.main_kind
    chosen = _chosen_heads(model, kind, layers, heads)
    n_queries, n_keys = _extent(model, batch, kind, kwargs)
    positions = _positions(queries, n_queries)
    _check_size(chosen, len(batch), len(positions), n_keys, max_bytes, 1 if metric is None else 2)
    flags = {"z": z, "queries_and_keys": queries_and_keys, "gradients": metric is not None}
    capturer = _Capturer(kind, chosen, positions, n_keys, frozenset(name for name, on in flags.items() if on))
    with torch.set_grad_enabled(metric is not None), watch(model, capturer):
        logits = model(batch, **kwargs)
    gradients = {} if metric is None else _gradients(capturer, metric(logits))
    parameters = {"kind": kind, "queries": None if queries is None else list(queries)}
    return Capture(
        patterns=capturer.patterns,
        gradients=gradients,
        z=capturer.z,
        queries_and_keys=capturer.queries_and_keys,
        heads=chosen,
        query_positions=positions,
        logits=logits.detach(),
        tokens=batch.tokens,
        str_tokens=None if model.tokenizer is None else [model.to_str_tokens(row) for row in batch.tokens],
        provenance=model.provenance([batch], parameters=parameters),
    )


def _extent(model: Model, batch: TokenBatch, kind: str, kwargs: dict[str, Any]) -> tuple[int, int]:
    if kind == "self" and "cross" not in model.capabilities.kinds:
        return batch.tokens.shape[1], batch.tokens.shape[1]
    extent = _Extent(kind)
    with torch.no_grad(), watch(model, extent):
        model(batch, **kwargs)
    return extent.n_queries, extent.n_keys


def _gradients(capturer: _Capturer, value: Tensor) -> dict[int, Tensor]:
    if value.dim() != 0 or not value.requires_grad:
        raise InputError(
            f"The metric gave shape {tuple(value.shape)}; expected one number that depends on the logits. "
            "Return a scalar, such as (logits[:, -1, a] - logits[:, -1, b]).mean()."
        )
    entries = [(layer, *entry) for layer, blocks in capturer.blocks.items() for entry in blocks]
    values = torch.autograd.grad(value, [pattern for _, pattern, *_ in entries], materialize_grads=True)
    gradients: dict[int, Tensor] = {}
    for (layer, _, visible, queries, keys), gradient in zip(entries, values, strict=True):
        block = gradient * visible[:, None]
        capturer.place(gradients, layer, block, queries, keys)
    return gradients


def _chosen_heads(
    model: Model, kind: str, layers: Iterable[int] | None, heads: Iterable[object] | None
) -> dict[int, tuple[int, ...]]:
    available = {site.layer: site.n_heads for site in model.sites.of_kind(kind)}
    if not available:
        raise InputError(f"{model.name} has no {kind} attention; it has {', '.join(model.capabilities.kinds)}.")
    if layers is not None and heads is not None:
        raise InputError("Both layers and heads were given. Give one of them.")
    if heads is None:
        wanted = sorted(available) if layers is None else sorted(set(layers))
        unknown = [layer for layer in wanted if layer not in available]
        if unknown or not wanted:
            raise InputError(f"Layers {unknown or wanted} cannot be captured; there are {sorted(available)}.")
        return {layer: tuple(range(available[layer])) for layer in wanted}
    chosen: dict[int, tuple[int, ...]] = {}
    for head in sorted({HeadRef.parse(head) for head in heads}):
        if head.layer not in available or head.head >= available[head.layer]:
            raise InputError(
                f"There is no head {head.label} in {model.name}: it has layers {sorted(available)} with up to "
                f"{max(available.values())} heads, counted from zero."
            )
        chosen[head.layer] = (*chosen.get(head.layer, ()), head.head)
    return chosen


def _positions(queries: Sequence[int] | None, n_positions: int) -> Int[Tensor, " query"]:
    if queries is None:
        return torch.arange(n_positions)
    outside = [query for query in queries if not -n_positions <= query < n_positions]
    if outside or not queries:
        raise InputError(f"Query positions {outside or list(queries)} lie outside the {n_positions} positions.")
    return torch.tensor(sorted({query % n_positions for query in queries}))


def _check_size(
    heads: dict[int, tuple[int, ...]], n_batch: int, n_queries: int, n_keys: int, max_bytes: int, copies: int
) -> None:
    n_heads = sum(len(chosen) for chosen in heads.values())
    needed = 4 * n_batch * n_heads * n_queries * n_keys * copies
    if needed > max_bytes:
        raise InputError(
            f"These maps need {needed / 2**20:,.0f} MiB ({n_heads} heads x {n_queries} x {n_keys} x {n_batch} texts), "
            f"more than max_bytes = {max_bytes / 2**20:,.0f} MiB. Choose fewer layers=, heads= or queries=, "
            "raise max_bytes=, or use interp.scan, which needs no maps."
        )
