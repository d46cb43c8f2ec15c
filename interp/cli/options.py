"""Options that several commands share, and what follows from them."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from interp.model.model import Model

ModelOption = Annotated[str, typer.Option("--model", help="Embedded name, hub id or directory.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of every random choice.")]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The options --device and --dtype."""

    device: Annotated[str | None, typer.Option("--device", help="Such as cpu or cuda:0; CUDA where there is one.")] = (
        None
    )
    dtype: Annotated[str | None, typer.Option("--dtype", help="Such as float32 or bfloat16; the checkpoint's own.")] = (
        None
    )

    def load(self, name: str) -> Model:
        """Load a model without transformers' own progress bars and notices."""
        from transformers.utils import logging

        from interp.model.load import load

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        return load(name, device=self.device, dtype=self.dtype)


@dataclass(frozen=True, kw_only=True)
class Notices:
    """The options --quiet and --debug."""

    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars and no warnings.")] = False
    debug: Annotated[bool, typer.Option("--debug", help="Tracebacks of errors, and every library's warnings.")] = False

    @property
    def progress(self) -> bool | None:
        """What `progress=` gets: no bar, or one where there is a terminal."""
        return False if self.quiet else None

    @contextmanager
    def shown(self) -> Generator[None]:
        """Warnings of this package as one line each on standard error; other libraries' only when debugging."""
        from interp.errors import AnalysisWarning

        def show(message: Warning | str, *_: object, **__: object) -> None:
            if not self.quiet:
                sys.stderr.write(f"interp: warning: {message}\n")

        with warnings.catch_warnings():
            if not self.debug:
                warnings.simplefilter("ignore")
            warnings.simplefilter("always", AnalysisWarning)
            warnings.showwarning = show
            yield


class Line:
    """The options that the command line holds, whatever their values."""

    def __init__(self, context: Any) -> None:  # Typer's or click's, depending on Typer's version
        sources = {option: context.get_parameter_source(option.name or "") for option in context.command.params}
        self.given = {
            option.name: option.opts[0] for option, source in sources.items() if source and source.name == "COMMANDLINE"
        }

    def refuse(self, reason: str, *names: str) -> None:
        """Refuse options that change nothing; `names` are those of their parameters.

        Arguments:
            reason: why they change nothing, as in "without --text".

        Raises:
            InputError: one of them is on the line.
        """
        from interp.errors import InputError

        for name in names:
            if name in self.given:
                raise InputError(f"{self.given[name]} changes nothing {reason}. Leave it out.")


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """A command as Typer reads it: in place of each parameter that is a group of options, the options themselves.

    A group is a dataclass whose fields are annotated as the parameters of a command are. A parameter that is a `Line`
    becomes what Typer knows of the line.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hints[name] for name in signature(command).parameters if is_dataclass(hints[name])}
    parameters: list[Parameter] = []
    for name, parameter in signature(command).parameters.items():
        if hints[name] is Line:
            parameters.append(parameter.replace(annotation=typer.Context))
            continue
        if name not in groups:
            parameters.append(parameter.replace(annotation=hints[name]))
            continue
        of_group = get_type_hints(groups[name], include_extras=True)
        parameters += [
            Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=of_group[field.name])
            for field in fields(groups[name])
        ]

    @wraps(command)
    def run(**given: Any) -> None:
        given |= {name: Line(value) for name, value in given.items() if hints.get(name) is Line}
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    run.__signature__ = Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess, reportAttributeAccessIssue]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def names_in(text: str) -> list[str]:
    """Names with commas between, as --analyzers and --types take them."""
    return [name.strip() for name in text.split(",")]


def write_text(text: str, target: str) -> None:
    """Write to a file, or to standard output for `-`.

    Raises:
        InputError: the file cannot be written.
    """
    if target == "-":
        sys.stdout.write(text)
    else:
        write_bytes(text.encode("utf-8"), target)


def write_bytes(content: bytes, target: str | Path) -> None:
    """Write to a file.

    Raises:
        InputError: the file cannot be written.
    """
    from interp.errors import InputError

    try:
        Path(target).write_bytes(content)
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror}). Choose another path.") from error


def check_file(target: str | Path) -> None:
    """Refuse what cannot become a file, before hours of work.

    Raises:
        InputError: it is a directory, there is no directory for it, or it cannot be written.
    """
    from interp.errors import InputError

    path = Path(target).absolute()
    if path.is_dir():
        problem = "it is a directory"
    elif not path.parent.is_dir():
        problem = "there is no such directory"
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        problem = "permission denied"
    else:
        return
    raise InputError(f"{target} cannot be written ({problem}). Choose another path.")


def save_option(help: str) -> Any:
    """The option --save, a directory that is checked before hours of work."""
    return typer.Option("--save", help=help, callback=_checked_directory)


def _checked_directory(target: Path | None) -> Path | None:
    """Refuse what cannot become a directory.

    Raises:
        InputError: it or what it should lie in is a file, or cannot be written.
    """
    from interp.errors import InputError

    if target is None:
        return None
    path = target.absolute()
    existing = next(place for place in (path, *path.parents) if place.exists())
    if existing.is_dir() and os.access(existing, os.W_OK):
        return target
    problem = "permission denied" if existing.is_dir() else f"{existing} is a file"
    raise InputError(f"Nothing can be saved to {target} ({problem}). Choose another directory.")
