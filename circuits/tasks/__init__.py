"""Tasks: prompt generators with named positions, answers and metrics; training and analysis share them.

A new task is one file with a frozen dataclass derived from `Task`, and one entry in `TASKS`.
"""

from typing import Any

from circuits.tasks.agreement import Agreement
from circuits.tasks.coloured_objects import ColouredObjects
from circuits.tasks.docstring import Docstring
from circuits.tasks.greater_than import GreaterThan
from circuits.tasks.induction import Induction
from circuits.tasks.ioi import IndirectObject
from circuits.tasks.needle import Needle
from circuits.tasks.passage import Passage
from circuits.tasks.prompts import TaskPrompts
from circuits.tasks.pronoun import Pronoun
from circuits.tasks.relations import Relations
from circuits.tasks.task import Task
from interp.errors import InputError

__all__ = ["TASKS", "Task", "TaskPrompts", "get_task", "task_names"]

TASKS: tuple[type[Task], ...] = (
    IndirectObject,
    Induction,
    GreaterThan,
    Docstring,
    ColouredObjects,
    Agreement,
    Pronoun,
    Relations,
    Passage,
    Needle,
)


def task_names() -> tuple[str, ...]:
    """Names of the tasks, in the order of the registry."""
    return tuple(task.name for task in TASKS)


def get_task(name: str, **options: Any) -> Task:
    """The task of this name, with its options (such as `corruption="abc"` of ioi) or their defaults.

    Raises:
        InputError: no task has this name, or the task has no such option.
    """
    for task in TASKS:
        if task.name == name:
            try:
                return task(**options)
            except TypeError as error:
                raise InputError(f"The task {name!r} does not take these options: {error}.") from error
    raise InputError(f"Unknown task {name!r}; the tasks are {', '.join(task_names())}.")
