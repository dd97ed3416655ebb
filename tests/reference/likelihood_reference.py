"""The likelihood of one trajectory said slowly: every moment of solving by itself, every probe by itself."""

from __future__ import annotations

from collections.abc import Sequence


def state_probabilities(q: float, finished: Sequence[float]) -> list[float]:
    """Solved in the first interval, the second, ..., or never."""
    before = [0.0, *finished[:-1]]
    return [q * (now - then) for then, now in zip(before, finished, strict=True)] + [1.0 - q * finished[-1]]


def probe(outcome: int, solved: bool, guess: float, slip: float) -> float:
    """Chance of one outcome: 1 right, 0 wrong, negative not measured."""
    right = 1.0 - slip if solved else guess
    return {1: right, 0: 1.0 - right}.get(outcome, 1.0)


def pattern_probability(
    pattern: Sequence[int], q: float, finished: Sequence[float], guess: float, slip: float
) -> float:
    total = 0.0
    for moment, weight in enumerate(state_probabilities(q, finished)):
        product = weight
        for k, outcome in enumerate(pattern):
            product *= probe(outcome, k >= moment, guess, slip)
        total += product
    return total
