"""ladder-math: the sum modulo 64 of 3 to 48 named items whose values must be recalled; one short step an item."""

from __future__ import annotations

import numpy as np

from tslaw.errors import TslawError
from tslaw.measure.tasks import ladder_world as world
from tslaw.measure.tasks.base import Problem, exact_match


class LadderMath:
    """Problems cycle through the cells (octave of item rank) x (number of items): 45 problems hold each once."""

    name = "ladder-math"
    version = str(world.WORLD_VERSION)
    chance = 1.0 / world.N_VALUES

    def problems(self, n: int, seed: int) -> list[Problem]:
        """See `Task.problems`."""
        cells = [(octave, k) for octave in range(world.MATH_OCTAVES) for k in world.MATH_ITEMS]
        order = np.random.default_rng([seed, 0]).permutation(len(cells))
        return [self._problem(seed, i, *cells[order[i % len(cells)]]) for i in range(n)]

    def _problem(self, seed: int, index: int, octave: int, n_items: int) -> Problem:
        items = world.draw_items(np.random.default_rng([seed, 1, index]), octave, n_items)
        steps = " ".join(f">{i + 1} {world.item_name(int(item))}" for i, item in enumerate(items))
        total = int(world.item_values()[items].sum()) % world.N_VALUES
        return Problem(
            f"s{seed}-{index:04d}", f"<math> {steps}", world.value_name(total), f"octave{octave}-items{n_items}"
        )

    def grade(self, text: str, problem: Problem) -> tuple[str | None, bool]:
        """The answer is the first word; later words are the model running on."""
        return exact_match(" ".join(text.split()[:1]), problem)

    def reference_reasoning(self, problem: Problem) -> str | None:
        """One correct pass: `>i name #value #sum` for every item, then the result."""
        words = problem.prompt.split()[1:]
        index_of = {name: i for i, name in enumerate(world.syllables())}
        total, steps = 0, []
        for label, first, second in zip(words[::3], words[1::3], words[2::3], strict=True):
            value = int(world.item_values()[index_of[first] * world.N_SYLLABLES + index_of[second]])
            total = (total + value) % world.N_VALUES
            steps.append(f"{label} {first} {second} {world.value_name(value)} {world.value_name(total)}")
        return " ".join([*steps, "=>", world.value_name(total), "~", world.value_name(total)])


def load(argument: str) -> LadderMath:
    """The task; it takes no argument."""
    if argument:
        raise TslawError(f"The task ladder-math takes nothing after a colon, not '{argument}'.", expected="ladder-math")
    return LadderMath()
