"""Results on disk: a directory with `result.json` for words and numbers and `tensors.safetensors` for tensors.

Nothing is pickled. Each file is written beside its final place and renamed, the JSON last, and the JSON holds
the checksum of the tensors; so an interrupted save is noticed when it is read.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from interp.errors import InputError, ResultFormatError
from interp.frozen import restore_json, thaw_json

FORMAT_VERSION = 1
JSON_FILE = "result.json"
TENSOR_FILE = "tensors.safetensors"


class StoredResult(NamedTuple):
    """A result as it lies on disk: its kind, its JSON fields, its tensors by name."""

    kind: str
    fields: dict[str, Any]
    tensors: dict[str, Tensor]


def write_result(directory: str | Path, result: StoredResult) -> Path:
    """Write a result into `directory`, which is made if needed; other files in it stay.

    Raises:
        InputError: `directory` is a file, or cannot be written.
    """
    path = Path(directory)
    packed = save(result.tensors)
    document = {
        "format_version": FORMAT_VERSION,
        "kind": result.kind,
        "tensors": {name: list(tensor.shape) for name, tensor in result.tensors.items()},
        "tensors_sha256": hashlib.sha256(packed).hexdigest(),
        "fields": thaw_json(result.fields),
    }
    text = json.dumps(document, indent=2, allow_nan=False)
    try:
        path.mkdir(parents=True, exist_ok=True)
        replace_file(path / TENSOR_FILE, packed)
        replace_file(path / JSON_FILE, text.encode())
    except OSError as error:
        raise InputError(
            f"The result cannot be saved to {path} ({error.strerror}): expected a directory that can be written; "
            "choose another path."
        ) from error
    return path


def read_result(directory: str | Path) -> StoredResult:
    """Read what `write_result` wrote.

    Raises:
        ResultFormatError: something is missing, damaged, inconsistent, or newer than this version.
    """
    path = Path(directory)
    document = _read_document(path / JSON_FILE)
    _check_version(document, path)
    try:
        kind, fields = document["kind"], restore_json(document["fields"])
        shapes, checksum = document["tensors"], document["tensors_sha256"]
    except KeyError as error:
        raise _damaged(path / JSON_FILE, f"it has no field {error}") from error
    if not (isinstance(kind, str) and isinstance(fields, dict) and isinstance(shapes, dict)):
        raise _damaged(path / JSON_FILE, "its fields have the wrong types")
    return StoredResult(kind, fields, _read_tensors(path / TENSOR_FILE, shapes, checksum))


def replace_file(path: Path, content: bytes) -> None:
    """Write a file beside its place and rename it, so that there is always a whole one."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(_read_bytes(path))
    except (RecursionError, ValueError) as error:
        raise _damaged(path, f"it is not JSON ({error})") from error
    if not isinstance(document, dict):
        raise _damaged(path, f"expected an object, found a {type(document).__name__}")
    return document


def _check_version(document: Mapping[str, Any], path: Path) -> None:
    found = document.get("format_version")
    if type(found) is not int or found < 1:
        raise _damaged(path / JSON_FILE, f"its format_version is {found!r}, expected a number from 1")
    if found > FORMAT_VERSION:
        raise ResultFormatError(
            f"The result in {path} has format version {found}, newer than {FORMAT_VERSION}, the newest this version "
            "of interp reads; upgrade interp."
        )


def _read_tensors(path: Path, shapes: Mapping[str, Any], checksum: object) -> dict[str, Tensor]:
    """The tensors named in `shapes`, in that order, after checking that the file is the one that was saved."""
    packed = _read_bytes(path)
    try:
        tensors = load(packed)
    except SafetensorError as error:
        raise _damaged(path, f"it is not a safetensors file ({error})") from error
    for name, shape in shapes.items():
        if name not in tensors:
            raise _damaged(path, f"the tensor {name!r} is missing")
        if list(tensors[name].shape) != shape:
            raise _damaged(path, f"the tensor {name!r} has shape {list(tensors[name].shape)}, expected {shape}")
    if hashlib.sha256(packed).hexdigest() != checksum:
        raise _damaged(path, f"it does not belong to the {JSON_FILE} beside it (the checksums differ)")
    return {name: tensors[name] for name in shapes}


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ResultFormatError(
            f"No saved result can be read at {path.parent}: {path.name} gives '{error.strerror}'; expected a directory "
            f"with {JSON_FILE} and {TENSOR_FILE}; check the path, or save the result again."
        ) from error


def _damaged(path: Path, problem: str) -> ResultFormatError:
    return ResultFormatError(
        f"The saved result file {path} is damaged: {problem}; restore it from a copy, or save the result again."
    )
