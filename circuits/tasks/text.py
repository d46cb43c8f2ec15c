"""Examples as text: a template filled with words, and where each word came to stand."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from string import Formatter


@dataclass(frozen=True, kw_only=True)
class SlotText:
    """A text and the character span `(start, end)` of each of its named slots (of the first, if a slot repeats)."""

    text: str
    spans: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One prompt with its corruption, as text.

    `answer` and `wrong` are continuations of the clean text by one token, each with its leading space where it has one.
    `rest` is what follows the first token of an answer of several, `end` what closes the sentence in training.
    """

    clean: SlotText
    corrupted: SlotText
    answer: str
    wrong: str
    template: int
    rest: str = ""
    end: str = "."


def fill(pattern: str, words: Mapping[str, str]) -> SlotText:
    """Put words in the slots of a pattern.

    >>> fill("{S1} met {IO}.", {"S1": "Ann", "IO": "Bob"}).spans
    {'S1': (0, 3), 'IO': (8, 11)}
    """
    text, spans = "", {}
    for literal, slot, _, _ in Formatter().parse(pattern):
        text += literal
        if slot is not None:
            spans.setdefault(slot, (len(text), len(text) + len(words[slot])))
            text += words[slot]
    return SlotText(text=text, spans=spans)


PATIENCE = 1000
"""So many repetitions in a row mean that a generator has nothing new to give."""


def distinct(examples: Iterable[Example]) -> Iterator[Example]:
    """The examples without repetitions of the same (clean, corrupted) pair, until only repetitions come."""
    seen: set[tuple[str, str]] = set()
    repetitions = 0
    for example in examples:
        key = (example.clean.text, example.corrupted.text)
        repetitions = repetitions + 1 if key in seen else 0
        if repetitions == 0:
            seen.add(key)
            yield example
        elif repetitions == PATIENCE:
            return
