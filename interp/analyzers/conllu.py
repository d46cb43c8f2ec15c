"""Sentences with gold dependency arcs from CoNLL-U (https://universaldependencies.org/format.html)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

from interp.errors import InputError

N_COLUMNS = 10


@dataclass(frozen=True, kw_only=True)
class Word:
    """One syntactic word.

    Attributes:
        form: the word as annotated.
        start, end: its characters in the sentence's text; equal for a part of a contraction that has none of its own.
        head: index of its governor among the sentence's words, from 0; None for the root.
        relation: name of the relation to the governor, subtype included, such as "nsubj:pass".
    """

    form: str
    start: int
    end: int
    head: int | None
    relation: str


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """One sentence.

    Attributes:
        text: its words, with the spaces that the annotation gives them.
        words: its syntactic words in order.
        place: where it stands, for messages.
    """

    text: str
    words: tuple[Word, ...]
    place: str


class _Row(NamedTuple):
    """One token line; `first` and `last` word number are equal but for contractions."""

    place: str
    first: int
    last: int
    form: str
    head: str
    relation: str
    space: str


def read_conllu(path: str | Path) -> list[Sentence]:
    """Sentences of a CoNLL-U file.

    Raises:
        InputError: the file cannot be read, or a line of it is not CoNLL-U; the message names the line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}): expected a CoNLL-U file in UTF-8.") from error
    return parse_conllu(text, source=str(path))


def parse_conllu(text: str, *, source: str = "text") -> list[Sentence]:
    """Sentences of CoNLL-U text.

    Words are put together as their forms and ``SpaceAfter=No`` say. A contraction (``3-4``) whose words make up its
    form exactly is divided among them; of any other its first word gets all characters. Empty nodes (``5.1``) are
    skipped.

    Arguments:
        source: its name in messages.

    Raises:
        InputError: it holds no sentence, or a line is not CoNLL-U; the message names the line.

    Example:
        >>> lines = ["1 Birds _ _ _ _ 2 nsubj _ _", "2 sing _ _ _ _ 0 root _ SpaceAfter=No"]
        >>> (sentence,) = parse_conllu("\\n".join(lines).replace(" ", "\\t"))
        >>> sentence.text, sentence.words[0].relation, sentence.words[0].head
        ('Birds sing', 'nsubj', 1)
    """
    sentences: list[Sentence] = []
    rows: list[_Row] = []
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        place = f"{source}, line {number}"
        if line.strip() and not line.startswith("#"):
            rows += _rows(line, place)
        elif not line.strip() and rows:
            sentences.append(_sentence(rows))
            rows = []
    if not sentences:
        raise InputError(f"{source} holds no sentence: expected CoNLL-U, {N_COLUMNS} columns and a blank line between.")
    return sentences


def _rows(line: str, place: str) -> Iterator[_Row]:
    """The line as a row; nothing for an empty node."""
    columns = line.split("\t")
    if len(columns) != N_COLUMNS:
        _refuse(place, f"has {len(columns)} columns", f"{N_COLUMNS}, divided by tabs")
    number, form, head, relation, misc = (columns[index] for index in (0, 1, 6, 7, 9))
    found = re.fullmatch(r"(\d+)(?:-(\d+)|(\.\d+))?", number, re.ASCII)
    if found is None:
        _refuse(place, f"has the ID {number!r}", "a number, a range such as 3-4, or an empty node such as 5.1")
    if not form:
        _refuse(place, "has no FORM", "the word")
    if found[3] is None:
        first, last = int(found[1]), int(found[2] or found[1])
        space = "" if "SpaceAfter=No" in misc.split("|") else " "
        yield _Row(place, first, last, form, head, relation, space)


def _sentence(rows: Sequence[_Row]) -> Sentence:
    words = [row for row in rows if row.first == row.last]
    for expected, row in enumerate(words, start=1):
        if row.first != expected:
            _refuse(row.place, f"has the ID {row.first}", f"{expected}, as words are counted from 1 without gaps")
    text = ""
    spans: dict[int, tuple[int, int]] = {}
    for row in rows:
        if row.first in spans:
            continue  # a word of a contraction
        if row.last > len(words) or row.last < row.first:
            _refuse(row.place, f"has the ID {row.first}-{row.last}", "the words of a contraction right below it")
        forms = [word.form for word in words[row.first - 1 : row.last]]
        spans |= zip(range(row.first, row.last + 1), _spans(row.form, forms, len(text)), strict=True)
        text += row.form + row.space
    arcs = [_arc(row, len(words)) for row in words]
    return Sentence(
        text=text.rstrip(" "),
        words=tuple(
            Word(form=row.form, start=spans[row.first][0], end=spans[row.first][1], head=head, relation=row.relation)
            for row, head in zip(words, arcs, strict=True)
        ),
        place=rows[0].place,
    )


def _spans(form: str, forms: Sequence[str], start: int) -> Iterator[tuple[int, int]]:
    """Characters of the words written as one form that begins at `start`."""
    lengths = [len(part) for part in forms] if "".join(forms) == form else [len(form), *[0] * (len(forms) - 1)]
    for length in lengths:
        yield start, start + length
        start += length


def _arc(row: _Row, n_words: int) -> int | None:
    """Index of the governor; None for the root."""
    if not re.fullmatch(r"\d+", row.head, re.ASCII) or int(row.head) > n_words or int(row.head) == row.first:
        _refuse(
            row.place, f"has the HEAD {row.head!r}", f"the number of another word up to {n_words}, or 0 for the root"
        )
    if row.relation in ("", "_"):
        _refuse(row.place, "has no DEPREL", "the name of the relation")
    return int(row.head) - 1 if int(row.head) else None


def _refuse(place: str, problem: str, expected: str) -> NoReturn:
    raise InputError(f"{place} {problem}: expected {expected}. Correct the file, or remove the sentence.")
