"""What heads copied: pure functions from attention rows and token ids to retrieval scores.

A *step* is one answer token; its row is the attention row that produced it, whose query is the token before.
"""

from __future__ import annotations

import re
from collections import Counter

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def copy_hits(
    attended: Int[Tensor, "layer head step"],
    answer: Int[Tensor, " step"],
    needle_tokens: Int[Tensor, " token"],
    needle_start: int,
) -> Bool[Tensor, "layer head step"]:
    """Whether a head's most attended key lies in the needle and holds the very token that is being written.

    Arguments:
        attended: position of the largest attention of each row.
        answer: the token written at each step.
        needle_tokens: the needle as it stands in the haystack, from position `needle_start` on.
    """
    place = attended - needle_start
    inside = (place >= 0) & (place < len(needle_tokens))
    return inside & (needle_tokens[place.clamp(0, len(needle_tokens) - 1)] == answer)


def copy_recall(
    hits: Bool[Tensor, "*head step"], answer: Int[Tensor, " step"], needle_tokens: Int[Tensor, " token"]
) -> Float[Tensor, "*head"]:
    """Retrieval score of one instance.

    *Formula*: ``|g intersect k| / |k|`` with ``k`` the set of the needle's tokens and ``g`` those that the head copied
    at some step. *Range* [0, 1].
    *Source*: Wu et al. 2024, arXiv 2404.15574, section 2. Difference: their code adds ``1 / len(k)`` at every step, so
    that an answer which repeats itself scores above 1 (1.79 in a published file).

    Example:
        >>> hits = torch.tensor([[True, True, False]])
        >>> copy_recall(hits, torch.tensor([5, 5, 7]), torch.tensor([5, 7])).tolist()
        [0.5]
    """
    distinct = needle_tokens.unique()
    written = answer == distinct[:, None]
    return (hits[..., None, :] & written).any(-1).double().mean(-1)


def copy_mass(
    mass: Float[Tensor, "*head step token"], answer: Int[Tensor, " step"], needle_tokens: Int[Tensor, " token"]
) -> Float[Tensor, "*head"]:
    """Soft retrieval score: attention to the needle's copies of the token being written, mean over steps that have any.

    *Range* [0, 1]; NaN when no answer token stands in the needle. Ours: unlike the argmax it has no ties, and it
    resolves heads that share a token between several keys.

    Arguments:
        mass: attention of every step to every token of the needle.
    """
    same = answer[:, None] == needle_tokens
    counted = same.any(-1)
    return (mass * same).sum(-1)[..., counted].double().mean(-1)


def copy_chance(
    seen: Bool[Tensor, "step token"],
    n_visible: Float[Tensor, " step"],
    answer: Int[Tensor, " step"],
    needle_tokens: Int[Tensor, " token"],
) -> tuple[float, float]:
    """Expected recall of a head whose argmax falls on a random visible key, and soft score of uniform attention.

    Arguments:
        seen: which tokens of the needle each step sees; all of them but for sliding windows.
        n_visible: how many keys it sees.
    """
    same = answer[:, None] == needle_tokens
    hit = (same & seen).sum(-1).double() / n_visible
    written = answer == needle_tokens.unique()[:, None]
    missed = torch.where(written, 1 - hit, 1.0).prod(-1)
    return float((1 - missed).mean()), float(hit[same.any(-1)].mean())


def rouge_recall(answer: str, reference: str) -> float:
    """ROUGE-1 recall: share of the reference's words, counted with repetition, that the answer has too.

    The official code also cuts words to their stems.

    Example:
        >>> rouge_recall("It lies in a Box.", "in a green box")
        0.75
    """
    words, wanted = (Counter(re.findall(r"\w+", text.lower())) for text in (answer, reference))
    return (words & wanted).total() / max(1, wanted.total())
