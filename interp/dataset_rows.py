"""Rows of a file, or of one split of a dataset: streamed from the hub or a directory, or out of the local cache.

The `datasets` package tries for half a minute, or for minutes, to reach a hub that is not there, and lists
configurations and splits in the middle of its own errors. Here the hub is asked once, and what can be chosen is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from interp.errors import InputError

# The builder of the `datasets` package for each kind of file, and its options; every other file is taken for text.
BUILDERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".ndjson": ("json", {}),
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".parquet": ("parquet", {}),
}
PACKED = (".gz", ".bz2", ".xz", ".zst")
"""Endings of compressed files, which `datasets` unpacks by itself."""
SECONDS = 10.0
"""Patience with a hub that does not answer."""


def file_rows(path: Path, *, sample_by: str) -> Iterable[dict[str, Any]]:
    """The rows of a local file, streamed; see `interp.data.texts_of_file`."""
    import datasets

    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in PACKED] or [""]
    plain = ("text", {"sample_by": sample_by, "encoding": "utf-8-sig"})
    kind, options = BUILDERS.get(suffixes[-1], plain)
    return datasets.load_dataset(kind, data_files=str(path), split="train", streaming=True, **options)


def dataset_rows(name: str, *, config: str | None, split: str) -> Iterable[dict[str, Any]]:
    """The rows of a split, one after the other; see `interp.data.texts_of_dataset`.

    Raises:
        InputError: there is no such directory, dataset, configuration or split, the dataset is closed to the user or
            needs code of its own, or the hub cannot be reached.
    """
    import datasets.config

    directory = Path(name).expanduser()
    if name.strip() and directory.is_dir():
        # The whole path: a directory can have the name of a format, which means something else to `datasets`.
        return _split(_builder(str(directory.resolve()), name, config).as_streaming_dataset, name, split)
    _check_name(name)
    # What is streamed is never in the local cache, and without a network there is nothing else.
    if datasets.config.HF_HUB_OFFLINE:
        return _split(_cached_builder(name, config).as_dataset, name, split)
    _check_hub(name)
    return _split(_builder(name, name, config).as_streaming_dataset, name, split)


def _check_name(name: str) -> None:
    """Refuse what cannot be a name on the hub."""
    if not name.strip() or name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise InputError(
            f"There is no directory {name or repr(name)}. Check the path, or give a dataset of the hub such as "
            "roneneldan/TinyStories."
        )
    if name in {"text", *(kind for kind, _ in BUILDERS.values())}:
        raise InputError(f"{name} is a format, not a dataset. Give a file (--text), a directory, or a name of the hub.")


def _check_hub(name: str) -> None:
    """Ask the hub for the dataset, once."""
    from huggingface_hub import HfApi

    # Of httpx or httpx2, whichever this version of the hub's client speaks through.
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]
        RepositoryNotFoundError,
    )

    try:
        HfApi().dataset_info(name, timeout=SECONDS)
    except RepositoryNotFoundError as error:
        raise InputError(
            f"There is no dataset {name!r} on the hub, or it is private. Check the spelling, or log in with "
            "`hf auth login`."
        ) from error
    except HfHubHTTPError as error:
        raise InputError(
            f"The hub does not give {name!r} away ({_first_line(error)}). Try again later, or use a local file."
        ) from error
    except (HTTPError, OSError) as error:
        raise InputError(
            f"Couldn't reach {name!r} on the hub ({_first_line(error)}). Check the network, set HF_HUB_OFFLINE=1 to "
            "use a copy in the local cache, or use a local file."
        ) from error


def _builder(source: str, name: str, config: str | None) -> Any:
    """What reads a directory or a dataset of the hub."""
    import datasets
    import datasets.exceptions

    try:
        return datasets.load_dataset_builder(source, name=config)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise InputError(f"{' '.join(str(error).split())} Log in with `hf auth login`, or use a local file.") from error
    except RuntimeError as error:
        if "scripts" not in str(error):
            raise
        raise InputError(
            f"{name} needs code of its own to be read, which is not run ({error}). Use a copy of it in files such as "
            "Parquet or JSONL."
        ) from error
    except ValueError as error:
        known = datasets.get_dataset_config_names(source)
        if config in known or (config is None and len(known) < 2):
            raise
        problem = "several configurations" if config is None else f"no configuration {config!r}"
        raise InputError(f"{name} has {problem}. Choose one of {', '.join(known)}.") from error


def _cached_builder(name: str, config: str | None) -> Any:
    """What reads the copy in the local cache."""
    import datasets

    try:
        builder = datasets.load_dataset_builder(name, name=config)
    except ConnectionError as error:
        raise InputError(
            f"Couldn't reach {name!r} on the hub: HF_HUB_OFFLINE is set, and the local cache has no copy. Check the "
            "name, unset HF_HUB_OFFLINE, or use a local file."
        ) from error
    except ValueError as error:  # which lists the configurations in the cache
        said = " ".join(str(error).split())
        raise InputError(f"{said}. Choose one of these (--config), or unset HF_HUB_OFFLINE.") from error
    builder.download_and_prepare()
    return builder


def _split(read: Any, name: str, split: str) -> Any:
    """The rows of one split, or of several with a plus between."""
    try:
        return read(split=split)
    except ValueError as error:
        known = list(read())
        if split in known:
            raise
        raise InputError(f"{name} has no split {split!r}. Choose one of {', '.join(known)}.") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
