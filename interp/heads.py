"""Names of attention heads: `L9H6`, `9.6`, `a9.h6` and `(9, 6)` are the same head.

Layers and heads count from zero. Heads are query heads. In encoder-decoder models a stack letter stands in
front: `EL0H0` is in the encoder, `DL0H0` in the decoder.
"""

import re
from collections.abc import Iterable
from operator import index
from typing import NamedTuple, SupportsIndex, TypeGuard

from interp.errors import InputError

STACKS = ("", "E", "D")

_LABEL = re.compile(r"(?P<stack>[ED]?)L(?P<layer>\d+)H(?P<head>\d+)", re.IGNORECASE | re.ASCII)
_DOTTED = re.compile(r"(?P<stack>)(?P<layer>\d+)\.(?P<head>\d+)", re.ASCII)
_HOOKED = re.compile(r"(?P<stack>)a(?P<layer>\d+)\.h(?P<head>\d+)", re.IGNORECASE | re.ASCII)


class HeadRef(NamedTuple):
    """One attention head, ordered by layer, then head, then stack.

    Arguments:
        layer: zero-based layer.
        head: zero-based query head within the layer.
        stack: "" in models with one stack, "E" for an encoder, "D" for a decoder.

    Example:
        >>> HeadRef.parse("9.6")
        L9H6
        >>> HeadRef.parse("a9.h6") == HeadRef(9, 6)
        True
    """

    layer: int
    head: int
    stack: str = ""

    @property
    def label(self) -> str:
        """The name in print, such as `L9H6` or `DL0H3`."""
        return f"{self.stack}L{self.layer}H{self.head}"

    def __repr__(self) -> str:
        return self.label

    @classmethod
    def parse(cls, value: object) -> "HeadRef":
        """Read a head from `"L9H6"`, `"9.6"`, `"a9.h6"`, `(9, 6)`, `(0, 0, "E")` or a `HeadRef`.

        Raises:
            InputError: `value` has none of these forms, or a number is negative.
        """
        parsed = _parse_text(value) if isinstance(value, str) else _parse_tuple(value)
        if parsed is None:
            raise InputError(
                f"{value!r} does not name an attention head: expected a zero-based layer and head; "
                "write it as 'L9H6', '9.6' or (9, 6)."
            )
        return parsed


def parse_heads(value: str | Iterable[object]) -> list[HeadRef]:
    """Read several heads, from `"9.6,L9H9"` (commas or spaces) or from an iterable of single heads.

    Returns:
        The heads in the order given, each once.

    Raises:
        InputError: one of them is not a head, or there is none.

    Example:
        >>> [head.label for head in parse_heads("9.6, L9H9")]
        ['L9H6', 'L9H9']
    """
    if isinstance(value, HeadRef):
        return [value]
    items: Iterable[object] = re.split(r"[,\s]+", value.strip(", \t\n")) if isinstance(value, str) else value
    heads = [HeadRef.parse(item) for item in items if item != ""]
    if not heads:
        raise InputError("The list of heads is empty: expected at least one; write it as '9.6,L9H9'.")
    return list(dict.fromkeys(heads))


def _parse_text(text: str) -> HeadRef | None:
    for pattern in (_LABEL, _DOTTED, _HOOKED):
        found = pattern.fullmatch(text.strip())
        if found:
            return HeadRef(int(found["layer"]), int(found["head"]), found["stack"].upper())
    return None


def _parse_tuple(value: object) -> HeadRef | None:
    match value:
        case (layer, head):
            stack: object = ""
        case (layer, head, stack):
            pass
        case _:
            return None
    if not (_is_index(layer) and _is_index(head) and stack in STACKS):
        return None
    return HeadRef(int(layer), int(head), str(stack))


def _is_index(number: object) -> TypeGuard[SupportsIndex]:
    """Whether `number` is a non-negative integer; numpy integers count, booleans do not."""
    return isinstance(number, SupportsIndex) and not isinstance(number, bool) and index(number) >= 0
