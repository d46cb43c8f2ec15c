"""Find every place where a model's attention goes through the transformers attention interface."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.pytorch_utils import Conv1D

from interp.attention.implementation import attention_implementation
from interp.attention.sites import AttentionSite, SiteMap, layer_number
from interp.errors import ModelNotSupported

DISCOVERY = "interp-discovery"

# What a forward pass raises that cannot do with its inputs or its attention function.
FORWARD_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Run:
    module: nn.Module
    n_keys: int
    n_queries: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    output: Tensor
    projections: list[nn.Module]


_runs: list[_Run] = []
_started: Counter[nn.Module] = Counter()


def discover_sites(hf: PreTrainedModel, inputs: dict[str, Tensor]) -> SiteMap:
    """Run the model once with an attention function that only takes notes, and name the sites found.

    Raises:
        ModelNotSupported: attention is never dispatched through the interface, or the model does not run at all.
    """
    names: dict[nn.Module, str] = {module: name for name, module in hf.named_modules()}
    _runs.clear()
    _started.clear()
    handles = [module.register_forward_pre_hook(_note_start) for module in names]
    try:
        with torch.no_grad(), attention_implementation(hf, DISCOVERY):
            hf(**inputs)
        runs = list(_runs)
        started = Counter(_started)
    except FORWARD_ERRORS as error:
        raise _refusal(hf, inputs, error) from error
    finally:
        for handle in handles:
            handle.remove()
        _runs.clear()
        _started.clear()
    if not runs:
        raise ModelNotSupported(
            f"{type(hf).__name__} failed the dispatch check: its layers never call the transformers attention "
            "interface, so attention can be neither read nor edited there. Use a model family that dispatches (README)."
        )
    site_map = SiteMap(hf, _name_sites(hf, _one_per_run(runs, started), names, inputs))
    if "input_ids" in inputs and not site_map.of_kind("self"):
        raise ModelNotSupported(
            f"{type(hf).__name__} failed the dispatch check: its vision tower calls the transformers attention "
            "interface, but its text layers never do. Use a model family whose text model dispatches (README)."
        )
    return site_map


def _refusal(hf: PreTrainedModel, inputs: dict[str, Tensor], error: Exception) -> ModelNotSupported:
    """Tell a model that cannot do without its own attention function from one that these inputs do not fit."""
    name, reason = type(hf).__name__, f"{type(error).__name__}: {error}"
    try:
        with torch.no_grad():
            hf(**inputs)
    except FORWARD_ERRORS as own:
        return ModelNotSupported(
            f"{name} failed the trial run: on {', '.join(inputs)} it raises {type(own).__name__}: {own}. "
            "interp does not know which inputs this architecture takes; please report it."
        )
    return ModelNotSupported(
        f"{name} failed the dispatch check: with another attention function than its own it raises {reason}. "
        "Its attention can be neither read nor edited; use a model family that dispatches (README)."
    )


def _note_start(module: nn.Module, args: tuple[Any, ...]) -> None:
    """Count the runs of every module, and note which linear modules are given what the latest attention call gave."""
    _started[module] += 1
    if _runs and isinstance(module, nn.Linear | Conv1D) and args and _same_memory(args[0], _runs[-1].output):
        _runs[-1].projections.append(module)


def _same_memory(given: Any, output: Tensor) -> bool:
    return isinstance(given, Tensor) and given.untyped_storage().data_ptr() == output.untyped_storage().data_ptr()


def _take_notes(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    d_value = value.shape[-1]
    output = query.new_zeros(query.shape[0], query.shape[2], query.shape[1], d_value)
    _runs.append(_Run(module, key.shape[2], query.shape[2], query.shape[1], key.shape[1], d_value, output, []))
    return output, None


def _one_per_run(runs: list[_Run], started: Counter[nn.Module]) -> list[_Run]:
    """A windowed vision tower calls attention once per window within one run of the module: keep one call per run."""
    calls = Counter(run.module for run in runs)
    kept: Counter[nn.Module] = Counter()
    result: list[_Run] = []
    for run in runs:
        per_run = calls[run.module] // max(1, started[run.module])
        if kept[run.module] % max(1, per_run) == 0:
            result.append(run)
        kept[run.module] += 1
    return result


def _name_sites(
    hf: PreTrainedModel, runs: list[_Run], names: dict[nn.Module, str], inputs: dict[str, Tensor]
) -> list[tuple[nn.Module, AttentionSite]]:
    kinds = [_kind(hf, names[run.module], run, inputs) for run in runs]
    shared = {kind for kind, run in zip(kinds, runs, strict=True) if sum(r.module is run.module for r in runs) > 1}
    seen: Counter[str] = Counter()
    sites: list[tuple[nn.Module, AttentionSite]] = []
    for kind, run in zip(kinds, runs, strict=True):
        name = names[run.module]
        layer = seen[kind] if kind in shared else layer_number(name)
        seen[kind] += 1
        output = names[run.projections[0]] if len(run.projections) == 1 else None
        site = AttentionSite(name, kind, layer, run.n_heads, run.n_kv_heads, run.d_head, output)
        sites.append((run.module, site))
    return sites


def _kind(hf: PreTrainedModel, name: str, run: _Run, inputs: dict[str, Tensor]) -> str:
    path = name.split(".")
    if hf.main_input_name == "pixel_values" or any(part.startswith(("vision", "visual")) for part in path):
        return "vision"
    if not getattr(hf.config, "is_encoder_decoder", False):
        return "self"
    if "encoder" in path and "decoder" not in path:
        return "encoder"
    return "cross" if run.n_keys == inputs["input_ids"].shape[1] else "self"


AttentionInterface.register(DISCOVERY, _take_notes)
AttentionMaskInterface.register(DISCOVERY, sdpa_mask)
