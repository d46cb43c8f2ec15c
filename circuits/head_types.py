"""What heads do whatever the task: scores on repeated random tokens."""

from __future__ import annotations

from interp.model.model import Model
from interp.results import HeadScores
from interp.scanning import scan
from interp.stimuli import repeated_tokens

TYPES = ("previous-token", "duplicate-token", "induction")


def head_types(model: Model, *, seed: int, progress: bool | None = None) -> dict[str, HeadScores]:
    """Previous-token, duplicate-token and induction scores on repeated random tokens.

    Raises:
        InputError: the context or the vocabulary is too small for two copies of two tokens.
    """
    found = scan(model, repeated_tokens(model, seed=seed), TYPES, seed=seed, progress=progress)
    return {name: scores for name, scores in found.items() if isinstance(scores, HeadScores)}
