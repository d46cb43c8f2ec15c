"""`watch`: put participants on a model's attention, and take them off again whatever happens.

Entering a session switches the model to the registered attention function and leaving it restores the model, also
after an exception. What is active travels in a context variable, so threads and nested sessions do not disturb each
other; nested sessions on one model add up, outer participants first.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from interp.attention.calls import CallContext, WatchedCall, variant_of
from interp.attention.implementation import attention_implementation
from interp.attention.kernel import Visibility, Workspace, visibility
from interp.attention.participants import Participant
from interp.attention.rows import Stream
from interp.attention.sites import AttentionSite, SiteMap
from interp.errors import HookNotLive, InputError, ModelNotSupported

IMPLEMENTATION = "interp"
DEFAULT_BLOCK_BYTES = 24 * 2**20

_active: ContextVar[tuple[Session, ...]] = ContextVar("active_sessions", default=())


@dataclass(eq=False)
class ForwardState:
    """What one forward pass knows about itself: its token streams, and which run of each module is under way."""

    streams: dict[str, Stream]
    runs: dict[nn.Module, int] = field(default_factory=dict)
    offset: dict[nn.Module, int] = field(default_factory=dict)
    residual: dict[nn.Module, Tensor] = field(default_factory=dict)
    views: dict[int, tuple[Tensor, Visibility]] = field(default_factory=dict)

    def view_of(self, mask: Tensor | None, causal: bool) -> Visibility:
        """The visibility of a mask, computed once per pass however many layers share it."""
        if mask is None:
            return visibility(None, causal)
        if id(mask) not in self.views:
            self.views[id(mask)] = (mask, visibility(mask, causal))
        return self.views[id(mask)][1]


class Session:
    """Participants on one model. Use `watch`, which makes one."""

    def __init__(self, site_map: SiteMap, participants: tuple[Participant, ...], block_bytes: int) -> None:
        self.site_map = site_map
        self.participants = participants
        self.max_elements = max(1, block_bytes // 4)
        self.workspace = Workspace()
        self.state: ForwardState | None = None
        self._seen: dict[str, Stream] = {}
        self._part: nn.Module | None = None

    def start_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before every forward pass of the model: note its tokens and tell the participants."""
        if self not in _active.get():
            return
        streams = _streams(args, kwargs, self.site_map, self._seen)
        main = streams[self.site_map.main_kind]
        self._seen = streams
        self.state = ForwardState(streams)
        for participant in self.participants:
            participant.begin(main)

    def end_forward(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """After every forward pass, also a failed one: nothing of it is kept."""
        if self in _active.get():
            self.state = None

    def start_part(self, kind: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a vision tower or an encoder that runs ahead of the model, as `generate` lets them."""
        if self.state is not None or self not in _active.get():
            return
        ids = _token_ids(args, kwargs) if kind == "encoder" else None
        stream = Stream(tokens=ids, valid=None if ids is None else _valid(kwargs.get("attention_mask")), past=0)
        self._seen[kind] = stream
        self._part = module
        self.state = ForwardState({kind: stream})

    def end_part(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """After such a part, also a failed one."""
        if self._part is module and self in _active.get():
            self.state = self._part = None

    def start_run(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Before every run of an attention module: count runs, so that shared weights know their layer."""
        if self.state is not None and self in _active.get():
            self.state.runs[module] = self.state.runs.get(module, -1) + 1
            self.state.offset[module] = 0

    def note_residual(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before every run of a block whose input a participant asked for."""
        if self.state is not None and self in _active.get():
            self.state.residual[module] = args[0] if args else kwargs["hidden_states"]


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls in every layer while a session is open.

    Takes what the attention interface passes (queries ``[batch, head, query, d_head]``, keys and values
    ``[batch, kv_head, key, d_head]`` after RoPE and cache) and returns ``[batch, query, head, d_value]``.
    """
    if dropout:
        raise ModelNotSupported(
            f"Attention dropout {dropout} is active, so patterns would be random. Call model.eval() first."
        )
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    with torch.autocast(query.device.type, enabled=False):
        variant = variant_of(module, query, attention_mask, scaling, kwargs)
        context, view = _current_call(module, query.shape[2], attention_mask, variant.causal)
        return WatchedCall(context, module, query, key, value, attention_mask, view, variant).run(), None


def _current_call(
    module: nn.Module, n_queries: int, mask: Tensor | None, causal: bool
) -> tuple[CallContext, Visibility]:
    """Site, participants, tokens and buffers of the call under way, and who sees whom in it."""
    sessions = [s for s in _active.get() if module in s.site_map.sites]
    if not sessions:
        return _unwatched(), visibility(mask, causal)
    inner = sessions[-1]
    state = inner.state
    if state is None:
        raise HookNotLive(
            f"{type(module).__name__} ran inside a watch() session without its whole model, so its tokens are unknown. "
            "Call the model itself (model(...) or model.hf(...)), not one of its sub-modules."
        )
    sites = inner.site_map.sites[module]
    site = sites[state.runs.get(module, 0) % len(sites)]
    offset = state.offset.get(module, 0)
    state.offset[module] = offset + n_queries
    participants = tuple(p for s in sessions for p in s.participants)
    residual = state.residual.get(inner.site_map.block(site)) if any(p.wants_residual for p in participants) else None
    context = CallContext(
        site=site,
        participants=participants,
        stream=state.streams[site.kind],
        key_stream=state.streams.get(f"{site.kind} keys", state.streams[site.kind]),
        offset=offset,
        workspace=inner.workspace,
        max_elements=inner.max_elements,
        residual=residual,
        output_weights=inner.site_map.output_weights(site),
    )
    return context, state.view_of(mask, causal)


def _unwatched() -> CallContext:
    """Another thread may run a model while this one watches it: its calls pass through with nobody looking."""
    nothing = Stream(tokens=None, valid=None, past=0)
    return CallContext(
        site=AttentionSite("", "self", 0, 0, 0, 0, None),
        participants=(),
        stream=nothing,
        key_stream=nothing,
        offset=0,
        workspace=Workspace(),
        max_elements=DEFAULT_BLOCK_BYTES // 4,
        residual=None,
        output_weights=None,
    )


@contextmanager
def watch(model: Any, *participants: Participant, block_bytes: int = DEFAULT_BLOCK_BYTES) -> Generator[Session]:
    """Run a model with these readers and editors on its attention.

    Arguments:
        model: a loaded `interp.Model`, or a `SiteMap`.
        participants: readers and editors; editors act in the order given, and readers see what the model uses.
        block_bytes: size of one block of attention rows in float32; two blocks are held at a time.

    Example:
        >>> import interp
        >>> from interp.attention.participants import Reader
        >>> class Mass(Reader):
        ...     total = 0.0
        ...     def read_rows(self, rows):
        ...         self.total += float(rows.pattern.detach().sum())
        >>> model = interp.load("mini")
        >>> mass = Mass()
        >>> with interp.watch(model, mass):
        ...     _ = model(model.to_tokens("Then Mary gave a ring to John"))
        >>> round(mass.total) == model.n_layers * model.n_heads * 8  # eight rows per head, BOS included
        True
    """
    site_map: SiteMap = model if isinstance(model, SiteMap) else model.sites
    session = Session(site_map, participants, block_bytes)
    handles = [site_map.hf.register_forward_pre_hook(session.start_forward, with_kwargs=True, prepend=True)]
    handles += [module.register_forward_pre_hook(session.start_run) for module in site_map.sites]
    if any(p.wants_residual for p in participants):
        blocks = {site_map.block(site) for sites in site_map.sites.values() for site in sites}
        handles += [block.register_forward_pre_hook(session.note_residual, with_kwargs=True) for block in blocks]
    for kind, part in site_map.parts.items():
        handles.append(part.register_forward_pre_hook(partial(session.start_part, kind), with_kwargs=True))
        handles.append(part.register_forward_hook(session.end_part, always_call=True))
    handles.append(site_map.hf.register_forward_hook(session.end_forward, always_call=True))
    token = _active.set((*_active.get(), session))
    try:
        with attention_implementation(site_map.hf, IMPLEMENTATION):
            yield session
    finally:
        _active.reset(token)
        for handle in handles:
            handle.remove()


def _streams(
    args: tuple[Any, ...], kwargs: dict[str, Any], site_map: SiteMap, seen: dict[str, Stream]
) -> dict[str, Stream]:
    """The token stream behind every kind of attention in this pass; `seen` are those of the pass before."""
    ids = _token_ids(args, kwargs)
    mask = kwargs.get("attention_mask")
    cache = kwargs.get("past_key_values")
    past = int(cache.get_seq_length()) if cache is not None else 0
    kinds = {site.kind for sites in site_map.sites.values() for site in sites}
    if "encoder" not in kinds:
        main = _extend(ids, kwargs.get("inputs_embeds"), mask, past, seen.get("self"))
        main = replace(main, images=_images(main.tokens, site_map.image_tokens))
        return {"self": main, "vision": Stream(tokens=None, valid=None, past=0)}
    decoder_mask = kwargs.get("decoder_attention_mask")
    embeds = kwargs.get("decoder_inputs_embeds")
    decoder = _extend(kwargs.get("decoder_input_ids"), embeds, decoder_mask, past, seen.get("self"))
    before = seen.get("encoder")
    if ids is None and kwargs.get("encoder_outputs") is not None and before is not None:
        ids = before.tokens  # the encoder ran before this pass and only its output is handed on
    encoder = Stream(tokens=ids, valid=_valid(mask), past=0)
    return {"self": decoder, "encoder": encoder, "cross": decoder, "cross keys": encoder}


def _token_ids(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    first = args[0] if args and isinstance(args[0], Tensor) and not args[0].is_floating_point() else None
    return kwargs.get("input_ids", first)


def _extend(ids: Tensor | None, embeds: Tensor | None, mask: Any, past: int, seen: Stream | None) -> Stream:
    if ids is None and embeds is None:
        return Stream(tokens=None, valid=_valid(mask), past=past)
    new = ids if ids is not None else torch.full(embeds.shape[:2], -1, device=embeds.device)  # type: ignore[union-attr]
    if past == 0:
        return Stream(tokens=new, valid=_valid(mask), past=0)
    batch = new.shape[0]
    known = None if seen is None else seen.tokens
    if known is None or known.shape[0] != batch or known.shape[1] < past:
        known = torch.full((batch, past), -1, dtype=new.dtype, device=new.device)
    return Stream(tokens=torch.cat([known[:, :past].to(new.device), new], 1), valid=_valid(mask), past=past)


def _images(tokens: Tensor | None, ids: frozenset[int]) -> Tensor | None:
    if tokens is None or not ids:
        return None
    found = torch.isin(tokens, torch.tensor(sorted(ids), device=tokens.device))
    return found if bool(found.any()) else None


def _valid(mask: Any) -> Tensor | None:
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        raise InputError(
            "The attention mask is not two-dimensional, so padding cannot be told from other masking. Pass the "
            "[batch, position] padding mask of the tokenizer, and generate with the default (dynamic) cache."
        )
    return None if bool(mask.bool().all()) else mask.bool()


AttentionInterface.register(IMPLEMENTATION, attend)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
