"""Text from files and datasets, as sequences of tokens for `interp.scan`.

    texts_of_file(path)        a text, JSONL, JSON, CSV or Parquet file
    texts_of_dataset(name)     a dataset of the Hugging Face hub, streamed
    sequences(model, texts)    a `TokenBatch`: packed to one length, or one document per sequence

Both sources give one document after the other and read no further than is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from interp.dataset_rows import dataset_rows, file_rows
from interp.errors import InputError
from interp.model.model import Model
from interp.model.tokens import TokenBatch, encode, leading_tokens

Documents = Literal["document", "paragraph", "line"]

DEFAULT_LENGTH = 512
NO_TEXT = "There is no text: every document is empty. Choose another file, dataset or column."
PIECE_CHARACTERS = 100_000


def texts_of_file(path: str | Path, *, column: str | None = None, sample_by: Documents = "document") -> Iterator[str]:
    """The documents of a local file, in UTF-8 with or without a byte order mark.

    Arguments:
        path: ``.jsonl``, ``.json`` (a list of objects), ``.csv``, ``.tsv``, ``.parquet``; any other file is plain text.
            All but Parquet may be compressed (``.jsonl.gz``).
        column: which column holds the text; None for ``text``, or for the only column there is.
        sample_by: what is one document of a plain text: the whole file, a paragraph (blank lines between), or a line.

    Raises:
        InputError: the file cannot be read, has no such column, or holds something else than text there. Raised when
            the documents are read.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a directory. Give a file in it, or the directory as a dataset (--dataset).")
    if not path.is_file():
        raise InputError(f"There is no file {path}. Check the path.")
    if sample_by not in get_args(Documents):
        raise InputError(f"sample_by={sample_by!r} is unknown; choose one of {', '.join(get_args(Documents))}.")
    return _texts(str(path), column, partial(file_rows, path, sample_by=sample_by))


def texts_of_dataset(
    name: str, *, config: str | None = None, split: str = "train", column: str | None = None
) -> Iterator[str]:
    """The documents of a hub dataset, streamed; without a network, of its copy in the local cache.

    Arguments:
        name: such as ``roneneldan/TinyStories``; or a directory of data files, with a dataset card or without.
        config: configuration (subset) of the dataset, where it has several.
        split: such as ``train`` or ``validation``; several with a plus between.
        column: as in `texts_of_file`.

    Raises:
        InputError: the dataset cannot be reached, is closed to the user, needs code of its own, or has no such
            configuration, split or column. Raised when the documents are read.
    """
    if Path(name).is_file():
        raise InputError(f"{name} is a file, not a dataset. Give it as a text (--text) instead.")
    return _texts(name, column, partial(dataset_rows, name, config=config, split=split))


def sequences(
    model: Model,
    texts: Iterable[str],
    *,
    n: int,
    length: int | None = None,
    packed: bool = True,
    prepend_bos: bool | None = None,
) -> TokenBatch:
    """Cut documents into at most `n` sequences of tokens.

    Packed, documents follow one another with the EOS token between them (SEP where there is no EOS, nothing where there
    is neither), and are cut every `length` tokens, a BOS in front of each sequence taking one of them; a sequence can
    hold parts of several documents, and attention crosses from one to the next. This is the format of TransformerLens'
    ``tokenize_and_concatenate``. What does not fill the last sequence is dropped, unless it is the only one. Documents
    over 100,000 characters are tokenised in pieces cut at line ends.

    Kept apart, every sequence is one document, cut off at `length` tokens and padded on the right.

    Arguments:
        texts: documents, such as `texts_of_file` gives; empty ones are left out.
        n: number of sequences; fewer where the documents end.
        length: tokens per sequence, BOS included; None for 512, or for the model's context if that is shorter.
        packed: False to keep documents apart.
        prepend_bos: None for the tokenizer's own habit.

    Raises:
        InputError: no text at all, no tokenizer, or a length that the model does not take.
    """
    model.check_reads_text()
    length = sequence_length(model, n, length)
    documents = (text for text in texts if text.strip())
    if not packed:
        chosen = list(islice(documents, n))
        if not chosen:
            raise InputError(NO_TEXT)
        return encode(model.tokenizer, chosen, prepend_bos=prepend_bos, max_length=length).to(model.device)
    lead = leading_tokens(model.tokenizer, prepend_bos)
    rows = _cut(chain.from_iterable(_token_runs(model.tokenizer, documents)), length - len(lead), n)
    tokens = torch.tensor([[*lead, *row] for row in rows], device=model.device)
    return TokenBatch(tokens, torch.ones_like(tokens), bool(lead))


def _texts(source: str, column: str | None, read: Callable[[], Iterable[dict[str, Any]]]) -> Iterator[str]:
    import datasets.exceptions

    try:
        for number, row in enumerate(read(), start=1):
            text = row[_text_column(row, column, source)]
            if not isinstance(text, str | None):
                raise InputError(
                    f"Row {number} of {source} holds {type(text).__name__} in place of text. Choose another column."
                )
            yield text or ""
    except UnicodeDecodeError as error:
        raise InputError(f"{source} is not UTF-8 text ({error}). Save it as UTF-8.") from error
    except (EOFError, OSError, StopIteration, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error.__cause__ or error).split()).rstrip(".") or "it holds nothing"
        raise InputError(f"{source} cannot be read: {reason}. Check what it holds.") from error


def _text_column(row: dict[str, Any], wanted: str | None, source: str) -> str:
    columns = list(row)
    name = wanted or ("text" if "text" in row or len(columns) != 1 else columns[0])
    if name not in row:
        raise InputError(f"{source} has no column {name!r}. Choose one of {', '.join(columns)}.")
    return name


def sequence_length(model: Model, n: int, length: int | None) -> int:
    """Tokens of each of `n` sequences; None for 512, or for the model's context if that is shorter.

    Raises:
        InputError: no sequence at all, or a length that the model does not take.
    """
    longest = model.n_ctx or length or DEFAULT_LENGTH
    chosen = min(longest, DEFAULT_LENGTH) if length is None else length
    if n < 1 or not 2 <= chosen <= longest:
        raise InputError(
            f"{n} sequences of {chosen} tokens were asked for; expected at least one, of 2 to {longest} tokens, the "
            f"most that {model.name} takes."
        )
    return chosen


def _token_runs(tokenizer: Any, documents: Iterable[str]) -> Iterator[list[int]]:
    """Tokens of the documents, with a separator between them."""
    separator = next((i for i in (tokenizer.eos_token_id, tokenizer.sep_token_id) if i is not None), None)
    for index, document in enumerate(documents):
        if index and separator is not None:
            yield [separator]
        for piece in _pieces(document):
            yield tokenizer(piece, add_special_tokens=False, verbose=False).input_ids


def _pieces(document: str) -> Iterator[str]:
    start = 0
    while start < len(document):
        end = document.find("\n", start + PIECE_CHARACTERS) + 1 or len(document)
        yield document[start:end]
        start = end


def _cut(tokens: Iterator[int], length: int, n: int) -> list[list[int]]:
    """At most `n` rows of `length` tokens; one shorter row where there are fewer tokens than that."""
    rows = [list(islice(tokens, length))]
    while len(rows) < n and len(row := list(islice(tokens, length))) == length:
        rows.append(row)
    if not rows[0]:
        raise InputError(NO_TEXT)
    return rows
