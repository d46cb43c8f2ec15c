"""What every result has: a name, a unit, a range, its provenance, and `save`/`load`."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from interp.errors import InputError, ResultFormatError
from interp.frozen import FrozenDict, freeze_json
from interp.heads import STACKS
from interp.provenance import Provenance
from interp.storage import StoredResult, read_result, write_result

# Not `Self`: the checker that runs in tests sees methods one by one and cannot resolve it.
Result = TypeVar("Result", bound="SavedResult")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SavedResult:
    """Base of the results.

    Arguments:
        name: what was measured, such as "causal effect on ioi".
        unit: such as "logits" or "probability"; "" for a plain number.
        provenance: where the numbers came from.
        value_range: lowest and highest possible value; None for an end (or for both) without bound.
        signed: whether 0 is neutral and the sign has a meaning; figures are then centred at 0.
        stack: "E" or "D" where the layers belong to an encoder or a decoder.
        notes: JSON-like facts about the whole run, such as the metric on clean prompts.
    """

    KIND: ClassVar[str]

    name: str
    unit: str
    provenance: Provenance
    value_range: tuple[float | None, float | None] | None = None
    signed: bool = False
    stack: str = ""
    notes: Mapping[str, Any] = field(default_factory=FrozenDict[Any])

    def __post_init__(self) -> None:
        self._freeze("notes", freeze_json(self.notes, where=f"{type(self).__name__}.notes"))
        if self.stack not in STACKS:
            raise InputError(f"stack={self.stack!r} is not a stack: expected '' for one stack, 'E' or 'D'.")

    def save(self, directory: str | Path) -> Path:
        """Write `result.json` and `tensors.safetensors` into `directory`, made if needed, and return its path.

        Raises:
            InputError: the directory cannot be written.
        """
        return write_result(directory, self._to_stored())

    @classmethod
    def load(cls: type[Result], directory: str | Path) -> Result:
        """Read what `save` wrote.

        Raises:
            ResultFormatError: it is missing, damaged, of another kind, or newer than this version.
        """
        return cls.from_stored(read_result(directory), directory)

    @classmethod
    def from_stored(cls: type[Result], stored: StoredResult, directory: str | Path) -> Result:
        """Build the result from the parts read from `directory`, which error messages name."""
        if stored.kind != cls.KIND:
            raise ResultFormatError(
                f"The result in {directory} is of the kind {stored.kind!r}, expected {cls.KIND!r}; "
                "read it with interp.load_result, which knows every kind."
            )
        arguments: dict[str, Any] = {name: freeze_json(value, where=name) for name, value in stored.fields.items()}
        for name, tensor in stored.tensors.items():
            group, dot, key = name.partition(".")
            if dot:
                arguments[group] = FrozenDict({**arguments.get(group, {}), key: tensor})
            else:
                arguments[name] = tensor
        try:
            arguments["provenance"] = Provenance(**arguments["provenance"])
            return cls(**arguments)
        except (AttributeError, InputError, KeyError, TypeError, ValueError) as error:
            raise ResultFormatError(
                f"The result in {directory} is damaged: its fields do not make a {cls.__name__} ({error}); "
                "restore it from a copy, or save the result again."
            ) from error

    def _to_stored(self) -> StoredResult:
        """Tensors by field name, `field.key` within a mapping; everything else as JSON-like fields."""
        words: dict[str, Any] = {}
        tensors: dict[str, Tensor] = {}
        for name, value in ((item.name, getattr(self, item.name)) for item in fields(self)):
            if isinstance(value, Tensor):
                tensors[name] = value
            elif isinstance(value, Mapping) and any(isinstance(entry, Tensor) for entry in value.values()):
                tensors |= {f"{name}.{key}": entry for key, entry in value.items()}
            else:
                words[name] = value.to_dict() if isinstance(value, Provenance) else value
        return StoredResult(self.KIND, words, tensors)

    def _freeze(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)
