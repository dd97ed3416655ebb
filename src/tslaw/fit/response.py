"""Mean accuracy over a benchmark's problems as a table, so that every estimand is a lookup.

For one posterior draw the mean over problems depends on the arm and the budget only through the ability theta and the
slack m = ln T - mu:

    R(theta, m) = mean_j sigmoid(theta - d_j) F(m - rho d_j - ell_j)

which is one small matrix product for all abilities that matter and an even grid of slacks. Between slacks it is
interpolated by cubic convolution (Keys 1981): the accuracy near its best choice is so flat that the kinks of linear
interpolation would pull every optimum to a grid point and move the crossover by 2%.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tslaw.fit import surface

N_SLACK = 200


class Response(NamedTuple):
    """One draw's table: `values` (row, slack), one row an ability, on an even grid of slacks from `start` by `step`."""

    values: Array
    start: Array
    step: Array


def response_table(params: surface.Params, theta: Array) -> Response:
    """Tabulate one draw at abilities `theta` (row,); `params` holds its scalars and `difficulty`, `length` (problem,).

    Problems padded with NaN (a task with fewer problems than another) are left out of the mean.
    """
    present = ~jnp.isnan(params["difficulty"])
    difficulty = jnp.where(present, params["difficulty"], 0.0)
    longer = jnp.where(present, surface.problem_length(params), 0.0)
    low = jnp.min(longer) - 4.5 * params["sigma_len"]
    high = jnp.max(longer) + params["late_delay"] + 4.5 * surface.late_spread(params)
    slack = jnp.linspace(low, high, N_SLACK)
    q = jax.nn.sigmoid(theta[:, None] - difficulty) * present
    finished = surface.finished_by(params, slack[:, None], longer)
    return Response(q @ finished.T / present.sum(), low, (high - low) / (N_SLACK - 1))


def solved(table: Response, row: Array, slack: Array) -> Array:
    """R of the abilities in rows `row` at `slack`; shapes broadcast. Beyond the grid it is 0 or the ceiling to 1e-5."""
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
