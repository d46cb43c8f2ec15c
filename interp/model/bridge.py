"""The TransformerLens view of a model: another structure around the same parameters."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

from transformers import PreTrainedModel

from interp.errors import ModelNotSupported


def bridge_view(hf: PreTrainedModel, tokenizer: Any, name: str) -> Any:
    """A ``TransformerBridge`` that shares parameters and buffers with `hf` and leaves its structure alone.

    A bridge swaps sub-modules in place, so it is built on a structural copy. Where a family keeps queries, keys and
    values interleaved in one matrix (GPT-NeoX), TransformerLens takes them apart into copies of its own. Ask for weight
    processing (``enable_compatibility_mode``) on a true copy only: it changes weights.

    Raises:
        ModelNotSupported: TransformerLens has no adapter for this architecture, or would need torchvision.
    """
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    if hasattr(hf.config, "vision_config") and importlib.util.find_spec("torchvision") is None:
        # boot_transformers would try to install torchvision by itself and replace torch.
        return _build(
            hf, name, lambda copied: build_bridge_from_module(copied, type(hf).__name__, hf_config=copied.config)
        )
    if tokenizer is None or not getattr(tokenizer, "name_or_path", ""):
        return _build(
            hf, name, lambda copied: build_bridge_from_module(copied, type(hf).__name__, hf_config=copied.config)
        )
    dtype = next(p.dtype for p in hf.parameters())
    return _build(
        hf, name,
        lambda copied: TransformerBridge.boot_transformers(
            name, hf_model=copied, tokenizer=copy.deepcopy(tokenizer), device=str(hf.device), dtype=dtype
        ),
    )  # fmt: skip


def _build(hf: PreTrainedModel, name: str, boot: Any) -> Any:
    shared = {id(tensor): tensor for tensor in (*hf.parameters(), *hf.buffers())}
    copied = copy.deepcopy(hf, memo=dict(shared))
    copied.config.architectures = [type(hf).__name__]
    copied.set_attn_implementation("eager")
    try:
        bridge = boot(copied)
    except (ValueError, KeyError, NotImplementedError, AttributeError, ImportError) as error:
        raise ModelNotSupported(
            f"TransformerLens cannot wrap {type(hf).__name__} ({name}): {error}. Attention can still be read and "
            "edited through interp.watch; only .bridge is unavailable."
        ) from error
    return bridge.eval()
