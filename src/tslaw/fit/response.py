"""Mean accuracy over a benchmark's problems as a table, so that every estimand is a lookup.

For one posterior draw the mean over problems depends on the size, the weight bits and the slack m = ln T - mu only:

    R(x, m) = mean_j Q(theta(x) - d_j) S(m, rho d_j + ell_j, x)

with Q the chance of solving and S that of having solved by then, averaged over the effects and lengths of its own that
a model has (nobody knows those of a size that was not run). S changes little with x, so it is worked out at three sizes
and interpolated by a parabola; the rest is one small matrix product for an even grid of sizes and one of slacks. Nobody
has to think as long as the budget allows, so a row never falls: it holds the best up to each slack. Between sizes and
between slacks it is interpolated by cubic convolution (Keys 1981): the accuracy near its best choice is so flat that
the kinks of linear interpolation would pull every optimum to a grid point and move the crossover by 2%.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tslaw.fit import surface

N_SLACK, N_NODES = 240, 72
CHEBYSHEV = (5, N_NODES // 2, N_NODES - 6)
"""The sizes nearest to Chebyshev's nodes, where a parabola's greatest error is least."""


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
    sizes = jnp.linspace(jnp.min(x), jnp.max(x), N_NODES)
    logit = surface.ability(params, sizes, bits)[:, None] - difficulty
    # Most of the time goes into Q and S, and single precision is enough for chances that are averaged.
    spread = surface.effect_spread(params, bits).astype(jnp.float32)
    q = surface.average_solve_probability(logit.astype(jnp.float32), spread).astype(logit.dtype) * present
    single = {name: params[name].astype(jnp.float32) for name in surface.TIMING}
    behind, of_problem, width = (v.astype(jnp.float32) for v in (slack[:, None], longer, bits))
    nodes = sizes[jnp.array(CHEBYSHEV)]
    each = [surface.solved_by(single, behind, of_problem, v, width, True) for v in nodes.astype(jnp.float32)]
    weighted = (w[:, None] * (q @ s.T.astype(q.dtype)) for w, s in zip(parabola(sizes, nodes), each, strict=True))
    best = jax.lax.cummax(sum(weighted) / present.sum(), axis=1)
    step = jnp.maximum(sizes[1] - sizes[0], 1e-9)  # a single size
    return Response(between(best, (x - sizes[0]) / step), low, (high - low) / (N_SLACK - 1))


def between(values: Array, position: Array) -> Array:
    """Rows of `values` (row, column) at fractional `position` (size,), by cubic convolution: (size, column)."""
    last = len(values) - 1
    index, weights = cubic_weights(position, last)
    taps = (values[jnp.clip(index + k, 0, last)] for k in (-1, 0, 1, 2))
    return sum((w[:, None] * v for w, v in zip(weights, taps, strict=True)), jnp.zeros(()))


def cubic_weights(position: Array, last: int) -> tuple[Array, tuple[Array, ...]]:
    """Of positions on an even grid 0 to `last`: the point below, and the weights of it, of the one before it and of the
    two after it (before, below, after, after that)."""
    position = jnp.clip(position, 0.0, float(last))
    index = jnp.minimum(position.astype(int), last - 1)
    t = position - index
    weights = (
        -0.5 * t * (1 - t) ** 2,
        1 + t**2 * (1.5 * t - 2.5),
        t * (0.5 + t * (2 - 1.5 * t)),
        0.5 * t**2 * (t - 1),
    )
    return index, weights


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
    index, weights = cubic_weights((slack - table.start) / table.step, N_SLACK - 1)
    taps = (table.values[row, jnp.clip(index + k, 0, N_SLACK - 1)] for k in (-1, 0, 1, 2))
    return sum((w * v for w, v in zip(weights, taps, strict=True)), jnp.zeros(()))


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
