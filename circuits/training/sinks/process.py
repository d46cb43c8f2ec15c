"""The text of `mini-sinks`: a chain of words, and trigger words behind which an earlier word comes again.

The Bigram-Backcopy task of Guo et al. 2024, arXiv 2410.13835, with words for letters. There every trigger brings back
the token before it; here "once" brings back the word before it, "twice" the second and "thrice" the third word before
it, as in "the old fox twice old": the word in front of that where it is a trigger itself, and the first word of the row
where the row does not go back so far. Everywhere else the next word depends on the last one alone, so that a head which
looks back has something to do at triggers only.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from circuits.training.sinks.vocabulary import BOS, FIRST_TRIGGER, FIRST_WORD, N_TOKENS, REACH, WORDS

FOLLOWS: Mapping[str, Mapping[str, float]] = {
    "determiner": {"adjective": 0.4, "noun": 0.6},
    "adjective": {"adjective": 0.2, "noun": 0.8},
    "noun": {"verb": 0.5, "preposition": 0.2, "conjunction": 0.1, "stop": 0.2},
    "verb": {"determiner": 0.8, "preposition": 0.2},
    "preposition": {"determiner": 1.0},
    "conjunction": {"determiner": 0.75, "verb": 0.25},
    "stop": {"determiner": 0.75, "noun": 0.25},
}
"""Probability of the class of the next word, by the class of the last one."""
TRIGGER_SHARE = 0.1
"""Probability of a trigger behind an ordinary word; each is as likely as the others."""


def chain() -> Float[Tensor, "word word"]:
    """Probability of each word of the chain behind each other, triggers left out.

    *Formula*: ``P[i, j] = FOLLOWS[class of i][class of j] * w / sum of w over that class``, with ``w = 1 / (1 + (j - i)
    mod n)``, j counted within its class of n words and i over all words, so that each word prefers other successors.
    """
    kinds = [kind for kind, words in WORDS.items() for _ in words]
    rows: list[list[float]] = []
    for index, kind in enumerate(kinds):
        row: list[float] = []
        for name, words in WORDS.items():
            weights = [1 / (1 + (place - index) % len(words)) for place in range(len(words))]
            row += [FOLLOWS[kind].get(name, 0.0) * weight / sum(weights) for weight in weights]
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def word_shares() -> Float[Tensor, " word"]:
    """How often each word of the chain comes, ``pi = pi P``; what triggers bring back does not change it."""
    return torch.linalg.matrix_power(chain(), 256).mean(0)


@dataclass(frozen=True, kw_only=True)
class Process:
    """The process that writes the text.

    Attributes:
        copies: whether triggers bring words back. If not, any word may come behind them, as often as it comes in the
            text: the same words as often as before, and nothing to look back for.
    """

    copies: bool = True

    def sample(self, n: int, length: int, random: np.random.Generator) -> Int[Tensor, "row token"]:
        """`n` rows of `length` tokens, the BOS first."""
        sums = table().cumsum(-1)
        edges = (sums / sums[:, -1:]).numpy()  # the last one exactly 1, above every draw
        tokens = np.full((n, length), BOS)
        draws = random.random((n, length))
        for place in range(1, length):
            last = tokens[:, place - 1]
            tokens[:, place] = (edges[last] > draws[:, place, None]).argmax(-1)
            behind = last >= FIRST_TRIGGER
            if self.copies and behind.any():
                tokens[behind, place] = sources(torch.from_numpy(tokens[behind, :place]))[:, -1]
        return torch.from_numpy(tokens)

    def next_probabilities(self, tokens: Int[Tensor, "row token"]) -> Float[Tensor, "row token vocab"]:
        """The true probability of each token behind every token of rows that begin with the BOS."""
        found = table()[tokens]
        if not self.copies:
            return found
        return torch.where(is_trigger(tokens)[..., None], one_hot(sources(tokens), N_TOKENS).double(), found)


def table() -> Float[Tensor, "vocab vocab"]:
    """Probability of each token behind each other where nothing is brought back.

    Behind the BOS, and behind triggers, it is a word of the chain, as often as it comes in the text.
    """
    found = torch.zeros(N_TOKENS, N_TOKENS, dtype=torch.float64)
    found[:, FIRST_WORD:FIRST_TRIGGER] = word_shares()
    words = found[FIRST_WORD:FIRST_TRIGGER]
    words[:, FIRST_WORD:FIRST_TRIGGER] = chain() * (1 - TRIGGER_SHARE)
    words[:, FIRST_TRIGGER:] = TRIGGER_SHARE / len(REACH)
    return found


def is_trigger(tokens: Int[Tensor, "row token"]) -> Bool[Tensor, "row token"]:
    """Where a trigger stands."""
    return tokens >= FIRST_TRIGGER


def source_places(tokens: Int[Tensor, "row token"]) -> Int[Tensor, "row token"]:
    """Position of the word that each trigger brings back; at every other token its own position.

    Example:
        >>> once, twice, thrice = range(FIRST_TRIGGER, N_TOKENS)
        >>> source_places(torch.tensor([[BOS, 20, 21, 22, 23, once, 23, twice, 23, thrice]]))[0].tolist()
        [0, 1, 2, 3, 4, 4, 6, 4, 8, 6]
    """
    own = torch.arange(tokens.shape[1])
    reach = torch.tensor([0] * FIRST_TRIGGER + list(REACH.values()))
    places = (own - reach[tokens]).maximum(own.clamp_max(1))
    return places - (is_trigger(tokens) & is_trigger(tokens.gather(1, places))).long()


def sources(tokens: Int[Tensor, "row token"]) -> Int[Tensor, "row token"]:
    """The word that each trigger brings back; every other token itself."""
    return tokens.gather(1, source_places(tokens))


def chain_entropy() -> float:
    """Entropy of the next token behind an ordinary word, in nats: the least loss that a model can have there.

    *Formula*: ``sum_i pi_i H(P'_i)``, P' the chain with triggers.
    """
    return float(word_shares() @ torch.special.entr(table()[FIRST_WORD:FIRST_TRIGGER]).sum(-1))
