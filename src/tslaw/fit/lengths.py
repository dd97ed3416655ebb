"""How long each problem's solution is, summed out of the likelihood on a grid of log lengths.

A problem's log length is only as sharp as the budgets are dense. Where a family thinks for nearly the same number of
tokens every time, the likelihood of a problem's length is a staircase with one step a budget: no gradient inside a
step, a wall at its ends, and a problem no arm solves may be too long or too hard. A Hamiltonian sampler gets stuck on
such stairs (its chains end in different modes), so it never sees them: the lengths are summed out,

    P(data_j | rest) = sum_g w_jg prod_rows P(pattern | arm, d_j, length g)^times
    w_jg proportional to the density of Normal(mu0 + rho d_j, sd_length) at length g and to the width g stands for

and drawn afterwards from their exact distribution given everything else. Given length g an arm's chance of a pattern
is affine in the chance q of solving, q a_gp + (1 - q) b_p, and a and b do not depend on the problem: that makes the
sum cheap.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tslaw.fit import likelihood as lik
from tslaw.fit import surface
from tslaw.fit.data import TaskData

MARGIN, TAIL, TAIL_STEP = 1.0, 3.0, 0.3
"""Log tokens by which the fine grid reaches beyond the budgets, by which the coarse one does, and its step."""


class LengthGrid(NamedTuple):
    """Log lengths a problem may have, and the logarithm of the width each stands for; both (node,)."""

    log_length: np.ndarray
    log_width: np.ndarray


class RowTable(NamedTuple):
    """The distinct rows of the data, ordered by problem.

    `pattern` (arm, slot) says which patterns each arm showed (short lists are filled up by repetition), `slot` (row,)
    where in its arm's list a row's pattern stands.
    """

    pattern: np.ndarray
    slot: np.ndarray
    arm: np.ndarray
    problem: np.ndarray
    times: np.ndarray


def length_resolution(budgets: np.ndarray) -> float:
    """The smallest sigma_len the budgets (budget,) can resolve, in log tokens."""
    return 0.25 * float(np.diff(np.log(budgets)).min()) if len(budgets) > 1 else 0.1


def length_grid(budgets: np.ndarray) -> LengthGrid:
    """Fine steps as far as the budgets (budget,) reach and a margin beyond, coarse ones where none tells them apart."""
    low, high = float(np.log(budgets[0])) - MARGIN, float(np.log(budgets[-1])) + MARGIN
    fine = np.linspace(low, high, int(np.ceil((high - low) / length_resolution(budgets))) + 1)
    coarse = np.arange(TAIL_STEP, TAIL - MARGIN + TAIL_STEP, TAIL_STEP)
    nodes = np.concatenate([low - coarse[::-1], fine, high + coarse])
    return LengthGrid(nodes, np.log(np.gradient(nodes)))


def row_table(data: TaskData) -> RowTable:
    """Order the rows by problem and list the patterns of every arm."""
    lists = [np.unique(data.row_pattern[data.row_arm == arm]) for arm in range(len(data.arms))]
    longest = max(len(found) for found in lists)
    pattern = np.stack([np.resize(found, longest) for found in lists])
    slot = np.array([np.searchsorted(lists[a], p) for a, p in zip(data.row_arm, data.row_pattern, strict=True)])
    order = np.argsort(data.row_problem, kind="stable")
    times = data.row_count[order].astype(np.float32)
    return RowTable(pattern, slot[order], data.row_arm[order], data.row_problem[order], times)


def log_prior_length(params: dict[str, Array], grid: LengthGrid) -> Array:
    """Log probability of every problem's length before the data, (problem, node)."""
    expected = params["mu0"] + params["rho"] * params["difficulty"]
    z = (grid.log_length - expected[:, None]) / params["sd_length"]
    return jax.nn.log_softmax(grid.log_width - 0.5 * z * z, axis=1)


