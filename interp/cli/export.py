"""Results as JSON and CSV text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from interp.results import HeadScores, TokenMap


def scores_document(scores: HeadScores) -> dict[str, Any]:
    """Everything in a result, heads from the highest score to the lowest, those without a score last."""
    return {
        "name": scores.name,
        "unit": scores.unit,
        "notes": scores.notes,
        "provenance": scores.provenance.to_dict(),
        "heads": ranked_frame(scores).to_dict("records"),
    }


def results_document(results: Mapping[str, HeadScores | TokenMap]) -> dict[str, Any]:
    """Everything in the results of a scan, by analyzer."""
    return {
        name: {
            "kind": result.KIND,
            "unit": result.unit,
            "notes": result.notes,
            "provenance": result.provenance.to_dict(),
            "rows": result.to_frame().to_dict("records"),
        }
        for name, result in results.items()
    }


def tidy_frame(results: Mapping[str, HeadScores | TokenMap]) -> pd.DataFrame:
    """One row per analyzer and head (or per analyzer and entry of a map, with its number as score).

    What an analyzer does not have, such as a column of another one, is empty.
    """
    import pandas as pd

    frames = {name: result.to_frame().rename(columns={"value": "score"}) for name, result in results.items()}
    return pd.concat(frames, names=["analyzer"]).reset_index(level="analyzer").reset_index(drop=True)


def ranked_frame(scores: HeadScores) -> pd.DataFrame:
    """One row per head, highest score first; of equal scores the lower layer, then the lower head, first."""
    return scores.to_frame().sort_values("score", ascending=False, kind="stable", na_position="last")


def to_json(document: Any) -> str:
    """JSON text with null for NaN and infinities, which JSON lacks, and a line end."""
    return json.dumps(_plain(document), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
