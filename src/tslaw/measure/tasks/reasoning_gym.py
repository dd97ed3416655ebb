"""reasoning-gym:GENERATOR: procedural problems from the reasoning-gym package, so that any model can be tried with no
data set.

The part after the colon names one of its generators, for example `reasoning-gym:chain_sum`. Answers are graded by the
generator's own scorer; only its full score counts as right.
"""

from __future__ import annotations

import difflib
from typing import Any

from tslaw.errors import MissingExtraError, TslawError
from tslaw.measure.tasks.base import Problem

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


class ReasoningGym:
    """One generator of reasoning-gym with its default settings, as a task."""

    chance = 0.0

    def __init__(self, generator: str) -> None:
        from importlib.metadata import version

        self.generator = generator
        self.name = f"reasoning-gym:{generator}"
        self.version = f"1+reasoning-gym-{version('reasoning-gym')}"
        self._entries: dict[str, dict[str, Any]] = {}
        self._scorer: Any = None

    def problems(self, n: int, seed: int) -> list[Problem]:
        """See `Task.problems`; problem i of a generator depends on seed and i only."""
        import reasoning_gym

        self._scorer = reasoning_gym.create_dataset(self.generator, size=n, seed=seed)
        return [self._problem(seed, i, self._scorer[i]) for i in range(n)]

    def _problem(self, seed: int, index: int, entry: dict[str, Any]) -> Problem:
        problem_id = f"s{seed}-{index:04d}"
        self._entries[problem_id] = entry
        metadata = entry.get("metadata", {})
        scalars = {k: metadata.get(k) for k in metadata.get("difficulty", {}) if isinstance(metadata.get(k), int | str)}
        level = " ".join(f"{k}={v}" for k, v in scalars.items()) or self.generator
        return Problem(problem_id, f"{entry['question']}\n\n{INSTRUCTION}", str(entry["answer"]), level)

    def grade(self, text: str, problem: Problem) -> tuple[str | None, bool]:
        """Right only with the generator's full score; `problem` must come from `problems` of this object."""
        answer = text.strip()
        if not answer:
            return None, False
        score = self._scorer.score_answer(answer=answer, entry=self._entries[problem.id])
        return answer, bool(score >= 1.0 - 1e-9)

    def reference_reasoning(self, problem: Problem) -> str | None:
        """None: the generators give answers without the way there."""
        return None


def load(argument: str) -> ReasoningGym:
    """The task of one generator; TslawError names near misses when there is no such generator."""
    try:
        from reasoning_gym.factory import DATASETS
    except ModuleNotFoundError as error:
        raise MissingExtraError("reasoning-gym", "tasks") from error
    if argument not in DATASETS:
        near = difflib.get_close_matches(argument, DATASETS, n=3) or ["chain_sum", "basic_arithmetic", "countdown"]
        raise TslawError(
            f"reasoning-gym has no generator '{argument}'.",
            expected="reasoning-gym:GENERATOR, for example " + ", ".join(f"reasoning-gym:{n}" for n in near),
        )
    return ReasoningGym(argument)
