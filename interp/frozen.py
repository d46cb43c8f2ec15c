"""Values that do not change after they are made: mappings, JSON-like data, tensors copied on the way in."""

import math
from collections.abc import Iterator, Mapping
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from interp.errors import InputError

Value = TypeVar("Value")


class FrozenDict(Mapping[str, Value]):
    """A mapping without any way to change it.

    Unlike `types.MappingProxyType` it owns a copy of its items and can be pickled, so results cross processes.

    Example:
        >>> FrozenDict({"a": 1})
        FrozenDict({'a': 1})
    """

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, Value] | None = None) -> None:
        self._items: dict[str, Value] = dict(items or {})

    def __getitem__(self, key: str) -> Value:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"FrozenDict({self._items!r})"


def freeze_json(value: object, *, where: str) -> Any:
    """Copy JSON-like data into `FrozenDict`s, tuples and plain Python numbers.

    Arguments:
        value: nested mappings with text keys, lists, tuples, text, numbers, booleans and None; numpy scalars count.
        where: the name of the data in an error message.

    Raises:
        InputError: something in it cannot be written as JSON.
    """
    match value:
        case None | str():
            return value
        case bool() | np.bool_():
            return bool(value)
        case Integral():
            return int(value)
        case Real():
            return float(value)
        case Mapping():
            return FrozenDict({_text_key(key, where): freeze_json(item, where=where) for key, item in value.items()})
        case list() | tuple():
            return tuple(freeze_json(item, where=where) for item in value)
        case _:
            raise InputError(
                f"{where} holds a {type(value).__name__}, which JSON cannot express: expected text, numbers, booleans, "
                "None, lists and mappings; convert it first (a tensor by .item() or .tolist())."
            )


def thaw_json(value: object) -> Any:
    """The plain dictionaries and lists behind frozen data, with numbers that JSON lacks as `{"float": "nan"}`."""
    match value:
        case Mapping():
            return {key: thaw_json(item) for key, item in value.items()}
        case list() | tuple():
            return [thaw_json(item) for item in value]
        case float() if not math.isfinite(value):
            return {"float": str(value)}
        case _:
            return value


def restore_json(value: Any) -> Any:
    """The inverse of `thaw_json`, up to lists."""
    match value:
        case {"float": "nan" | "inf" | "-inf" as text} if len(value) == 1:
            return float(text)
        case dict():
            return {key: restore_json(item) for key, item in value.items()}
        case list():
            return [restore_json(item) for item in value]
        case _:
            return value


def frozen_tensor(tensor: Tensor) -> Tensor:
    """A detached copy on the CPU; half precision becomes float32, so that statistics of it keep their digits."""
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    return tensor.detach().to("cpu", torch.float32 if half else tensor.dtype, copy=True).contiguous()


def _text_key(key: object, where: str) -> str:
    if isinstance(key, str):
        return key
    raise InputError(f"{where} has the key {key!r}: expected text keys, as in JSON; write it as {str(key)!r}.")
