"""The capacity-versus-test-time crossover W+, for all posterior draws at once.

Along a family, at given weight bits and batch, let T_sat(W) be the budget at which the model of effective size W
reaches 95% of its own ceiling, M_sat(W) = W / batch + KV(W, T_sat) the memory that takes, and W*(M) the effective size
of the most accurate model that costs at most M. Then

    h(W) = ln W*(M_sat(W)) - ln W,        W+ = the size above which h <= 0

h > 0: at the memory of thinking to saturation a bigger model that thinks less is more accurate, so memory belongs in
weights. h <= 0: it belongs in thinking. Sizes are continuous (`sizes.SizeCurve`); the lattice version allows only the
family's models and includes their misfits. `regret` is the accuracy lost at M_sat(W) by not moving to W*: where h is
flat it shows that the choice hardly matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tslaw.errors import TslawError
from tslaw.fit import response, surface
from tslaw.fit.intervals import CensoredSummary, summarise_censored
from tslaw.fit.over_draws import over_draws
from tslaw.fit.posterior import Posterior, check_batch
from tslaw.fit.sizes import SizeCurve, size_curve
from tslaw.memory import GIB, Accounting

SATURATION = 0.95
N_SIZES, N_CHOICES = 65, 480
REACH_BELOW, REACH_ABOVE = 4.0, 16.0
"""Choices of W* go this factor in parameters beyond the smallest and the largest model of the family."""


class SizeGrid(NamedTuple):
    """Where the estimand is evaluated: sizes (size,) with their choices (choice,), in log parameters relative to
    the reference."""

    x: np.ndarray
    weight: np.ndarray
    kv: np.ndarray
    choice_x: np.ndarray
    choice_weight: np.ndarray
    choice_kv: np.ndarray


def continuous_grid(curve: SizeCurve, log_reference: float) -> SizeGrid:
    """Sizes between the family's ends, even in log effective size; choices from well below to well above them."""
    log_weight = np.linspace(curve.log_weight[0], curve.log_weight[-1], N_SIZES)
    sizes = curve.log_params_at_weight(np.exp(log_weight))
    first, last = curve.log_params[0] - np.log(REACH_BELOW), curve.log_params[-1] + np.log(REACH_ABOVE)
    choices = np.linspace(first, last, N_CHOICES)
    return SizeGrid(
        sizes - log_reference,
        np.exp(log_weight),
        curve.kv_per_token(sizes),
        choices - log_reference,
        curve.weight(choices),
        curve.kv_per_token(choices),
    )


class Decision(NamedTuple):
    """Per size: log of the best choice's weight over one's own, the accuracy lost by not moving, and T_sat in
    tokens."""

    log_gain: Array
    regret: Array
    saturation: Array


def _peak(values: Array, positions: Array) -> tuple[Array, Array]:
    """The maximum of each row of `values` (row, choice) and its position, refined by a parabola through its
    neighbours."""
    k = jnp.clip(jnp.argmax(values, axis=1), 1, values.shape[1] - 2)
    rows = jnp.arange(values.shape[0])
    left, mid, right = values[rows, k - 1], values[rows, k], values[rows, k + 1]
    curvature = left - 2 * mid + right
    smooth = (curvature < 0) & (left >= 0) & (right >= 0)
    shift = jnp.where(smooth, 0.5 * (left - right) / jnp.where(smooth, curvature, -1.0), 0.0)
    shift = jnp.clip(shift, -1.0, 1.0)
    step = positions[k + 1] - positions[k]
    return jnp.maximum(mid, mid - 0.25 * (left - right) * shift), positions[k] + shift * step


