"""The exception tree: what is a kind of what, and that the drawing in the module says the same."""

import warnings

import pytest

from interp import errors

KINDS = ["ModelNotSupported", "HookNotLive", "InputError", "ResultFormatError"]


@pytest.mark.parametrize("name", KINDS)
def test_every_error_is_an_interp_error_and_is_drawn(name: str) -> None:
    error = getattr(errors, name)
    assert error.__bases__ == (errors.InterpError,)
    assert f"── {name} " in (errors.__doc__ or "")


def test_interp_error_is_an_ordinary_exception() -> None:
    assert errors.InterpError.__bases__ == (Exception,)


def test_analysis_warnings_can_be_chosen_by_their_own_kind() -> None:
    with pytest.warns(errors.AnalysisWarning, match="fell back"):
        warnings.warn("fell back", errors.AnalysisWarning, stacklevel=1)
