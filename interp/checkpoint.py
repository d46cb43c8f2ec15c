"""An interrupted scan goes on: what its readers have accumulated lies in one file, replaced at once."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from interp.analyzers.analyzer import AnalyzerReader
from interp.analyzers.reader_state import pack_reader, restore_reader
from interp.errors import InputError, ResultFormatError
from interp.storage import replace_file

FILE = "scan.safetensors"
SHARE = 0.05
"""Of the time of a scan that saving it may take."""


class Checkpoint:
    """The state of one scan in a directory.

    Arguments:
        directory: made if needed.
        identity: what makes two scans the same, JSON-like: model, prompts, analyzers. Another scan's state is refused.
        readers: the scan's fresh readers by name.

    Raises:
        InputError: the directory cannot be written, or a reader cannot be saved.
    """

    def __init__(self, directory: Path, identity: Mapping[str, Any], readers: Mapping[str, AnalyzerReader]) -> None:
        self.path, self.readers = directory / FILE, readers
        self.identity = json.loads(json.dumps(identity))
        for reader in readers.values():
            pack_reader(reader, {})
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error
        self._saved_at, self._took = time.monotonic(), 0.0

    def resume(self) -> int:
        """Bring the readers to where the scan was left, and say how many examples they have read; 0 for a new scan.

        Raises:
            InputError: the directory holds another scan.
            ResultFormatError: its file is damaged.
        """
        if not self.path.exists():
            return 0
        try:
            words, tensors = _read(self.path)
            found = words["identity"]
            if found != self.identity:
                differing = ", ".join(name for name in self.identity if found.get(name) != self.identity[name])
                raise InputError(
                    f"{self.path.parent} holds another scan (other {differing}), and the two cannot be mixed. "
                    "Choose another directory, or delete this one to start anew."
                )
            for name, reader in self.readers.items():
                restore_reader(reader, words["readers"][name], tensors)
            return int(words["examples"])
        except (AttributeError, KeyError, OSError, SafetensorError, TypeError, ValueError) as error:
            raise ResultFormatError(
                f"The saved scan {self.path} is damaged ({error}). Delete it to start anew."
            ) from error

    def keep(self, n_examples: int, *, last: bool = False) -> None:
        """Save the readers after so many examples, unless that would take more than its `SHARE` of the time."""
        began = time.monotonic()
        if not last and (began - self._saved_at) * SHARE < self._took:
            return
        tensors: dict[str, Tensor] = {}
        packed = {name: pack_reader(reader, tensors) for name, reader in self.readers.items()}
        words = {"identity": self.identity, "examples": n_examples, "readers": packed}
        try:
            replace_file(self.path, save(tensors, metadata={"scan": json.dumps(words)}))
        except OSError as error:
            raise self._unwritable(error) from error
        self._saved_at = time.monotonic()
        self._took = self._saved_at - began

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(f"The scan cannot be saved to {self.path.parent} ({error.strerror}). Choose another path.")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        return json.loads((file.metadata() or {})["scan"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
