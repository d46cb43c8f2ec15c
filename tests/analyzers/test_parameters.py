"""Parameters that make no sense are refused, by every analyzer."""

from dataclasses import fields, replace

import pytest

from interp.analyzers import ANALYZERS, Analyzer
from interp.analyzers.visual_sinks import VisualSinks
from interp.errors import InputError

NONSENSE = {
    "window": -1, "first_query": -1, "reach": -1, "nearest": -1, "farthest": -1, "broad": -1.0, "sink": -1,
    "recent": -1, "threshold": -1.0, "share": -1.0, "tau": -1.0, "min_magnitude": -1.0, "min_ratio": -1.0,
    "min_queries": 0, "key": -1, "later_factor": -1.0, "epsilon": 2.0, "normalisation": "by mood", "grid": (3,),
}  # fmt: skip
# Any seed does, a switch has no wrong side, and these are checked against the model.
FREE = {"seed", "exclude_bos", "exclude_current_token", "skip_first", "ids", "image_tokens", "dims"}
CASES = [(analyzer, field.name) for analyzer in ANALYZERS for field in fields(analyzer) if field.name not in FREE]


def default(analyzer: type[Analyzer]) -> Analyzer:
    return VisualSinks(image_tokens=frozenset({1})) if analyzer is VisualSinks else analyzer()


@pytest.mark.parametrize(("analyzer", "parameter"), CASES, ids=[f"{a.name}.{name}" for a, name in CASES])
@pytest.mark.usefixtures("unchecked_annotations")
def test_nonsense_is_refused(analyzer: type[Analyzer], parameter: str) -> None:
    with pytest.raises(InputError):
        replace(default(analyzer), **{parameter: NONSENSE[parameter]})


def test_the_sentence_names_the_analyzer_the_value_and_what_was_expected() -> None:
    (found,) = [analyzer for analyzer in ANALYZERS if analyzer.name == "local-mass"]
    with pytest.raises(InputError, match=r"^local-mass was given window=0: expected at least 1\.$"):
        found(window=0)  # type: ignore[call-arg]
