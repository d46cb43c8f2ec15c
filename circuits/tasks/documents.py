"""Training texts of the tasks: whole continuations, and which of their tokens the context determines."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from transformers import PreTrainedTokenizerBase

from circuits.tasks.encode import ATTEMPTS_PER_PROMPT, MORE_ATTEMPTS
from interp.errors import InputError


@dataclass(frozen=True, kw_only=True)
class MarkedText:
    """A text and the character spans `(start, end)` of what can be known from the text before them."""

    text: str
    determined: tuple[tuple[int, int], ...]

    @staticmethod
    def join(parts: Iterable[tuple[str, bool]]) -> "MarkedText":
        """From pieces of text, each with whether it is determined.

        >>> MarkedText.join([("One and", False), (" two", True)]).determined
        ((7, 11),)
        """
        text, spans = "", []
        for part, determined in parts:
            if determined:
                spans.append((len(text), len(text) + len(part)))
            text += part
        return MarkedText(text=text, determined=tuple(spans))


@dataclass(frozen=True, kw_only=True)
class Document:
    """Tokens of a training text, without BOS, and for each whether the ones before it determine it."""

    tokens: list[int]
    determined: list[bool]


def encode_documents(
    texts: Iterator[MarkedText], tokenizer: PreTrainedTokenizerBase, *, task: str, n: int
) -> list[Document]:
    """The first `n` texts that the tokenizer can write without an unknown token.

    Raises:
        InputError: too few can be written.
    """
    attempts, kept = islice(texts, ATTEMPTS_PER_PROMPT * n + MORE_ATTEMPTS), list[Document]()
    while len(kept) < n and (chunk := list(islice(attempts, n - len(kept)))):
        encoded = tokenizer([text.text for text in chunk], add_special_tokens=False, return_offsets_mapping=True)
        for text, tokens, offsets in zip(chunk, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            if tokenizer.unk_token_id not in tokens:
                kept.append(Document(tokens=tokens, determined=_determined(text.determined, offsets)))
    if len(kept) < n:
        raise InputError(
            f"Only {len(kept)} of {n} training texts of {task} can be written with this tokenizer; use one that knows "
            "the words of the task."
        )
    return kept


def _determined(spans: Sequence[tuple[int, int]], offsets: Sequence[tuple[int, int]]) -> list[bool]:
    """Whether each token overlaps a determined span."""
    return [any(first < end and last > start for start, end in spans) for first, last in offsets]
