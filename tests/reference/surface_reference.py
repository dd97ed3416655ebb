"""The surface and the crossover said slowly: plain loops, bisection and dense grids instead of tables and
interpolation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, inf, log, sqrt
from typing import Any

import numpy as np
from scipy.special import expit, ndtr

Truth = Mapping[str, Any]
SATURATION = 0.95
Z = np.linspace(-6.0, 6.0, 61)
Z_WEIGHTS = np.exp(-0.5 * Z**2) / np.exp(-0.5 * Z**2).sum()
"""A standard normal as a fine grid."""


def damage(truth: Truth, bits: float) -> float:
    """What `bits` a weight do of the damage of 4: 1 at 4 bits and 0 at 16."""
    at = exp(-float(truth["kappa_w"]) * (bits - 4.0))
    at_16 = exp(-float(truth["kappa_w"]) * 12.0)
    return (at - at_16) / (1.0 - at_16)


def ability(truth: Truth, x: float, bits: float) -> float:
    bend = float(truth["bend"])
    gained = float(truth["alpha"]) * ((exp(bend * x) - 1.0) / bend if bend else x)
    lost = float(truth["delta_w"]) * damage(truth, bits) * exp(-float(truth["gamma_w"]) * x)
    return float(truth["theta0"]) + gained - lost


def log_length(truth: Truth, x: float, bits: float) -> float:
    return float(truth["mu0"]) + float(truth["mu1"]) * x + float(truth["mu2"]) * damage(truth, bits)


def slip(truth: Truth, x: float) -> float:
    return 1.0 / (1.0 + exp(-(float(truth["slip0"]) + float(truth["slip1"]) * x)))


def late_share(truth: Truth, longer: np.ndarray, x: float, bits: float) -> np.ndarray:
    late0, late1, late2, late3 = (float(truth[f"late{k}"]) for k in range(4))
    return expit(late0 + late1 * longer + late2 * x + late3 * damage(truth, bits))


def of_model(truth: Truth, model: int) -> Truth:
    """The truth of one model: its traits are in the intercepts."""
    intercepts = {"mu0": "model_mu", "late0": "model_late", "relapse0": "model_relapse", "slip0": "model_slip"}
    return {**truth, **{name: float(truth[name]) + float(truth[own][model]) for name, own in intercepts.items()}}


def solved(truth: Truth, longer: np.ndarray, x: float, bits: float, tokens: np.ndarray, average: bool) -> np.ndarray:
    """Solved by then and not lost again, (tokens, problem), for problems that are so much longer; `average` over a
    model's own lengths."""
    slack = np.log(tokens)[:, None] - log_length(truth, x, bits)
    delay, sigma, power = (float(truth[n]) for n in ("late_delay", "sigma_len", "relapse_power"))
    rate = exp(float(truth["relapse0"]) + float(truth["relapse1"]) * x + float(truth["relapse2"]) * damage(truth, bits))
    share, kept, late = float(truth["own_length_share"]), float(truth["kept"]), late_share(truth, longer, x, bits)
    total = np.zeros((len(tokens), len(longer)))
    for weight, later, spread in ((1.0 - late, 0.0, sigma), (late, delay, sqrt(sigma**2 + delay**2 / 4))):
        finished = ndtr((slack - longer - later) / spread)
        if average:
            shifts = float(truth["own_length_spread"]) * Z[:, None, None]
            own = np.tensordot(Z_WEIGHTS, ndtr((slack - longer - later - shifts) / spread), axes=1)
            finished = (1.0 - share) * finished + share * own
        since = np.maximum(np.exp(power * slack) - np.exp(power * (longer + later)), 0.0)
        total += weight * finished * (kept + (1.0 - kept) * np.exp(-rate * since))
    return total


def curve(truth: Truth, x: float, bits: float, tokens: Sequence[float], misfit: float = 0.0) -> np.ndarray:
    """Accuracy over the problems, (tokens,), of a model that nobody ran: averaged over its effects and lengths."""
    spread = sqrt(float(truth["sd_effect"]) ** 2 + (damage(truth, bits) * float(truth["sd_effect_w"])) ** 2)
    difficulty = np.asarray(truth["difficulty"], float)
    q = Z_WEIGHTS @ expit(ability(truth, x, bits) + misfit - difficulty + spread * Z[:, None])
    longer = float(truth["rho"]) * difficulty + np.asarray(truth["length"], float)
    right = q * solved(truth, longer, x, bits, np.asarray(tokens, float), average=True)
    return (right * (1.0 - slip(truth, x)) + (1.0 - right) * float(truth["guess"])).mean(axis=1)


def mean_accuracy(truth: Truth, x: float, bits: float, tokens: float, misfit: float = 0.0) -> float:
    return float(curve(truth, x, bits, [tokens], misfit)[0])


def problem_accuracy(truth: Truth, data: Any, arm: int, tokens: float) -> np.ndarray:
    """Accuracy of a measured arm on every problem, with all that is its own."""
    x, bits, model = float(data.log_size[arm]), float(data.weight_bits[arm]), data.model_index()[arm]
    truth = of_model(truth, model)
    own = truth["model_effect"][model] + damage(truth, bits) * truth["quantization_effect"][model]
    difficulty = np.asarray(truth["difficulty"], float)
    q = expit(ability(truth, x, bits) + float(truth["misfit"][arm]) - difficulty + own)
    longer = float(truth["rho"]) * difficulty + truth["length"] + truth["own_length"][arm]
    right = q * solved(truth, longer, x, bits, np.array([float(tokens)]), average=False)[0]
    return right * (1.0 - slip(truth, x)) + (1.0 - right) * float(truth["guess"])


def arm_accuracy(truth: Truth, data: Any, arm: int, tokens: float) -> float:
    return float(problem_accuracy(truth, data, arm, tokens).mean())


def best_accuracy(truth: Truth, x: float, bits: float, tokens: float) -> float:
    """The best of thinking that long or less."""
    return float(curve(truth, x, bits, tokens * np.exp(-np.linspace(0.0, 4.0, 9))).max())


def ceiling(truth: Truth, x: float, bits: float) -> float:
    return float(curve(truth, x, bits, np.exp(log_length(truth, x, bits) + np.linspace(-2.0, 9.0, 300))).max())


def saturation_tokens(truth: Truth, x: float, bits: float) -> float:
    """The budget that first reaches 95% of the ceiling, by a scan and bisection in log tokens."""
    target = SATURATION * ceiling(truth, x, bits)
    points = np.linspace(-14.0, 28.0, 400)
    k = int(np.argmax(curve(truth, x, bits, np.exp(points)) >= target))
    low, high = points[k - 1], points[k]
    for _ in range(24):
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
    return weight, best_accuracy(truth, x, bits, left / kv) if left > 0 else -1.0


def log_gain(truth: Truth, sizes: Sizes, log_n: float, bits: float, batch: float, points: int = 160) -> float:
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
