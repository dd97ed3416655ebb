"""ladder-knowledge: 1 to 8 hops over memorised facts; the answer is an entity of two syllables."""

from __future__ import annotations

import numpy as np

from tslaw.errors import TslawError
from tslaw.measure.tasks import ladder_world as world
from tslaw.measure.tasks.base import Problem, exact_match


class LadderKnowledge:
    """Problems cycle through the cells (octave of entity rank) x (number of hops): 28 problems hold each once."""

    name = "ladder-knowledge"
    version = str(world.WORLD_VERSION)
    chance = 1.0 / world.N_ENTITIES

    def problems(self, n: int, seed: int) -> list[Problem]:
        """See `Task.problems`."""
        cells = [(octave, hops) for octave in range(world.KNOW_OCTAVES) for hops in world.KNOW_HOPS]
        order = np.random.default_rng([seed, 0]).permutation(len(cells))
        return [self._problem(seed, i, *cells[order[i % len(cells)]]) for i in range(n)]

    def _problem(self, seed: int, index: int, octave: int, hops: int) -> Problem:
        start, relations, end = world.draw_chain(np.random.default_rng([seed, 2, index]), octave, hops)
        path = " ".join(f"@rel{r}" for r in relations)
        prompt = f"<know> {world.entity_name(start)} {path}"
        return Problem(f"s{seed}-{index:04d}", prompt, world.entity_name(end), f"octave{octave}-hops{hops}")

    def grade(self, text: str, problem: Problem) -> tuple[str | None, bool]:
        """The answer is the first two words; later words are the model running on."""
        return exact_match(" ".join(text.split()[:2]), problem)

    def reference_reasoning(self, problem: Problem) -> str | None:
        """One correct pass: the entity, then `@relation entity` for every hop, then the result."""
        words = problem.prompt.split()[1:]
        index_of = {name: i for i, name in enumerate(world.syllables())}
        entity = index_of[words[0]] * world.N_ENTITY_SYLLABLES + index_of[words[1]]
        steps = [world.entity_name(entity)]
        for word in words[2:]:
            entity = int(world.facts()[int(word.removeprefix("@rel")), entity])
            steps.append(f"{word} {world.entity_name(entity)}")
        return " ".join([*steps, "=>", world.entity_name(entity), "~", world.entity_name(entity)])


def load(argument: str) -> LadderKnowledge:
    """The task; it takes no argument."""
    if argument:
        raise TslawError(
            f"The task ladder-knowledge takes nothing after a colon, not '{argument}'.", expected="ladder-knowledge"
        )
    return LadderKnowledge()
