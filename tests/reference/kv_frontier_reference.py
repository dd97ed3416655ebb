"""The frontier under problem weights, one memory budget and one draw at a time: obviously right, and slow."""

from __future__ import annotations

from collections.abc import Sequence


def accuracy(row: Sequence[float], weights: Sequence[float]) -> float:
    """Weighted mean of one configuration's accuracies (problem,)."""
    return sum(w * x for w, x in zip(weights, row, strict=True)) / sum(weights)


def best(costs: Sequence[float], rows: Sequence[Sequence[float]], weights: Sequence[float], memory: float) -> int:
    """The most accurate configuration that costs at most `memory`, the cheapest of equals."""
    affordable = [i for i, cost in enumerate(costs) if cost <= memory]
    return min(affordable, key=lambda i: (-accuracy(rows[i], weights), costs[i], i))


def judged(
    costs: Sequence[float],
    rows: Sequence[Sequence[float]],
    weights: Sequence[float],
    parts: Sequence[int],
    memory: float,
) -> float:
    """Every problem is judged by the configuration that the problems of the other parts choose."""
    total = 0.0
    for problem, weight in enumerate(weights):
        others = [0.0 if parts[i] == parts[problem] else w for i, w in enumerate(weights)]
        total += weight * rows[best(costs, rows, others, memory)][problem]
    return total / sum(weights)
