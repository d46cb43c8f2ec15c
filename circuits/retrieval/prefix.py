"""Running many prompts that begin alike: what a prompt shares with the one before is taken from the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from circuits.forward import accepts
from interp.model.model import Model

ROOM = 256
"""Positions that a cache layer can take before it has to be copied."""


def shared_order(prompts: Sequence[Int[Tensor, " _"]]) -> list[int]:
    """The order in which neighbours share most: alphabetical by token ids, so that every common prefix is run once.

    Example:
        >>> shared_order([torch.tensor([1, 2, 9]), torch.tensor([3]), torch.tensor([1, 2, 4])])
        [2, 0, 1]
    """
    return sorted(range(len(prompts)), key=lambda index: prompts[index].tolist())


class SharedPrefix:
    """Runs one sequence after the other; hooks see the calls of the part that is not yet in the cache.

    Models whose cache cannot be cut back (sliding windows, recurrent layers) run every sequence from its start.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.tokens: Int[Tensor, " position"] = torch.zeros(0, dtype=torch.long)
        self.cache: Any = None
        self.rows_run = 0

    def run(self, tokens: Int[Tensor, " position"], *, keep: int) -> Float[Tensor, "kept vocab"]:
        """Logits of the last `keep` positions of a sequence; these positions are always run, for those who read them.

        Afterwards the cache holds the sequence, and `step` can continue it.
        """
        start = min(_shared(self.tokens, tokens), len(tokens) - keep)
        if self.cache is not None and _can_be_cut(self.cache) and start > 0:
            self.cache.crop(start - len(self.tokens))
        else:
            self.cache, start = None, 0
        self.tokens = tokens
        return self._forward(tokens[start:], keep)

    def step(self, token: int) -> Float[Tensor, "1 vocab"]:
        """Logits behind one more token."""
        added = torch.tensor([token])
        self.tokens = torch.cat([self.tokens, added])
        return self._forward(added, 1)

    def _forward(self, tokens: Int[Tensor, " position"], keep: int) -> Float[Tensor, "kept vocab"]:
        options: dict[str, Any] = {"logits_to_keep": keep} if accepts(self.model, "logits_to_keep") else {}
        ids = tokens[None].to(self.model.device)
        output = self.model.hf(input_ids=ids, past_key_values=self.cache, use_cache=True, **options)
        self.cache = output.past_key_values
        if _can_be_cut(self.cache):
            self.cache.layers[:] = map(_with_room, self.cache.layers)
        self.rows_run += len(tokens)
        return output.logits[0, -keep:]


class RoomyLayer(DynamicLayer):
    """A cache layer that writes new positions behind the old ones, where the usual one copies all of them each time.

    Positions that were cut off are overwritten. For inference only: what `update` returns changes afterwards.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys = self._key_room = keys
        self.values = self._value_room = values

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keys and values ``[batch, kv_head, key, d_head]`` of every position so far."""
        assert self.keys is not None and self.values is not None
        self.keys, self._key_room = _behind(self._key_room, self.keys, key_states)
        self.values, self._value_room = _behind(self._value_room, self.values, value_states)
        return self.keys, self.values


def _behind(room: Tensor, held: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """`held`, the beginning of `room`, with `new` behind it, and the room that both are in: a larger one if need be."""
    size = held.shape[-2] + new.shape[-2]
    if room.shape[-2] < size:
        room = new.new_empty(*new.shape[:-2], size + ROOM, new.shape[-1])
        room[..., : held.shape[-2], :] = held
    room[..., held.shape[-2] : size, :] = new
    return room[..., :size, :], room


def _with_room(layer: DynamicLayer) -> DynamicLayer:
    if type(layer) is not DynamicLayer or layer.keys is None or layer.values is None:
        return layer
    return RoomyLayer(layer.keys, layer.values)


def _shared(left: Int[Tensor, " left"], right: Int[Tensor, " right"]) -> int:
    """Length of the common prefix."""
    size = min(len(left), len(right))
    different = (left[:size] != right[:size]).nonzero()
    return int(different[0]) if len(different) else size


def _can_be_cut(cache: Any) -> bool:
    return all(type(layer) in (DynamicLayer, RoomyLayer) for layer in cache.layers)
