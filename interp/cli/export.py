"""Results as JSON and CSV text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from interp.results import HeadScores


def scores_document(scores: HeadScores) -> dict[str, Any]:
    """Everything in a result, heads from the highest score to the lowest, those without a score last."""
    return {
        "name": scores.name,
        "unit": scores.unit,
        "notes": scores.notes,
        "provenance": scores.provenance.to_dict(),
        "heads": ranked_frame(scores).to_dict("records"),
    }


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
