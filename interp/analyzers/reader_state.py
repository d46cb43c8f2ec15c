"""What a reader has accumulated, as JSON and tensors, so that an interrupted scan can go on.

Everything in a reader's attributes is saved: numbers, words, tensors, lists, tuples, sets and dictionaries of them, and
the same of its helpers, which are the objects of this project that it was made with. Parameters (`Shape`, an
`Analyzer`, functions) are the fresh reader's own. Whatever else a reader holds is refused, so that nothing is left out
in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from interp.analyzers.analyzer import Analyzer, AnalyzerReader, Shape
from interp.errors import InputError

PARAMETERS = (Shape, Analyzer, FunctionType)
OUR_PACKAGES = ("interp.", "circuits.", "probes.")
SEQUENCES = {sequence.__name__: sequence for sequence in (list, tuple, set, frozenset)}


def pack_reader(reader: AnalyzerReader, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The state of a reader as JSON; its tensors go into `tensors`, and the JSON names them.

    Raises:
        InputError: the reader holds something that cannot be saved.
    """
    return _pack(reader, tensors, type(reader).__name__)


def restore_reader(reader: AnalyzerReader, packed: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Bring a fresh reader into the state that `pack_reader` packed.

    Raises:
        KeyError, TypeError, ValueError: `packed` is not the state of such a reader.
    """
    _unpack(packed, reader, tensors)


def _pack(value: object, tensors: dict[str, Tensor], where: str) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, PARAMETERS):
        return {"parameter": type(value).__name__}
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": [name, str(value.device)]}
    if isinstance(value, dict) and type(value) is dict:
        return {"dict": [[_pack(key, tensors, where), _pack(item, tensors, where)] for key, item in value.items()]}
    if isinstance(value, list | tuple | set | frozenset) and type(value) in SEQUENCES.values():
        return {type(value).__name__: [_pack(item, tensors, where) for item in value]}
    if hasattr(value, "__dict__") and type(value).__module__.startswith(OUR_PACKAGES):
        return {"object": {name: _pack(item, tensors, f"{where}.{name}") for name, item in vars(value).items()}}
    raise InputError(f"{where} holds a {type(value).__name__}, which cannot be saved. Scan without a checkpoint.")


def _unpack(packed: Any, fresh: Any, tensors: Mapping[str, Tensor]) -> Any:
    """A packed value; `fresh` is what a fresh reader has in its place."""
    if not isinstance(packed, Mapping):
        return packed
    ((kind, content),) = packed.items()
    if kind == "parameter":
        if fresh is None:
            raise KeyError(content)
        return fresh
    if kind == "tensor":
        name, device = content
        return tensors[name].to(device)
    if kind == "dict":
        parts = fresh if isinstance(fresh, dict) else {}
        pairs = ((_unpack(key, None, tensors), item) for key, item in content)
        return {key: _unpack(item, parts.get(key), tensors) for key, item in pairs}
    if kind == "object":
        # In place, so that whoever shares a helper goes on sharing it.
        state = vars(fresh)
        state.update({name: _unpack(item, state.get(name), tensors) for name, item in content.items()})
        return fresh
    return SEQUENCES[kind](_unpack(item, None, tensors) for item in content)