def decide(draw: dict[str, Array], grid: SizeGrid, bits: float, batch: float) -> Decision:
    """The decision at every size of the grid, for one draw of the population parameters and problem effects."""
    x, choice_x = jnp.asarray(grid.x), jnp.asarray(grid.choice_x)
    guess, slip, width = draw["guess"], surface.slip_rate(draw, x), jnp.asarray(bits)
    table = response.response_table(draw, jnp.concatenate([x, choice_x]), width)
    own_row, choice_row = jnp.arange(len(x)), len(x) + jnp.arange(len(choice_x))
    slack = response.saturation_slack(table, own_row, guess, slip, SATURATION)
    own = surface.accuracy(response.solved(table, own_row, slack), guess, slip)
    budget = jnp.exp(slack + surface.log_length(draw, x, width))
    memory = grid.weight / batch + grid.kv * budget
    tokens = (memory[:, None] - grid.choice_weight / batch) / grid.choice_kv
    affordable = tokens > 0
    choice_slack = jnp.log(jnp.where(affordable, tokens, 1.0)) - surface.log_length(draw, choice_x, width)
    accuracy = surface.accuracy(
        response.solved(table, choice_row, choice_slack), guess, surface.slip_rate(draw, choice_x)
    )
    best, where = _peak(jnp.where(affordable, accuracy, -1.0), jnp.log(jnp.asarray(grid.choice_weight)))
    return Decision(where - jnp.log(grid.weight), jnp.maximum(best - own, 0.0), budget)


@jax.jit
def _decisions(draws: dict[str, Array], grid: SizeGrid, bits: float, batch: float) -> Decision:
    """Of every draw, (draw, size); compiled once for all weight bits, batches and accountings of a posterior."""
    return jax.lax.map(lambda draw: decide(draw, grid, bits, batch), draws, batch_size=2)


def last_crossing(log_gain: np.ndarray, log_weight: np.ndarray) -> np.ndarray:
    """The size above which the gain of moving up stays at or below zero, for every draw.

    Parameters
    ----------
    log_gain : (draw, size) h on a grid of sizes. log_weight : (size,) increasing.

    Returns
    -------
    (draw,) bytes; -inf where h <= 0 already at every size, +inf where h > 0 still at the largest.
    """
    positive = log_gain > 0
    last = log_gain.shape[1] - 1 - np.argmax(positive[:, ::-1], axis=1)
    inside = positive.any(axis=1) & ~positive[:, -1]
    k = np.where(inside, last, 0)
    rows = np.arange(len(log_gain))
    above, below = log_gain[rows, k], log_gain[rows, k + 1]
    part = np.where(inside, above / np.where(above - below > 0, above - below, 1.0), 0.0)
    root = np.exp(log_weight[k] + part * (log_weight[k + 1] - log_weight[k]))
    return np.where(inside, root, np.where(positive[:, -1], np.inf, -np.inf))


@dataclass(frozen=True)
class Crossover:
    """W+ of one task at one weight bit width; sizes in bytes.

    `draws` (draw,) may be -inf or +inf (see `last_crossing`); `log_gain`, `regret`, `saturation` are (draw, size)
    on `weight` (size,).
    `p_many` is the probability that h changes sign more than once, where 'the' crossover is the last of several.
    """

    task: str
    weight_bits: float
    batch: float
    accounting: Accounting
    weight: np.ndarray
    draws: np.ndarray
    log_gain: np.ndarray
    regret: np.ndarray
    saturation: np.ndarray
    summary: CensoredSummary
    p_many: float
    p_beyond_budgets: np.ndarray


def crossover(
    posterior: Posterior, weight_bits: float = 8, batch: float = 1, accounting: Accounting = "checkpoint"
) -> Crossover:
    """Compute W+ for every posterior draw.

    Raises
    ------
    TslawError : a family of one size, a batch below 1, or weight bits outside 2 to 16.
    """
    check_batch(batch)
    curve = size_curve(posterior.shapes, weight_bits, accounting)
    grid = continuous_grid(curve, np.log(posterior.reference_size))
    bits, every = float(weight_bits), float(batch)
    decisions = over_draws(lambda draws: _decisions(draws, grid, bits, every), posterior.population_draws())
    log_gain, regret, saturation = (np.asarray(a, float) for a in decisions)
    draws = last_crossing(log_gain, np.log(grid.weight))
    signs = np.diff(log_gain > 0, axis=1)
    return Crossover(
        posterior.task,
        weight_bits,
        batch,
        accounting,
        grid.weight,
        draws,
        log_gain,
        regret,
        saturation,
        summarise_censored(draws, float(grid.weight[0]), float(grid.weight[-1])),
        float((signs.sum(axis=1) > 1).mean()),
        (saturation > posterior.budgets.max()).mean(axis=0),
    )


