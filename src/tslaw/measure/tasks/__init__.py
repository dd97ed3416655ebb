"""The registry of tasks. A new task is one new file with a function `load(argument)`, and one line in `_LOADERS`."""

from __future__ import annotations

import importlib

from tslaw.errors import TslawError
from tslaw.measure.tasks.base import Problem, Task

__all__ = ["Problem", "Task", "load_task", "task_names"]

# The part of a task's name before the colon -> module with load(argument); the argument is the part after the colon.
_LOADERS = {
    "ladder-math": "tslaw.measure.tasks.ladder_math",
    "ladder-knowledge": "tslaw.measure.tasks.ladder_knowledge",
    "reasoning-gym": "tslaw.measure.tasks.reasoning_gym",
}


def task_names() -> tuple[str, ...]:
    """Names `load_task` accepts; `reasoning-gym` needs a generator after a colon."""
    return tuple(f"{name}:GENERATOR" if name == "reasoning-gym" else name for name in _LOADERS)


def load_task(name: str) -> Task:
    """The task called `name`.

    Raises
    ------
    TslawError : no such task; the message lists the names there are.
    MissingExtraError : the task needs a package that is not installed.
    """
    head, _, argument = name.partition(":")
    if head not in _LOADERS:
        raise TslawError(f"There is no task '{name}'.", expected="one of " + ", ".join(task_names()))
    task: Task = importlib.import_module(_LOADERS[head]).load(argument)
    return task
