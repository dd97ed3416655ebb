"""Mean accuracy over a benchmark's problems as a table, so that every estimand is a lookup.

For one posterior draw the mean over problems depends on the size, the weight bits and the slack m = ln T - mu only:

    R(x, m) = mean_j Q(theta(x) - d_j) S(m, rho d_j + ell_j, x)

with Q the chance of solving and S that of having solved by then, averaged over the effects and lengths of its own that
a model has (nobody knows those of a size that was not run). S changes little with x, so it is worked out at three sizes
and interpolated by a parabola; the rest is one small matrix product for all sizes and an even grid of slacks. Nobody
has to think as long as the budget allows, so a row never falls: it holds the best up to each slack. Between slacks it
is interpolated by cubic convolution (Keys 1981): the accuracy near its best choice is so flat that the kinks of linear
interpolation would pull every optimum to a grid point and move the crossover by 2%.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tslaw.fit import surface

N_SLACK = 240


class Response(NamedTuple):
    """One draw's table: `values` (row, slack), one row a size, on an even grid of slacks from `start` by `step`."""

    values: Array
    start: Array
    step: Array


def response_table(params: surface.Params, x: Array, bits: Array) -> Response:
    """Tabulate one draw at log sizes `x` (row,); `params` holds its scalars and `difficulty`, `length` (problem,).

    Problems padded with NaN (a task with fewer problems than another) are left out of the mean.
    """
    present = ~jnp.isnan(params["difficulty"])
    difficulty = jnp.where(present, params["difficulty"], 0.0)
    longer = jnp.where(present, surface.problem_length(params), 0.0)
    reach = 4.5 * jnp.hypot(surface.late_spread(params), params["own_length_spread"])
    low, high = jnp.min(longer) - reach, jnp.max(longer) + params["late_delay"] + reach
    slack = jnp.linspace(low, high, N_SLACK)
    logit = surface.ability(params, x, bits)[:, None] - difficulty
    q = surface.average_solve_probability(logit, surface.effect_spread(params, bits)) * present
    nodes = jnp.linspace(jnp.min(x), jnp.max(x), 3)
    each = [surface.solved_by(params, slack[:, None], longer, node, bits, own_lengths=True) for node in nodes]
    values = sum(w[:, None] * (q @ s.T) for w, s in zip(parabola(x, nodes), each, strict=True)) / present.sum()
    return Response(jax.lax.cummax(values, axis=1), low, (high - low) / (N_SLACK - 1))


def parabola(x: Array, nodes: Array) -> list[Array]:
    """Weights, each of the shape of `x`, of the values at three `nodes` in the parabola through them (Lagrange)."""
    a, b, c = nodes
    return [
        (x - b) * (x - c) / ((a - b) * (a - c)),
        (x - a) * (x - c) / ((b - a) * (b - c)),
        (x - a) * (x - b) / ((c - a) * (c - b)),
    ]


def solved(table: Response, row: Array, slack: Array) -> Array:
    """R of the sizes in rows `row` at `slack`; shapes broadcast. Beyond the grid it is 0 or the ceiling to 1e-5."""
    position = jnp.clip((slack - table.start) / table.step, 0.0, N_SLACK - 1.0)
    index = jnp.minimum(position.astype(int), N_SLACK - 2)
    t = position - index
    taps = [table.values[row, jnp.clip(index + k, 0, N_SLACK - 1)] for k in (-1, 0, 1, 2)]
    weights = (
        -0.5 * t * (1 - t) ** 2,
        1 + t**2 * (1.5 * t - 2.5),
        t * (0.5 + t * (2 - 1.5 * t)),
        0.5 * t**2 * (t - 1),
    )
    return sum(w * v for w, v in zip(weights[1:], taps[1:], strict=True)) + weights[0] * taps[0]


def saturation_slack(table: Response, row: Array, guess: Array, slip: Array, fraction: float) -> Array:
    """The slack at which accuracy reaches `fraction` of the arm's own ceiling; `row` and `slip` (size,), result
    (size,)."""
    curve = surface.accuracy(table.values[row], guess, slip[:, None])
    target = fraction * curve[:, -1]
    k = jnp.clip(jnp.argmax(curve >= target[:, None], axis=1), 1, N_SLACK - 1)
    rows = jnp.arange(len(curve))
    below, above = curve[rows, k - 1], curve[rows, k]
    part = jnp.clip((target - below) / jnp.maximum(above - below, 1e-12), 0.0, 1.0)
    return table.start + (k - 1 + part) * table.step
