"""The likelihood of one trajectory said slowly: every moment of solving, every way on from there, every probe."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product


def state_probabilities(q: float, finished: Sequence[float]) -> list[float]:
    """Solved in the first interval, the second, ..., or never."""
    before = [0.0, *finished[:-1]]
    return [q * (now - then) for then, now in zip(before, finished, strict=True)] + [1.0 - q * finished[-1]]


def probe(outcome: int, solved: bool, guess: float, slip: float) -> float:
    """Chance of one outcome: 1 right, 0 wrong, negative not measured."""
    right = 1.0 - slip if solved else guess
    return {1: right, 0: 1.0 - right}.get(outcome, 1.0)


def chain_probability(
    path: Sequence[bool], moment: int, decay: Sequence[float], kept: float | Sequence[float]
) -> float:
    """Chance that a trajectory solved in interval `moment` is right (True) or lost at each budget from there on."""
    chance = 1.0
    for k, right in enumerate(path, start=moment):
        left = decay[k] ** 0.5 if k == moment else decay[k]
        was_right = k == moment or path[k - 1 - moment]
        stays = kept if isinstance(kept, float) else kept[k]
        p = stays + (1.0 - stays) * left if was_right else stays * (1.0 - left)
        chance *= p if right else 1.0 - p
    return chance


def pattern_probability(
    pattern: Sequence[int],
    q: float,
    finished: Sequence[float],
    guess: float,
    slip: float | Sequence[float],
    decay: Sequence[float],
    kept: float | Sequence[float],
) -> float:
    """Over every moment of solving and every way to be right and lost after it."""
    total, n = 0.0, len(pattern)
    slips = [slip] * n if isinstance(slip, float) else slip
    for moment, weight in enumerate(state_probabilities(q, finished)):
        for path in product((True, False), repeat=n - moment):
            chance = weight * chain_probability(path, moment, decay, kept)
            for k, outcome in enumerate(pattern):
                chance *= probe(outcome, k >= moment and path[k - moment], guess, slips[k])
            total += chance
    return total