@dataclass(frozen=True)
class LatticeChoice:
    """The same question when only the family's models may be chosen: one entry a model, smallest first; sizes in
    bytes."""

    models: tuple[str, ...]
    weight: np.ndarray
    p_bigger: np.ndarray
    regret: np.ndarray


def lattice_crossover(
    posterior: Posterior, weight_bits: float = 8, batch: float = 1, accounting: Accounting = "checkpoint"
) -> LatticeChoice:
    """P(a bigger model of the family is more accurate at the memory at which this one saturates), with misfits.

    Returns
    -------
    LatticeChoice with `p_bigger` (model,) and `regret` (draw, model).
    """
    check_batch(batch)
    arms = [a for a in posterior.family_arms(accounting) if a.weight_bits == weight_bits]
    if len(arms) < 2:
        raise TslawError(
            f"Fewer than two models were measured at {weight_bits:g} weight bits.",
            where="--weight-bits",
            expected=f"one of {sorted({a.weight_bits for a in posterior.family_arms(accounting)})}",
        )
    budgets = np.geomspace(1.0, 16.0 * posterior.budgets.max(), 400)
    # Nobody has to think as long as the memory allows: the best up to every budget.
    curves = np.maximum.accumulate(np.stack([posterior.arm_accuracy(a, budgets) for a in arms], axis=1), axis=2)
    weight, kv = np.array([a.weight for a in arms]), np.array([a.kv_per_token for a in arms])
    own = SATURATION * curves[..., -1]
    memory = weight / batch + kv * _tokens_to_reach(curves, own, budgets)
    best_bigger = np.full_like(own, -np.inf)
    for i in range(len(arms)):
        for j in range(i + 1, len(arms)):
            tokens = (memory[:, i] - weight[j] / batch) / kv[j]
            best_bigger[:, i] = np.maximum(best_bigger[:, i], _accuracy_at(curves[:, j], tokens, budgets))
    gain = best_bigger - own
    return LatticeChoice(tuple(a.model for a in arms), weight, (gain > 0).mean(axis=0), np.maximum(gain, 0.0))


def _tokens_to_reach(curves: np.ndarray, target: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """Tokens at which `curves` (draw, model, budget) reach `target` (draw, model), linear in log tokens."""
    k = np.maximum(np.argmax(curves >= target[..., None], axis=2), 1)[..., None]
    below, above = (np.take_along_axis(curves, i, 2)[..., 0] for i in (k - 1, k))
    part = np.clip((target - below) / np.maximum(above - below, 1e-12), 0.0, 1.0)
    return budgets[k[..., 0] - 1] * (budgets[1] / budgets[0]) ** part


def _accuracy_at(curve: np.ndarray, tokens: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """`curve` (draw, budget) at `tokens` (draw,), linear in log tokens; -inf below the first budget."""
    position = np.log(np.maximum(tokens, budgets[0]) / budgets[0]) / np.log(budgets[1] / budgets[0])
    k = np.minimum(position.astype(int), len(budgets) - 2)
    part, rows = np.minimum(position - k, 1.0), np.arange(len(curve))
    value = curve[rows, k] * (1 - part) + curve[rows, k + 1] * part
    return np.where(tokens >= budgets[0], value, -np.inf)


def in_gib(value: float) -> float | None:
    """Bytes as GiB, None for a censored (infinite) value."""
    return value / GIB if np.isfinite(value) else None
