"""Does a model that was trained again do what its card says?"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from circuits.evaluate import KEY, card_values
from interp.paths import data_dir

SHARE_TOLERANCE = 0.05
"""By how much a share or a mass may differ from the card's, absolutely."""
OTHER_TOLERANCE = 0.25
"""By how much anything else (logit differences, lengths) may differ, relative to the card's value."""

STATED = (
    "Trained again on a like machine with the same versions it has the same weights; elsewhere shares may differ from "
    f"this table by up to {SHARE_TOLERANCE:g}, and all\nother numbers by up to {OTHER_TOLERANCE:.0%} of their value, "
    "before the command calls the card not reproduced and exits with 1."
)
"""The sentence on the tolerance in the cards."""


log = logging.getLogger("circuits.training")


def compare_with_card(name: str, metrics: dict[str, Any], *, whole: bool = True) -> tuple[list[str], bool]:
    """What to tell about a model trained again, and whether it is within the tolerance that the card states.

    The same machine and versions give the same weights, since one thread sums in one order; another processor rounds
    otherwise, and training makes that a little different model. A recipe that differs from the card's asks for a new
    card and is not compared.

    Arguments:
        name: of the embedded model; the card is the one in `data/models`.
        metrics: what `metrics.json` would hold of the new model.
        whole: whether the run went to the recipe's last step; a trial is not compared.
    """
    if not whole:
        return ["The run was stopped before its last step, so the numbers were not compared."], True
    path = data_dir() / "models" / name / "metrics.json"
    if not path.is_file():
        return [f"{name} has no card yet, so nothing was compared."], True
    stated = json.loads(path.read_text(encoding="utf-8"))["recipe"]
    if json.loads(json.dumps(metrics["recipe"])) != stated:
        return [f"The recipe is not the one of the card of {name}, so the numbers were not compared."], True
    both = pd.DataFrame(metrics["card"]).merge(card_values(name).drop(columns="threshold"), on=KEY, how="outer")
    return _compared(both)


def close(out: Path, compared: tuple[list[str], bool]) -> None:
    """Tell how a saved model compares with its card; exit with 1 where it is out of tolerance."""
    findings, agrees = compared
    log.info("\n".join([*findings, f"saved to {out}"]))
    if not agrees:
        sys.exit(1)


def _compared(both: pd.DataFrame) -> tuple[list[str], bool]:
    """The same from rows with `value` and `card_value`; a row that one side lacks is out of tolerance."""
    difference = (both["value"] - both["card_value"]).abs()
    is_share = both["value"].between(0, 1) & both["card_value"].between(0, 1)
    allowed = both["card_value"].abs().mul(OTHER_TOLERANCE).where(~is_share, SHARE_TOLERANCE)
    off = both.loc[~(difference <= allowed)]
    line = f"{len(both)} numbers beside the card's: shares differ by at most {difference[is_share].max():.3f}"
    line += f" (allowed {SHARE_TOLERANCE:g})"
    if not is_share.all():
        relative = (difference / both["card_value"].abs())[~is_share].max()
        line += f", others by at most {relative:.1%} (allowed {OTHER_TOLERANCE:.0%})"
    lines = [f"{line}."]
    lines += [
        f"out of tolerance: {' '.join(row[column] for column in KEY)} is {row['value']:.3f}, the card says "
        f"{row['card_value']:.3f}"
        for row in off.to_dict("records")
    ]
    return lines, off.empty
