"""The words of `mini-sinks` and their tokens. They were chosen for this project; licence MIT, as the project."""

from collections.abc import Mapping
from functools import cache

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from circuits.training.tokenizer import SPACE, SPECIAL_TOKENS, word_level_tokenizer

WORDS: Mapping[str, tuple[str, ...]] = {
    "determiner": ("the", "a", "this", "every"),
    "adjective": ("old", "small", "quiet", "red", "green", "tall", "young", "wise"),
    "noun": ("fox", "bird", "king", "girl", "river", "stone", "bridge", "garden", "horse", "tree", "boat", "door"),
    "verb": ("sees", "finds", "likes", "follows", "hears", "paints", "guards", "leaves"),
    "preposition": ("near", "under", "behind", "with"),
    "conjunction": ("and", "then"),
    "stop": (".",),
}
"""The words of the chain, by class."""
REACH: Mapping[str, int] = {"once": 1, "twice": 2, "thrice": 3}
"""The triggers, and how many places before itself each finds the word that it brings back."""

CONTEXT = 256
CHAIN_WORDS = tuple(word for words in WORDS.values() for word in words)
PAD, BOS = (list(SPECIAL_TOKENS).index(f"{role}_token") for role in ("pad", "bos"))
FIRST_WORD = len(SPECIAL_TOKENS)
FIRST_TRIGGER = FIRST_WORD + len(CHAIN_WORDS)
N_TOKENS = FIRST_TRIGGER + len(REACH)


@cache
def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, the full stop apart, a BOS in front."""
    tokens = (word if word == "." else SPACE + word for word in (*CHAIN_WORDS, *REACH))
    return word_level_tokenizer(tokens, cut_at=r"\.", context=CONTEXT, padding_side="right")


def has_these_words(tokenizer: PreTrainedTokenizerBase | None) -> bool:
    """Whether a tokenizer knows the words of this text, and no others."""
    return tokenizer is not None and tokenizer.get_vocab() == build_tokenizer().get_vocab()
