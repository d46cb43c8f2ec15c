"""Everything this package raises on purpose.

    InterpError
    ├── ModelNotSupported     the model cannot be read or edited faithfully; the failed check is named
    ├── HookNotLive           a hook that should have run did not run, or its edits changed nothing
    ├── InputError            an argument, prompt, file or name given by the user is unusable
    └── ResultFormatError     a saved result is missing, damaged, or newer than this version

    AnalysisWarning           (a UserWarning) a fallback was taken; the result records it too

Every message says what happened with the values, what was expected, and what to do.
"""


class InterpError(Exception):
    """Base of every error raised on purpose by `interp`, `circuits` and `probes`."""


class ModelNotSupported(InterpError):
    """The model cannot be read or edited faithfully, so it is refused rather than measured wrongly."""


class HookNotLive(InterpError):
    """A hook that should have run did not run, or its edits did not reach the model's output."""


class InputError(InterpError):
    """An argument, prompt, file or name given by the user cannot be used as it is."""


class ResultFormatError(InterpError):
    """A saved result is missing, damaged, inconsistent, or written by a newer version."""


class AnalysisWarning(UserWarning):
    """A fallback was taken; the same sentence stands in the result's provenance."""
