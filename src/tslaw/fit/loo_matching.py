"""Leaving out a pair whose draws cannot just be weighed anew: they are moved to where they would be without it.

What one model did on one problem, in all its arms, says much of what is that model's own (of what its caches cost it
above all: whether it slips where a budget cuts may be known from that one problem). Without the pair its own numbers
would lie elsewhere, and weights of draws that lie here have no variance (Pareto k > 0.7). So a model's own numbers are
moved, by an affine map that gives draws the mean and the spread that their weights ask for, and weighed again, as long
as k falls (Paananen, Piironen, Burkner & Vehtari 2021, Statistics and Computing 31). Few draws have weight, so what of
a shift may be noise is taken off it. ArviZ's `loo_moment_match` moves all parameters for every pair; here that would be
a thousand, of which a pair says nothing of most.

The mean of the weights is by how much the pair's likelihood is missed, so elpd needs no likelihood of moved draws.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from arviz_stats.base import array_stats
from jax import Array

from tslaw.fit import surface
from tslaw.fit.data import TaskData
from tslaw.fit.lengths import cells_by_length, length_grid, log_prior_length, row_table
from tslaw.fit.nuts import progress_bar
from tslaw.fit.over_draws import each_draw, over_draws
from tslaw.fit.subset import arms_at

ENOUGH = 0.7
"""The Pareto k at which weights can be used, and draws are moved no more."""
MOST_MOVES = 8
LEAST_GAIN = 0.02
"""By how much a move has to lower k to be made."""
NOISE = 1.5
"""Standard errors, squared, of a weighted mean that are taken to be noise."""
LARGEST_STRETCH = 2.0
"""No spread is changed by more than this factor in one move."""
OWN = {
    "kv_misfit": "sd_kv",
    "kv_own": "sd_kv_own",
    "kv_cut": "sd_kv_cut",
    "model_late": "sd_late",
    "model_relapse": "sd_relapse",
    "model_slip": "sd_slip",
}
"""What is a model's own and may be moved, with the standard deviation of its prior, which is a normal around zero."""
OF_ARMS = ("misfit", "kv_own", "kv_cut")
OF_MODELS = ("model_effect", "quantization_effect", *surface.TRAITS, "kv_misfit")

Draws = dict[str, np.ndarray]
"""(draw, ...) arrays by name."""
Change = Callable[[np.ndarray], np.ndarray]
"""From moved numbers (draw, number) to what moving them changes of the log density of all that is not left out, with
the prior: (draw,)."""


class Match(NamedTuple):
    """What is known of a left-out point: its log predictive density, and the Pareto k of the weights behind it."""

    elpd: float
    pareto_k: float


def match(numbers: np.ndarray, log_likelihood: np.ndarray, change: Change) -> Match:
    """Move `numbers` (draw, number) until draws can be weighed, or no move helps.

    Parameters
    ----------
    log_likelihood : (draw,) of what is left out, at the draws as they are.
    """
    numbers, log_weights, stretch = numbers.copy(), -log_likelihood, 0.0
    weights, k = smoothed(log_weights)
    for _ in range(MOST_MOVES):
        if k <= ENOUGH:
            break
        for moved, longer in moves(numbers, weights):
            tried = change(moved) - log_likelihood
            new_weights, new_k = smoothed(tried)
            if new_k < k - LEAST_GAIN:
                numbers, log_weights, weights, k, stretch = moved, tried, new_weights, new_k, stretch + longer
                break
        else:
            break
    return Match(-(_log_mean(log_weights, weights) + stretch), k)