def _row_log_likelihood(params: dict[str, Array], data: TaskData, grid: LengthGrid, rows: RowTable) -> Array:
    """Log-likelihood of each row's trajectories, were its problem's length the grid's: (row, node).

    `params` holds the population's parameters, `difficulty` (problem,) and `misfit` (arm,).
    """
    x, bits = jnp.asarray(data.log_size), jnp.asarray(data.weight_bits)
    shift = surface.log_length(params, x, bits) - params["mu0"]
    mean_log_length = jnp.asarray(grid.log_length) + shift[:, None]
    finished = surface.finished_by(params, jnp.log(data.budgets), mean_log_length[..., None])
    if_solvable = lik.state_probabilities(jnp.ones(finished.shape[:-1]), finished)
    slip = surface.slip_rate(params, x)[:, None]
    probes = lik.probe_probabilities(lik.pattern_table(data.patterns[rows.pattern]), params["guess"], slip)
    theta = surface.ability(params, x, bits) + params["misfit"]
    q = surface.solve_probability(theta, params["difficulty"])
    # Nearly all the time goes into these rows x nodes, and single precision is enough for them.
    if_solvable, probes = if_solvable.astype(jnp.float32), probes.astype(jnp.float32)
    solvable = jnp.einsum("igm,ism->isg", if_solvable, probes)
    a, b = (table[rows.arm, rows.slot] for table in (solvable, probes[..., -1:]))
    q_row = q.astype(jnp.float32)[rows.arm, rows.problem, None]
    likelihood = q_row * a + (1.0 - q_row) * b
    return jnp.asarray(rows.times)[:, None] * jnp.log(likelihood + jnp.finfo(jnp.float32).tiny)


def log_likelihood_by_length(params: dict[str, Array], data: TaskData, grid: LengthGrid, rows: RowTable) -> Array:
    """Log-likelihood of all trajectories of a problem, were its length the grid's: (problem, node)."""
    each = _row_log_likelihood(params, data, grid, rows)
    joined = jax.ops.segment_sum(each, rows.problem, len(data.problems), indices_are_sorted=True)
    return joined.astype(params["mu0"].dtype)


def cell_given_the_others(params: dict[str, Array], data: TaskData, grid: LengthGrid, rows: RowTable) -> Array:
    """Log-likelihood of every cell's trajectories given the same problem's in all other arms: (arm, problem).

    The problem's length is summed out of both. This is what leave-one-out importance weights need when lengths are not
    sampled (integrated importance sampling, Vehtari et al. 2016); given a drawn length instead, the weights of a cell
    that decided it would be too uneven to use. Cells without data give 0.
    """
    # Summed in double precision: weights that are equal by rounding alone have no tail to smooth.
    each = _row_log_likelihood(params, data, grid, rows).astype(params["mu0"].dtype)
    n_arms, n_problems = len(data.arms), len(data.problems)
    cell = rows.problem * n_arms + rows.arm
    own = jax.ops.segment_sum(each, cell, n_problems * n_arms).reshape(n_problems, n_arms, -1)
    joint = log_prior_length(params, grid) + own.sum(axis=1)
    without = jax.nn.logsumexp(joint[:, None] - own, axis=-1)
    return (jax.nn.logsumexp(joint, axis=-1)[:, None] - without).T


def problem_log_likelihood(params: dict[str, Array], data: TaskData, grid: LengthGrid, rows: RowTable) -> Array:
    """Log-likelihood of all trajectories of every problem, its length summed out: (problem,)."""
    joint = log_prior_length(params, grid) + log_likelihood_by_length(params, data, grid, rows)
    return jax.nn.logsumexp(joint, axis=1)


def draw_lengths(posterior: dict[str, np.ndarray], data: TaskData, seed: int) -> np.ndarray:
    """Draws of ell_j given everything else, one for every posterior draw: (chain, draw, problem).

    `posterior` maps names to (chain, draw, ...) arrays and holds what `log_likelihood_by_length` asks for.
    """
    grid, rows = length_grid(data.budgets), row_table(data)
    chains, draws = posterior["mu0"].shape
    flat = {k: jnp.asarray(v.reshape(chains * draws, *v.shape[2:])) for k, v in posterior.items()}

    def one(params: dict[str, Array], key: Array) -> Array:
        joint = log_prior_length(params, grid) + log_likelihood_by_length(params, data, grid, rows)
        node = jax.random.categorical(key, joint, axis=1)
        return jnp.asarray(grid.log_length)[node] - params["mu0"] - params["rho"] * params["difficulty"]

    keys = jax.random.split(jax.random.PRNGKey(seed), chains * draws)
    found = jax.jit(lambda p, k: jax.lax.map(lambda pair: one(*pair), (p, k)))(flat, keys)
    return np.asarray(found).reshape(chains, draws, -1)
