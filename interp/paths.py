"""Where the files that come with the package lie: embedded models, names, word lists, small texts."""

from pathlib import Path

from interp.errors import InputError

_PACKAGE = Path(__file__).resolve().parent


def data_dir() -> Path:
    """The directory with the embedded models and word lists.

    In an installed wheel it is `interp/_data`; in a checkout it is `data/` beside `pyproject.toml`.

    Raises:
        InputError: neither is there, so the installation is incomplete.
    """
    installed, checkout = _PACKAGE / "_data", _PACKAGE.parent / "data"
    if installed.is_dir():
        return installed
    # A directory called `data` next to the package counts only in a checkout: site-packages may hold a stranger's.
    if (_PACKAGE.parent / "pyproject.toml").is_file() and checkout.is_dir():
        return checkout
    raise InputError(
        f"The data files of interp are missing: expected {installed} (installed) or {checkout} (checkout); "
        "install the package again, or restore the directory with git."
    )
