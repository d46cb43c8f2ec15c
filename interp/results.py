"""The values that analyses return: `HeadScores`, `TokenMap`, their `Provenance`, and the way back from disk."""

from pathlib import Path

from interp.agreement import Agreement
from interp.emergence import Emergence
from interp.errors import ResultFormatError
from interp.head_catalogue import HeadCatalogue
from interp.head_distances import HeadDistances
from interp.head_features import HeadFeatures
from interp.head_pairs import HeadPairs
from interp.head_scores import HeadScores
from interp.loss_curve import LossCurve
from interp.provenance import Provenance, hash_prompts
from interp.pruning import PruningCurve
from interp.storage import read_result
from interp.token_map import TokenEntry, TokenMap

__all__ = [
    "Agreement",
    "Emergence",
    "HeadCatalogue",
    "HeadDistances",
    "HeadFeatures",
    "HeadPairs",
    "HeadScores",
    "LossCurve",
    "Provenance",
    "PruningCurve",
    "TokenEntry",
    "TokenMap",
    "hash_prompts",
    "load_result",
]

_KINDS = (
    HeadScores,
    TokenMap,
    HeadPairs,
    LossCurve,
    HeadDistances,
    HeadFeatures,
    PruningCurve,
    Emergence,
    HeadCatalogue,
    Agreement,
)


def load_result(
    directory: str | Path,
) -> (
    HeadScores
    | TokenMap
    | HeadPairs
    | LossCurve
    | HeadDistances
    | HeadFeatures
    | PruningCurve
    | Emergence
    | HeadCatalogue
    | Agreement
):
    """Read a saved result of any kind.

    Raises:
        ResultFormatError: it is missing, damaged, of a kind nobody knows, or newer than this version.
    """
    stored = read_result(directory)
    for kind in _KINDS:
        if stored.kind == kind.KIND:
            return kind.from_stored(stored, directory)
    known = ", ".join(kind.KIND for kind in _KINDS)
    raise ResultFormatError(
        f"The result in {directory} is of the unknown kind {stored.kind!r}: expected one of {known}; upgrade interp, "
        "or check that the file was not edited."
    )
