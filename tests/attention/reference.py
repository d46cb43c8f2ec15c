"""What a test of the hook compares with: the model's own eager attention, and a reader that keeps all it is shown."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from interp.attention.participants import Reader
from interp.attention.rows import AttentionRows, LayerCall
from interp.attention.sites import AttentionSite, SiteMap
from interp.model.probe import output_tensor

Place = tuple[str, int]  # kind of attention, layer

KINDS = frozenset({"self", "encoder", "cross", "vision"})
# What families call the projection that follows the heads; BERT's lies in a sibling of the attention module.
PROJECTIONS = ("o_proj", "c_proj", "out_proj", "dense", "out_lin", "Wo", "o", "proj")


class Recorder(Reader):
    """Keeps every row and every head output, with the absolute positions they came with."""

    kinds = KINDS

    def __init__(self) -> None:
        self.rows: dict[Place, list[tuple[Tensor, Tensor, Tensor]]] = defaultdict(list)
        self.calls: dict[Place, list[LayerCall]] = defaultdict(list)

    def read_rows(self, rows: AttentionRows) -> None:
        self.rows[rows.kind, rows.layer].append((rows.queries.clone(), rows.keys.clone(), rows.pattern.clone()))

    def read_call(self, call: LayerCall) -> None:
        self.calls[call.kind, call.layer].append(call)

    def pattern(self, place: Place) -> Tensor:
        """The full map of a place, put together from its blocks: zero where no block had a row or a key."""
        blocks = self.rows[place]
        n_queries, n_keys = (1 + max(int(block[axis].max()) for block in blocks) for axis in (0, 1))
        full = torch.zeros(*blocks[0][2].shape[:2], n_queries, n_keys)
        for queries, keys, pattern in blocks:
            full[:, :, queries[:, None], keys] = pattern
        return full

    def z(self, place: Place) -> Tensor:
        """Head outputs ``[batch, query, head * d_head]``, calls behind each other."""
        return torch.cat([call.z for call in self.calls[place]], 1).flatten(2)


@dataclass(frozen=True)
class Eager:
    """One forward pass of a model with its own eager attention."""

    logits: Tensor
    patterns: dict[Place, Tensor]
    z: dict[Place, Tensor]


def eager_run(reference: PreTrainedModel, sites: SiteMap, inputs: Mapping[str, Any]) -> Eager:
    """Run a second copy of a model on its own eager attention and note patterns and head outputs on the way.

    Patterns are taken where the model's own `eager_attention_forward` returns them, head outputs where the output
    projection receives them; nothing of the hook takes part. `sites` only names the attention modules.
    """
    reference.set_attn_implementation("eager")
    names = {name: place for name, place in _named_sites(sites)}
    modules = {reference.get_submodule(name): name for name in names}
    outputs: dict[str, list[Tensor]] = defaultdict(list)
    handles = [
        projection(reference, name).register_forward_pre_hook(_noting(outputs[name])) for name in modules.values()
    ]
    try:
        with torch.no_grad(), _eager_patterns(modules) as weights:
            logits = output_tensor(reference(**inputs))
    finally:
        for handle in handles:
            handle.remove()
    patterns: dict[Place, Tensor] = {}
    z: dict[Place, Tensor] = {}
    for name, places in names.items():
        per_run = len(weights[name]) // len(places)
        for run, place in enumerate(places):
            patterns[place] = _block_diagonal(weights[name][run * per_run : (run + 1) * per_run])
            z[place] = outputs[name][run]
    return Eager(logits, patterns, z)


def projection(hf: nn.Module, attention: str) -> nn.Module:
    """The linear map that follows the heads of the attention module of this name."""
    module = hf.get_submodule(attention)
    for name in PROJECTIONS:
        if hasattr(module, name):
            return getattr(module, name)
    return hf.get_submodule(attention.rpartition(".")[0]).output.dense  # type: ignore[return-value]


def _named_sites(sites: SiteMap) -> Iterator[tuple[str, list[Place]]]:
    for found in sites.sites.values():
        yield found[0].module_name, [_place(site) for site in found]


def _place(site: AttentionSite) -> Place:
    return site.kind, site.layer


def _noting(outputs: list[Tensor]) -> Callable[..., None]:
    def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        outputs.append(args[0] if args[0].dim() == 3 else args[0][None])

    return note


@contextmanager
def _eager_patterns(modules: Mapping[nn.Module, str]) -> Iterator[dict[str, list[Tensor]]]:
    """Collect the weights that the families' own eager functions return, by module."""
    weights: dict[str, list[Tensor]] = defaultdict(list)
    files = {sys.modules[type(module).__module__] for module in modules}
    originals = {file: file.eager_attention_forward for file in files}

    def recording(own: Callable[..., Any]) -> Callable[..., Any]:
        def run(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            result = own(module, *args, **kwargs)
            weights[modules[module]].append(result[1])
            return result

        return run

    for file, own in originals.items():
        file.eager_attention_forward = recording(own)
    try:
        yield weights
    finally:
        for file, own in originals.items():
            file.eager_attention_forward = own


def _block_diagonal(windows: list[Tensor]) -> Tensor:
    """One map from the maps of consecutive windows; windows do not see each other."""
    if len(windows) == 1:
        return windows[0]
    heads = zip(*(window.flatten(0, 1) for window in windows), strict=True)
    full = torch.stack([torch.block_diag(*head) for head in heads])
    return full.unflatten(0, windows[0].shape[:2])
