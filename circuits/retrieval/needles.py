"""Needles, prompts that hide them, and which needle stands at which depth of which haystack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from interp.errors import InputError

DEPTHS = tuple(index / 9 for index in range(10))
"""The ten depths of Wu et al., evenly spaced from the start to the end of the haystack."""


@dataclass(frozen=True, kw_only=True)
class Needle:
    """A sentence to hide.

    Attributes:
        text: what is put into the haystack.
        question: what is asked at the end.
        answer: the part of `text`, word by word, that answers it.
    """

    text: str
    question: str
    answer: str

    def __post_init__(self) -> None:
        if not self.answer.strip() or self.answer not in self.text:
            raise InputError(
                f"The answer {self.answer!r} does not stand in the needle {self.text!r}, so no head can copy it. "
                "Give an answer that is a literal part of the needle."
            )


NEEDLES = (
    Needle(
        text="The diary of the lighthouse keeper lies in a green tin box under the third stair of the mill.",
        question="Where does the diary of the lighthouse keeper lie?",
        answer="in a green tin box under the third stair of the mill",
    ),
    Needle(
        text="Doctor Marlow mends old clocks with melted sugar and the feathers of a grey goose.",
        question="What does Doctor Marlow mend old clocks with?",
        answer="melted sugar and the feathers of a grey goose",
    ),
    Needle(
        text="The best day to cross the salt lake is the second Tuesday of March, when seven horses are waiting.",
        question="Which is the best day to cross the salt lake?",
        answer="the second Tuesday of March, when seven horses are waiting",
    ),
)
"""Three needles whose answers nobody can guess."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NeedlePrompt:
    """One prompt and its answer as tokens.

    Attributes:
        tokens: the prompt, then the answer.
        answer_start: position of the first answer token, which is the length of the prompt.
        needle: half-open span of the positions in the haystack that hold the answer.
        question_start: position of the first token behind the haystack.
        depth: where the needle came to stand, as a share of the haystack's tokens.
        name: which needle; the question, where there is one.
        hidden: needles in the haystack, this one and those that other prompts ask for.
    """

    tokens: Int[Tensor, " position"]
    answer_start: int
    needle: tuple[int, int]
    question_start: int
    depth: float
    name: str
    hidden: int = 1

    @property
    def answer(self) -> Int[Tensor, " token"]:
        """The tokens of the answer, as the model has to write them."""
        return self.tokens[self.answer_start :]

    @property
    def needle_tokens(self) -> Int[Tensor, " token"]:
        """The tokens of the answer, as they stand in the haystack."""
        return self.tokens[slice(*self.needle)]


def check_places(lengths: Sequence[int], depths: Sequence[float], n_needles: int) -> None:
    """Refuse a protocol without needles, lengths or depths, or with a depth outside the haystack.

    Raises:
        InputError: any of these.
    """
    if not lengths or not depths or n_needles < 1 or not all(0 <= depth <= 1 for depth in depths):
        raise InputError(
            f"Needles ({n_needles}), lengths ({list(lengths)}) and depths ({list(depths)}) must be given, depths "
            "between 0 (start of the haystack) and 1 (end)."
        )


def turns(n_needles: int, depths: Sequence[float]) -> list[list[float]]:
    """Depths of needles that share a haystack, in as many haystacks as there are depths.

    Each needle comes to stand at every depth once. Within a haystack needles are spread over the depths; where there
    are more needles than depths, neighbours stand together.

    Example:
        >>> turns(2, [0.0, 0.5, 1.0])
        [[0.0, 0.5], [0.5, 1.0], [1.0, 0.0]]
        >>> turns(1, [0.25, 0.75])
        [[0.25], [0.75]]
    """
    depths = sorted(depths)
    n = len(depths)
    return [[depths[(needle * n // n_needles + turn) % n] for needle in range(n_needles)] for turn in range(n)]
