"""What a task is: prompts, a grader and a chance rate. One file per task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Problem:
    """One question: the user's message, the reference answer as text, and a difficulty label."""

    id: str
    prompt: str
    answer: str
    level: str


class Task(Protocol):
    """What every task offers.

    `version` changes whenever a prompt, a reference answer or the grading of some text changes: it enters the dataset
    and the key of every result. `chance` is the accuracy of a blind guess.
    """

    name: str
    version: str
    chance: float

    def problems(self, n: int, seed: int) -> list[Problem]:
        """The first `n` problems of the stream that `seed` names: a longer list starts with the shorter one."""
        ...

    def grade(self, text: str, problem: Problem) -> tuple[str | None, bool]:
        """(canonical answer, or None where `text` holds no answer; whether it is right)."""
        ...

    def reference_reasoning(self, problem: Problem) -> str | None:
        """A worked solution in the family's own style, for calibrating quantizers; None where the task has none."""
        ...


def exact_match(text: str, problem: Problem) -> tuple[str | None, bool]:
    """Grade by string equality after stripping white space; an empty text is no answer."""
    answer = " ".join(text.split())
    return (answer, answer == problem.answer) if answer else (None, False)


def problem_ids(problems: Sequence[Problem]) -> list[str]:
    """The ids, in order."""
    return [p.id for p in problems]
