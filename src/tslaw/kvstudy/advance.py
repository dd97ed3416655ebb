"""Finding 5: does KV compression advance the accuracy-versus-memory frontier?

The frontier at a memory budget M is the most accurate configuration that costs at most M. It is taken twice, among
full caches alone and with compressed ones besides, for every draw of the problems' weights. Configurations are chosen
on some problems and judged on others (`bootstrap`): chosen and judged on the same ones, the larger set would win even
where compression changes nothing, as more throws have a higher maximum. `naive` keeps that figure for comparison. The
true gain is never below zero, a judged one may be: with more to choose from, more goes wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tslaw.kvstudy.bootstrap import split
from tslaw.kvstudy.configurations import Configurations

N_MEMORIES = 60


@dataclass(frozen=True)
class Advance:
    """The frontier without and with compressed caches.

    `memory` (memory,) bytes a generation; `without`, `with_` (draw, memory) accuracies of what was chosen on other
    problems; `naive_gain` (draw, memory) the difference had all problems chosen and judged; `chosen` (draw, memory)
    places, in the configurations given, of what all problems together would choose.
    """

    memory: np.ndarray
    without: np.ndarray
    with_: np.ndarray
    naive_gain: np.ndarray
    chosen: np.ndarray

    @property
    def gain(self) -> np.ndarray:
        """Accuracy won by allowing compression: (draw, memory)."""
        return self.with_ - self.without

    @property
    def area(self) -> np.ndarray:
        """The area between the frontiers over log memory, divided by its length, the average gain: (draw,)."""
        return np.asarray(self.gain.mean(axis=1))

    @property
    def naive_area(self) -> np.ndarray:
        """`area` of the naive gain: (draw,)."""
        return np.asarray(self.naive_gain.mean(axis=1))

    def policies(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which labels, such as policies (configuration,), the frontier takes.

        Returns the labels in use and where they are chosen: (label, draw, memory) booleans.
        """
        taken = labels[self.chosen]
        names = np.unique(taken)
        return names, np.stack([taken == name for name in names])


def advance(
    configurations: Configurations,
    weights: np.ndarray,
    partition: np.ndarray | None,
    batch: float = 1,
    allowed: np.ndarray | None = None,
    memory: np.ndarray | None = None,
) -> Advance:
    """Both frontiers for every draw.

    Parameters
    ----------
    weights : (draw, problem). partition : (draw, problem) or None, as `bootstrap.split` takes it.
    allowed : (configuration,) which compressed configurations are allowed; all that save memory when not given.
    memory : (memory,) bytes a generation; by default `memory_grid`.
    """
    allowed = configurations.saves if allowed is None else configurations.saves & allowed
    memory = memory_grid(configurations, batch) if memory is None else memory
    cost = configurations.memory(batch)
    full, both = (np.flatnonzero(m) for m in (configurations.full, configurations.full | allowed))
    values = [judged_best(configurations.rows[g], cost[g], memory, weights, partition) for g in (full, both)]
    naive = [judged_best(configurations.rows[g], cost[g], memory, weights, None) for g in (full, both)]
    chosen = best_within(cost[both], weights @ configurations.rows[both].T, memory)
    return Advance(memory, values[0], values[1], naive[1] - naive[0], both[chosen])


def memory_grid(configurations: Configurations, batch: float = 1, points: int = N_MEMORIES) -> np.ndarray:
    """Memory budgets, even in logs, from the cheapest to the dearest configuration with a full cache: (memory,) bytes.

    Below the cheapest there is nothing to compare a compressed cache with.
    """
    cost = configurations.memory(batch)[configurations.full]
    grid = np.geomspace(cost.min(), cost.max(), points)
    grid[[0, -1]] = cost.min(), cost.max()  # exactly: what lies on the ends is inside
    return grid


def best_within(cost: np.ndarray, score: np.ndarray, memory: np.ndarray) -> np.ndarray:
    """The place of the highest score among what costs at most `memory`, the cheapest of equals.

    Parameters
    ----------
    cost : (option,). score : (draw, option). memory : (memory,), nowhere below the cheapest option.

    Returns
    -------
    (draw, memory) places of options.
    """
    if (memory < cost.min()).any():
        raise ValueError("a memory budget lies below every option")
    order = np.argsort(cost, kind="stable")
    score = score[:, order]
    before = np.maximum.accumulate(score, axis=1)[:, :-1]
    better = np.concatenate([np.full((len(score), 1), True), score[:, 1:] > before], axis=1)
    leader = np.maximum.accumulate(np.where(better, np.arange(len(cost)), 0), axis=1)
    last = np.searchsorted(cost[order], memory, side="right") - 1
    return np.asarray(order[leader[:, last]])


def judged_best(
    rows: np.ndarray, cost: np.ndarray, memory: np.ndarray, weights: np.ndarray, partition: np.ndarray | None
) -> np.ndarray:
    """Accuracy of the best option within every memory budget, chosen on some problems and judged on the others.

    `rows` (option, problem), `cost` (option,), `memory` (memory,), `weights` and `partition` (draw, problem).
    Returns (draw, memory).
    """
    total = np.zeros((len(weights), len(memory)))
    for choosing, judging in split(weights, partition):
        chosen = best_within(cost, choosing @ rows.T, memory)
        total += np.take_along_axis(judging @ rows.T, chosen, axis=1)
    return total
