"""Uncertainty without a model: the Bayesian bootstrap over problems (Rubin 1981, Annals of Statistics 9, 130).

A draw gives every problem a weight, Dirichlet(1, ..., 1), the same for all configurations: differences between them are
paired. What is weighted is a problem's whole row, the mean of its samples at every budget. So

* the budgets of one trajectory stay together, as they must: they share its tokens;
* what few samples add to the spread is in the draws already, since a row is one noisy measurement of its problem and
  the draws vary as rows do. Drawing samples within problems besides would count it twice: of the ways to resample
  nested data, drawing the clusters and leaving each as it is mimics the variance best (Davison and Hinkley 1997,
  Bootstrap Methods and their Application, section 3.8);
* configurations that were run with common random numbers stay correlated, as their rows are drawn together.

The population that answers are about is that of the task's problems.

The best of many noisy configurations looks better than it is. `folds` part the problems, so that a configuration can be
chosen on some and judged on the others; every problem judges once. Its price is that a choice rests on fewer problems,
so what is judged is slightly worse than the best there is: the truth lies between that and the naive figure, which is
given beside it where it matters. Every draw has a partition of its own, so the luck of parting is in the spread.

What is not in it is what all problems of a run share, such as the places that random eviction happened to draw.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

N_FOLDS = 8
LOW, HIGH = 0.05, 0.95
"""Quantiles of the 90% intervals."""


def problem_weights(draws: int, problems: int, rng: np.random.Generator) -> np.ndarray:
    """Draws of the problems' weights, summing to one: (draw, problem)."""
    return rng.dirichlet(np.ones(problems), draws)


def folds(draws: int, problems: int, rng: np.random.Generator, parts: int = N_FOLDS) -> np.ndarray:
    """A random partition of the problems into parts of (nearly) equal size for every draw: (draw, problem) integers."""
    return rng.permuted(np.tile(np.arange(problems) % parts, (draws, 1)), axis=1)


def split(weights: np.ndarray, partition: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of weights to choose with and weights to judge with, (draw, problem) each.

    The judging weights sum to `weights` over all pairs: a sum of judged scores is an accuracy. With no partition the
    only pair is the weights twice, the naive choice.
    """
    if partition is None:
        yield weights, weights
        return
    for part in range(int(partition.max()) + 1):
        judged = partition == part
        yield np.where(judged, 0.0, weights), np.where(judged, weights, 0.0)


def interval(draws: np.ndarray) -> tuple[float, float, float]:
    """Mean and ends of the central 90% interval of draws (draw,)."""
    return float(draws.mean()), float(np.quantile(draws, LOW)), float(np.quantile(draws, HIGH))
