"""Parameters of analyzers on the command line: ``--set local-mass.window=5``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from interp.analyzers import Analyzer
    from interp.model.model import Model

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="ANALYZER.PARAMETER=VALUE", help="As sinks.epsilon=0.2; can be repeated."),
]
WORDS = {"true": True, "false": False}


def with_parameters(names: Sequence[str], given: Sequence[str], model: Model) -> list[Analyzer | str]:
    """The analyzers of these names, those that `given` speaks of with its values.

    Raises:
        InputError: it speaks of another analyzer, a parameter that there is not, or gives it a value of another kind.
    """
    from interp.analyzers import analyzer_named
    from interp.errors import InputError

    chosen: dict[str, Analyzer | str] = {name: name for name in names}
    for line in given:
        name, dot, rest = line.partition(".")
        parameter, equals, value = rest.partition("=")
        if not dot or not equals or name not in chosen:
            raise InputError(f"--set {line} is not ANALYZER.PARAMETER=VALUE with one of {', '.join(names)}.")
        found = chosen[name]
        analyzer = analyzer_named(found, model) if isinstance(found, str) else found
        known = {field.name: getattr(analyzer, field.name) for field in fields(analyzer)}
        if parameter not in known:
            have = f"it has {', '.join(known)}" if known else "it has none"
            raise InputError(f"{name} has no parameter {parameter!r}: {have}.")
        chosen[name] = replace(analyzer, **{parameter: _like(known[parameter], value, line)})
    return list(chosen.values())


def _like(default: object, value: str, line: str) -> Any:
    """A value of the kind of the default."""
    from interp.errors import InputError

    try:
        if isinstance(default, bool):
            return WORDS[value.lower()]
        if isinstance(default, int):
            return int(value)
        if isinstance(default, float):
            return float(value)
        if isinstance(default, str):
            return value
        return tuple(int(part) for part in value.split(",") if part)
    except (KeyError, ValueError) as error:
        kinds: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number"}
        raise InputError(f"--set {line}: expected {kinds.get(type(default), 'numbers with commas')}.") from error