def moves(numbers: np.ndarray, weights: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """`numbers` (draw, number) shifted to their weighted means, and stretched besides to their weighted spreads; with
    the logarithm of the volume's change."""
    worth = 1.0 / np.square(weights).sum()
    here, spread = numbers.mean(axis=0), numbers.std(axis=0)
    there = weights @ numbers
    apart = np.divide(there - here, spread, out=np.zeros_like(here), where=spread > 0)
    shift = spread * apart * np.maximum(0.0, 1.0 - NOISE / np.maximum(worth * apart**2, 1e-12))
    wanted = np.sqrt(weights @ np.square(numbers - there) / max(1.0 - 1.0 / worth, 0.1))
    ratio = np.divide(wanted, spread, out=np.ones_like(here), where=spread > 0)
    ratio = np.clip(ratio, 1.0 / LARGEST_STRETCH, LARGEST_STRETCH)
    ratio = np.where(np.abs(np.log(ratio)) > 2.0 / np.sqrt(worth), ratio, 1.0)
    return [(numbers + shift, 0.0), (here + shift + (numbers - here) * ratio, float(np.log(ratio).sum()))]


def smoothed(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Pareto-smoothed weights (draw,), which sum to 1, and their k."""
    found, k = array_stats.psislw(-log_weights)
    weights = np.exp(found - found.max())
    return weights / weights.sum(), float(k)


def _log_mean(log_weights: np.ndarray, weights: np.ndarray) -> float:
    """The logarithm of the mean of the smoothed weights: the smallest are not smoothed, and say by what the others were
    divided."""
    least = int(log_weights.argmin())
    return float(log_weights[least] - np.log(weights[least] * len(weights)))


def match_pairs(posterior: Draws, data: TaskData, log_likelihood: np.ndarray, bad: np.ndarray) -> dict[Any, Match]:
    """What moving draws says of the pairs that are `bad` (model, problem), by (model, problem).

    Parameters
    ----------
    posterior : (chain, draw, ...) arrays. log_likelihood : (chain, draw, model, problem) of the pairs.
    """
    flat = {name: values.reshape(-1, *values.shape[2:]) for name, values in posterior.items()}
    left_out = log_likelihood.reshape(-1, *log_likelihood.shape[2:])
    cells = cells_of_models(flat, data)
    found: dict[Any, Match] = {}
    with progress_bar(int(bad.sum()), sys.stderr.isatty()) as show:
        for model in map(int, np.flatnonzero(bad.any(axis=1))):
            own = ModelOwn(flat, data, model, cells.sum(axis=1) - cells[:, model])
            for problem in map(int, np.flatnonzero(bad[model])):
                show(len(found), "pairs of a model and a problem left out by moving draws")
                change = own.change_without(problem)
                found[model, problem] = match(own.numbers, left_out[:, model, problem], change)
    return found


def cells_of_models(flat: Draws, data: TaskData) -> np.ndarray:
    """Log-likelihood of what every model did on every problem, were the problem's length the grid's: (draw, model,
    problem, node)."""
    grid, rows, model = length_grid(data.budgets), row_table(data), data.model_index()

    def one(params: dict[str, Array]) -> Array:
        cells = cells_by_length(params, data, grid, rows, arm_effects(params, data))
        return jax.ops.segment_sum(jnp.swapaxes(cells, 0, 1), model, int(model.max()) + 1)

    return np.asarray(over_draws(jax.jit(lambda some: each_draw(one, some)), flat))


def arm_effects(params: dict[str, Array], data: TaskData) -> Array:
    """What an arm's model, with what quantization adds, has of its own on every problem: (arm, problem)."""
    quantized = surface.weight_bit_shape(jnp.asarray(data.weight_bits), params["kappa_w"])
    return surface.own_effect(params["model_effect"], params["quantization_effect"], quantized, data.model_index())


class ModelOwn:
    """A model's own numbers in every draw, and what moving them changes.

    numbers : (draw, number), those of `OWN` that vary.
    """

    def __init__(self, flat: Draws, data: TaskData, model: int, others: np.ndarray) -> None:
        """`others` (draw, problem, node): the log-likelihoods of what all other models did."""
        arms = np.flatnonzero(data.model_index() == model)
        self.data = arms_at(data, arms, all_budgets=True)
        self.params = _of_model(flat, data, self.data, arms, model)
        self.shapes = {name: self.params[name].shape for name in OWN if name in self.params}
        drawn = {name: self.params[name].reshape(len(others), -1) for name in self.shapes}
        spread = [np.repeat(flat[OWN[name]][:, None], each.shape[1], axis=1) for name, each in drawn.items()]
        self.all = np.concatenate(list(drawn.values()), axis=1)
        self.varies = self.all.std(axis=0) > 0
        self.numbers, self.spread = self.all[:, self.varies], np.concatenate(spread, axis=1)[:, self.varies]
        rows, grid = row_table(self.data), length_grid(data.budgets)

        def one(draw: tuple[dict[str, Array], Array]) -> Array:
            params, of_others = draw
            cells = cells_by_length(params, self.data, grid, rows, arm_effects(params, self.data))
            return jax.nn.logsumexp(log_prior_length(params, grid) + of_others + cells.sum(axis=1), axis=1)

        self.others, self._compiled = others, jax.jit(lambda some: each_draw(one, some))
        self.before = self.problems(self.params)

    def problems(self, params: Draws) -> np.ndarray:
        """Log-likelihoods of all models' trajectories on every problem: (draw, problem)."""
        return np.asarray(over_draws(self._compiled, (params, self.others)))

    def change_without(self, problem: int) -> Change:
        """What moving the numbers changes where this problem is left out."""
        kept = np.arange(self.before.shape[1]) != problem

        def change(moved: np.ndarray) -> np.ndarray:
            likelihood = (self.problems(self.with_numbers(moved)) - self.before)[:, kept].sum(axis=1)
            prior = 0.5 * (np.square(self.numbers / self.spread) - np.square(moved / self.spread)).sum(axis=1)
            return np.asarray(likelihood + prior)

        return change

    def with_numbers(self, numbers: np.ndarray) -> Draws:
        """The parameters with other numbers (draw, number)."""
        each = self.all.copy()
        each[:, self.varies] = numbers
        ends = np.cumsum([np.prod(shape[1:], dtype=int) for shape in self.shapes.values()])[:-1]
        parts = np.split(each, ends, axis=1)
        return self.params | {n: part.reshape(s) for (n, s), part in zip(self.shapes.items(), parts, strict=True)}


def _of_model(flat: Draws, data: TaskData, part: TaskData, arms: np.ndarray, model: int) -> Draws:
    """The parameters that one model's `part` of the data asks for, `arms` its arms in all of it."""
    found = {name: values for name, values in flat.items() if name != "own_length"}  # summed out
    found |= {name: flat[name][:, arms] for name in OF_ARMS if name in flat}
    found |= {name: flat[name][:, model : model + 1] for name in OF_MODELS if name in flat}
    if data.cache_kinds:
        kinds = [data.cache_kinds.index(kind) for kind in part.cache_kinds]
        found["kv_misfit"] = found["kv_misfit"][:, :, kinds]
    return found
