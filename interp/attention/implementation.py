"""Switching a model's attention implementation for a while."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from transformers import PretrainedConfig

_lock = threading.Lock()
# model -> implementation name -> (how many are inside, what each config said before the first of them)
_switched: WeakKeyDictionary[nn.Module, dict[str, tuple[int, list[tuple[PretrainedConfig, Any]]]]] = WeakKeyDictionary()


@contextmanager
def attention_implementation(hf: nn.Module, name: str) -> Generator[None]:
    """Run a model with another attention implementation; the last one to leave restores every config.

    Set on the configs directly: `set_attn_implementation` re-reads source files and warns about sub-models that do not
    dispatch, which the load-time probe measures instead.
    """
    with _lock:
        count, originals = _switched.setdefault(hf, {}).get(name, (0, []))
        if count == 0:
            configs = {id(c): c for m in hf.modules() if isinstance(c := getattr(m, "config", None), PretrainedConfig)}
            originals = [(config, config._attn_implementation) for config in configs.values()]
            for config, _ in originals:
                config._attn_implementation_internal = name
        _switched[hf][name] = (count + 1, originals)
    try:
        yield
    finally:
        with _lock:
            count, originals = _switched[hf].pop(name)
            if count > 1:
                _switched[hf][name] = (count - 1, originals)
            else:
                for config, original in originals:
                    config._attn_implementation_internal = original
