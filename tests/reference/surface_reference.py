"""The surface and the crossover said slowly: plain loops, bisection and dense grids instead of tables and
interpolation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import erf, exp, inf, log, sqrt
from typing import Any

import numpy as np

Truth = Mapping[str, Any]
SATURATION = 0.95

erf_of = np.vectorize(erf)


def damage(truth: Truth, bits: float) -> float:
    """What `bits` a weight do of the damage of 4: 1 at 4 bits and 0 at 16."""
    at = exp(-float(truth["kappa_w"]) * (bits - 4.0))
    at_16 = exp(-float(truth["kappa_w"]) * 12.0)
    return (at - at_16) / (1.0 - at_16)


def ability(truth: Truth, x: float, bits: float) -> float:
    lost = float(truth["delta_w"]) * damage(truth, bits) * exp(-float(truth["gamma_w"]) * x)
    return float(truth["theta0"]) + float(truth["alpha"]) * x - lost


def log_length(truth: Truth, x: float, bits: float) -> float:
    return float(truth["mu0"]) + float(truth["mu1"]) * x + float(truth["mu2"]) * damage(truth, bits)


def slip(truth: Truth, x: float) -> float:
    return 1.0 / (1.0 + exp(-(float(truth["slip0"]) + float(truth["slip1"]) * x)))


def done(slack: np.ndarray, spread: float) -> np.ndarray:
    """The normal distribution function."""
    return 0.5 * (1.0 + erf_of(slack / (spread * sqrt(2.0))))


def mean_accuracy(truth: Truth, x: float, bits: float, tokens: float, misfit: float = 0.0) -> float:
    """Accuracy over the problems: solved and finished and not slipped, or guessed."""
    if tokens <= 0:
        return float(truth["guess"])
    theta = ability(truth, x, bits) + misfit
    difficulty = np.asarray(truth["difficulty"], float)
    q = 1.0 / (1.0 + np.exp(-(theta - difficulty)))
    length = log_length(truth, x, bits) + float(truth["rho"]) * difficulty + np.asarray(truth["length"], float)
    late, delay, spread = (float(truth[n]) for n in ("late_share", "late_delay", "sigma_len"))
    finished = (1.0 - late) * done(log(tokens) - length, spread) if tokens < inf else np.full(len(q), 1.0 - late)
    finished += late * done(log(tokens) - length - delay, sqrt(spread**2 + delay**2 / 4)) if tokens < inf else late
    solved = q * finished
    guess = float(truth["guess"])
    per_problem = solved * (1.0 - slip(truth, x)) + (1.0 - solved) * guess
    return float(per_problem.mean())


def saturation_tokens(truth: Truth, x: float, bits: float) -> float:
    """The budget that reaches 95% of the ceiling, by bisection in log tokens."""
    target = SATURATION * mean_accuracy(truth, x, bits, inf)
    low, high = log(1e-6), log(1e12)
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if mean_accuracy(truth, x, bits, exp(middle)) < target else (low, middle)
    return exp(high)


class Sizes:
    """Bytes between and beyond a family's models, linear in logs; `table` has rows (parameters, weight, KV a token)."""

    def __init__(self, table: Sequence[tuple[float, float, float]], reference_size: float) -> None:
        self.log_n, self.log_weight, self.log_kv = (np.log(c) for c in np.array(sorted(table)).T)
        self.log_reference = log(reference_size)

    @staticmethod
    def _line(x: float, xs: np.ndarray, ys: np.ndarray) -> float:
        for k in range(len(xs) - 1):
            if x <= xs[k + 1] or k == len(xs) - 2:
                return float(ys[k] + (x - xs[k]) * (ys[k + 1] - ys[k]) / (xs[k + 1] - xs[k]))
        raise AssertionError

    def at_log_n(self, log_n: float) -> tuple[float, float, float]:
        """x, weight bytes, KV bytes a token."""
        weight, kv = (exp(self._line(log_n, self.log_n, y)) for y in (self.log_weight, self.log_kv))
        return log_n - self.log_reference, weight, kv

    def log_n_at_weight(self, weight: float) -> float:
        return self._line(log(weight), self.log_weight, self.log_n)


def saturation_memory(truth: Truth, sizes: Sizes, log_n: float, bits: float, batch: float) -> float:
    x, weight, kv = sizes.at_log_n(log_n)
    return weight / batch + kv * saturation_tokens(truth, x, bits)


def accuracy_at_memory(
    truth: Truth, sizes: Sizes, log_n: float, bits: float, batch: float, memory: float
) -> tuple[float, float]:
    """Weight bytes of a size, and its accuracy when all memory that the weights leave goes into thinking."""
    x, weight, kv = sizes.at_log_n(log_n)
    left = memory - weight / batch
    return weight, mean_accuracy(truth, x, bits, left / kv) if left > 0 else -1.0


def log_gain(truth: Truth, sizes: Sizes, log_n: float, bits: float, batch: float, points: int = 400) -> float:
    """h: log of the best size at this one's saturation memory over this size, by a grid and a finer grid inside it."""
    memory = saturation_memory(truth, sizes, log_n, bits, batch)
    low, high = sizes.log_n[0] - log(4.0), sizes.log_n[-1] + log(16.0)
    for _ in range(3):
        grid = np.linspace(low, high, points)
        accuracy = [accuracy_at_memory(truth, sizes, g, bits, batch, memory)[1] for g in grid]
        best, step = int(np.argmax(accuracy)), grid[1] - grid[0]
        low, high, points = grid[best] - 1.5 * step, grid[best] + 1.5 * step, 25
    return log(sizes.at_log_n(grid[best])[1] / sizes.at_log_n(log_n)[1])


def crossover(truth: Truth, sizes: Sizes, bits: float, batch: float = 1, scan: int = 24) -> float:
    """W+ in bytes: the last sign change of h from positive, by scanning from the top and bisecting; -inf and +inf
    where it lies below or above the family."""
    grid = np.linspace(sizes.log_n[0], sizes.log_n[-1], scan)
    if log_gain(truth, sizes, grid[-1], bits, batch) > 0:
        return inf
    for k in range(scan - 2, -1, -1):
        if log_gain(truth, sizes, grid[k], bits, batch) > 0:
            low, high = grid[k], grid[k + 1]
            for _ in range(12):
                middle = 0.5 * (low + high)
                positive = log_gain(truth, sizes, middle, bits, batch) > 0
                low, high = (middle, high) if positive else (low, middle)
            return sizes.at_log_n(0.5 * (low + high))[1]
    return -inf
