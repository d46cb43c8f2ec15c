"""Word lists of the tasks, and which of their words a tokenizer can use as one token."""

from collections.abc import Sequence
from functools import cache

from transformers import PreTrainedTokenizerBase

from interp.errors import InputError
from interp.paths import data_dir


@cache
def word_list(name: str) -> tuple[str, ...]:
    """The words of `data/words/NAME.txt`, in file order without repetitions; lines that start with `#` are headings."""
    lines = (data_dir() / "words" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return tuple(dict.fromkeys(word for line in lines if not line.startswith("#") for word in line.split()))


@cache
def word_pairs(name: str) -> tuple[tuple[str, str], ...]:
    """The (subject, answer) pairs of `data/relations/NAME.tsv`, in file order."""
    lines = (data_dir() / "relations" / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [tuple(line.split("\t")) for line in lines if line]
    return tuple((subject, answer) for subject, answer in pairs)


def token_count(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> list[int]:
    """How many tokens each word takes in the middle of a sentence, that is after another word and a space.

    A word that the tokenizer does not know counts as zero tokens, so that it is never taken for a single one.
    """
    carrier = "the"
    prefix = tokenizer(carrier, add_special_tokens=False)["input_ids"]
    encoded = tokenizer([f"{carrier} {word}" for word in words], add_special_tokens=False)["input_ids"]
    unknown = tokenizer.unk_token_id
    counts = []
    for ids in encoded:
        known = ids[: len(prefix)] == prefix and unknown not in ids
        counts.append(len(ids) - len(prefix) if known else 0)
    return counts


def single_token_words(
    tokenizer: PreTrainedTokenizerBase, words: Sequence[str], *, what: str, at_least: int
) -> tuple[str, ...]:
    """The words that are one token in the middle of a sentence.

    Arguments:
        what: what the words are ("names"), for the error message.
        at_least: how many must survive for the task to make sense.

    Raises:
        InputError: fewer than `at_least` words survive.
    """
    counts = token_count(tokenizer, words)
    kept = tuple(word for word, count in zip(words, counts, strict=True) if count == 1)
    if len(kept) < at_least:
        raise InputError(
            f"Only {len(kept)} of {len(words)} {what} are a single token for this tokenizer, but the task needs "
            f"{at_least}; use a model whose vocabulary has whole words."
        )
    return kept
