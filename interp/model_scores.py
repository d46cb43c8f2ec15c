"""Scores that a model has by itself, without data of the user's: from its weights, or from a stimulus of their own.

They stand beside the analyzers of `interp.scan`: an analyzer reads attention on whatever is scanned, a model score is a
function of a model and a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from interp.analyzers.composition import composition, prefix_matching_from_weights, strongest_source
from interp.analyzers.copying import copying_from_logits, copying_from_weights
from interp.errors import InputError, ModelNotSupported
from interp.model.load import load
from interp.model.model import Model
from interp.results import HeadScores

MODEL_SCORES: Mapping[str, Callable[[Model, int], HeadScores]] = {
    "copying-weights": lambda model, seed: copying_from_weights(model, seed=seed),
    "copying-logits": lambda model, seed: copying_from_logits(model, seed=seed),
    "q-composition": lambda model, _: strongest_source(composition(model, "Q")),
    "k-composition": lambda model, _: strongest_source(composition(model, "K")),
    "v-composition": lambda model, _: strongest_source(composition(model, "V")),
    "prefix-matching-weights": lambda model, seed: prefix_matching_from_weights(model, seed=seed),
}


def score_model(model: Model | str, names: Sequence[str] | None = None, *, seed: int = 0) -> dict[str, HeadScores]:
    """The model scores by name.

    Arguments:
        names: keys of `MODEL_SCORES`; None for all that the model supports.
        seed: of stimuli and random controls.

    Raises:
        InputError: there is no such score.
        ModelNotSupported: a score asked for by name, or every score, cannot be had of this model.

    Example:
        >>> score_model("mini", ["copying-weights"])["copying-weights"].scores.shape[1]
        8
    """
    loaded = load(model) if isinstance(model, str) else model
    unknown = [name for name in names or () if name not in MODEL_SCORES]
    if unknown:
        raise InputError(f"There is no model score {unknown[0]!r}. Choose from {', '.join(MODEL_SCORES)}.")
    found: dict[str, HeadScores] = {}
    refusal: ModelNotSupported | None = None
    for name in names or MODEL_SCORES:
        try:
            found[name] = MODEL_SCORES[name](loaded, seed)
        except ModelNotSupported as error:
            if names is not None:
                raise
            refusal = error
    if refusal is not None and not found:
        raise refusal
    return found
