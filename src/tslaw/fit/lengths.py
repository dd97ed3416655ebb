"""How long each problem's solution is, summed out of the likelihood on a grid of log lengths.

A problem's log length is only as sharp as the budgets are dense. Where a family thinks for nearly the same number of
tokens every time, the likelihood of a problem's length is a staircase with one step a budget: no gradient inside a
step, a wall at its ends, and a problem no arm solves may be too long or too hard. A Hamiltonian sampler gets stuck on
such stairs (its chains end in different modes), so it never sees them: the lengths are summed out,

    P(data_j | rest) = sum_g w_jg prod_i sum_h K_gh L_ij(h)
    L_ij(h) = prod_patterns P(pattern | arm i, q_ij, length h)^times
    w_jg proportional to the density of Normal(mu0 + rho d_j, sd_length) at length g and to the width g stands for
    K_gh the chance that an arm takes length h for a problem of length g: `own_length_kernel`

and drawn afterwards from their exact distribution given everything else. Given length h an arm's chance of a pattern
is affine in the chance q of solving, q a_hp + (1 - q) b_p, and a and b do not depend on the problem: that makes the
sum cheap.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tslaw.fit import cache_arms, surface
from tslaw.fit import likelihood as lik
from tslaw.fit.data import TaskData

NODES_BETWEEN = 4
MARGIN, TAIL, TAIL_STEP = 0.5, 3.0, 0.3
"""Nodes a step between budgets; log tokens by which the fine grid reaches beyond the budgets, by which the coarse one
does, and its step."""


class LengthGrid(NamedTuple):
    """Log lengths a problem may have, and the logarithm of the width each stands for; both (node,)."""

    log_length: np.ndarray
    log_width: np.ndarray


class RowTable(NamedTuple):
    """The distinct rows of the data, ordered by problem, then arm: `cell` (row,) is problem * arms + arm.

    `pattern` (arm, slot) says which patterns each arm showed (short lists are filled up by repetition), `slot` (row,)
    where in its arm's list a row's pattern stands.
    """

    pattern: np.ndarray
    slot: np.ndarray
    arm: np.ndarray
    problem: np.ndarray
    times: np.ndarray
    cell: np.ndarray


def length_resolution(budgets: np.ndarray) -> float:
    """The smallest sigma_len the budgets (budget,) can resolve, in log tokens."""
    return 1.0 / NODES_BETWEEN * float(np.diff(np.log(budgets)).min()) if len(budgets) > 1 else 0.1


def length_grid(budgets: np.ndarray) -> LengthGrid:
    """Fine steps as far as the budgets (budget,) reach and a margin beyond, coarse ones where none tells them apart.

    Between two budgets there are at least 4 steps, none longer than twice the length resolution.
    """
    log_budgets = np.log(budgets)
    step = length_resolution(budgets)
    counts = np.maximum(NODES_BETWEEN, np.ceil(np.diff(log_budgets) / (2.0 * step))).astype(int)
    gaps = zip(itertools.pairwise(log_budgets), counts, strict=True)
    pieces = [np.linspace(a, b, n, endpoint=False) for (a, b), n in gaps]
    beyond = np.arange(step, MARGIN, step)
    coarse = np.arange(MARGIN, TAIL, TAIL_STEP)
    outside = np.concatenate([beyond, coarse])
    low, high = log_budgets[0] - outside[::-1], log_budgets[-1] + outside
    nodes = np.concatenate([low, *pieces, log_budgets[-1:], high])
    return LengthGrid(nodes, np.log(np.gradient(nodes)))


def row_table(data: TaskData) -> RowTable:
    """Order the rows by problem and list the patterns of every arm."""
    lists = [np.unique(data.row_pattern[data.row_arm == arm]) for arm in range(len(data.arms))]
    longest = max(len(found) for found in lists)
    pattern = np.stack([np.resize(found, longest) for found in lists])
    slot = np.array([np.searchsorted(lists[a], p) for a, p in zip(data.row_arm, data.row_pattern, strict=True)])
    cell = data.row_problem * len(data.arms) + data.row_arm
    order = np.argsort(cell, kind="stable")
    times = data.row_count[order].astype(np.float32)
    return RowTable(pattern, slot[order], data.row_arm[order], data.row_problem[order], times, cell[order])


def log_prior_length(params: dict[str, Array], grid: LengthGrid) -> Array:
    """Log probability of every problem's length before the data, (problem, node)."""
    expected = params["mu0"] + params["rho"] * params["difficulty"]
    z = (grid.log_length - expected[:, None]) / params["sd_length"]
    return jax.nn.log_softmax(grid.log_width - 0.5 * z * z, axis=1)


def own_length_kernel(params: dict[str, Array], grid: LengthGrid) -> Array:
    """K: the chance of an arm's length, for every length of the problem; (node, node), rows sum to 1."""
    z = (grid.log_length[:, None] - grid.log_length[None, :]) / params["own_length_spread"]
    own = jax.nn.softmax(grid.log_width - 0.5 * z * z, axis=1)
    share = params["own_length_share"]
    return (1.0 - share) * jnp.eye(len(grid.log_length)) + share * own


def arm_traits(params: dict[str, Array], data: TaskData) -> surface.Traits:
    """What the model of every arm has of its own: (arm,) each."""
    return surface.Traits(*(jnp.asarray(trait) for trait in surface.traits_of(params, data.model_index())))


def relapse_chain(params: dict[str, Array], data: TaskData) -> lik.Relapse:
    """Every arm's chain from budget to budget; what came before the first budget took as long as the step after it."""
    x, bits = jnp.asarray(data.log_size), jnp.asarray(data.weight_bits)
    log_budgets = np.log(data.budgets)
    step = log_budgets[1] - log_budgets[0] if len(log_budgets) > 1 else np.log(2.0)
    traits = arm_traits(params, data)
    typical = surface.log_length(params, x, bits, traits.mu)
    slack = np.concatenate([[log_budgets[0] - step], log_budgets]) - typical[:, None]
    advance = jnp.diff(surface.clock(params, slack), axis=1)
    rate = surface.relapse_rate(params, x, bits, traits.relapse)
    if not data.cache_kinds:
        return lik.Relapse(jnp.exp(-rate[:, None] * advance), params["kept"])
    # A compressed cache adds losses and no recoveries: the chain is faster, and less of it is right in the long run.
    points = np.concatenate([[log_budgets[0] - step], log_budgets])
    lost = jnp.diff(cache_arms.losses(params, data, slack, points), axis=1)
    relapses = rate[:, None] * advance
    return lik.Relapse(jnp.exp(-(relapses + lost)), params["kept"] * (relapses / (relapses + lost)))


def _row_log_likelihood(params: dict[str, Array], data: TaskData, grid: LengthGrid, rows: RowTable, q: Array) -> Array:
    """Log-likelihood of each row's trajectories, were its arm's length for its problem the grid's: (row, node).

    `q` (arm, problem) are the chances of solving; `params` holds the population's parameters.
    """
    x, bits = jnp.asarray(data.log_size), jnp.asarray(data.weight_bits)
    traits = arm_traits(params, data)
    shift = surface.log_length(params, x, bits, traits.mu) - params["mu0"]
    mean_log_length = jnp.asarray(grid.log_length) + shift[:, None]
    longer = jnp.asarray(grid.log_length) - params["mu0"]
    late = surface.late_share(params, longer, x[:, None], bits[:, None], jnp.asarray(traits.late)[:, None])
    finished = cache_arms.finished(params, data, mean_log_length, late)
    if_solvable = lik.state_probabilities(jnp.ones(finished.shape[:-1]), finished)
    slip = cache_arms.slips(params, data, traits)
    patterns, relapse = data.patterns[rows.pattern], relapse_chain(params, data)
    # Most of the time goes into the patterns and the rows x nodes, and single precision is enough for them.
    probes = lik.probe_probabilities(patterns, params["guess"], slip, relapse, jnp.float32)
    solvable = jnp.einsum("igm,ism->isg", if_solvable.astype(jnp.float32), probes)
    a, b = (table[rows.arm, rows.slot] for table in (solvable, probes[..., -1:]))
    q_row = q.astype(jnp.float32)[rows.arm, rows.problem, None]
    likelihood = q_row * a + (1.0 - q_row) * b
    return jnp.asarray(rows.times)[:, None] * jnp.log(likelihood + jnp.finfo(jnp.float32).tiny)


def solve_chances(params: dict[str, Array], data: TaskData, own: Array | float) -> Array:
    """q (arm, problem); `own` are the arms' own effects c, which broadcast to that shape."""
    return surface.solve_probability(arm_ability(params, data), params["difficulty"], own)


def arm_ability(params: dict[str, Array], data: TaskData) -> Array:
    """theta of every arm, (arm,), with its misfit and less what rounding its cache costs."""
    theta = surface.ability(params, jnp.asarray(data.log_size), jnp.asarray(data.weight_bits)) + params["misfit"]
    return theta - cache_arms.rounding(params, data).ability if data.cache_kinds else theta


def cells_by_own_length(
    params: dict[str, Array],
    data: TaskData,
    grid: LengthGrid,
    rows: RowTable,
    own: Array | float,
    dtype: Any = jnp.float32,
) -> Array:
    """Log-likelihood of every cell's trajectories, were the arm's length for the problem the grid's:
    (problem, arm, node), summed in `dtype`."""
    each = _row_log_likelihood(params, data, grid, rows, solve_chances(params, data, own)).astype(dtype)
    n_arms, n_problems = len(data.arms), len(data.problems)
    cells = jax.ops.segment_sum(each, rows.cell, n_problems * n_arms, indices_are_sorted=True)
    return cells.reshape(n_problems, n_arms, -1)


def cells_by_length(
    params: dict[str, Array],
    data: TaskData,
    grid: LengthGrid,
    rows: RowTable,
    own: Array | float,
    dtype: Any = jnp.float32,
) -> Array:
    """The same, were the *problem's* length the grid's: the arm's own is summed out. Cells without data give 0."""
    cells = cells_by_own_length(params, data, grid, rows, own, dtype)
    kernel = own_length_kernel(params, grid).astype(dtype)
    most = jax.lax.stop_gradient(cells.max(axis=-1, keepdims=True))
    averaged = jnp.einsum("pah,gh->pag", jnp.exp(cells - most), kernel)
    return (jnp.log(averaged + jnp.finfo(dtype).tiny) + most).astype(params["mu0"].dtype)


def problem_log_likelihood(params: dict[str, Array], data: TaskData, grid: LengthGrid, rows: RowTable) -> Array:
    """Log-likelihood of all trajectories of every problem, its length and the arms' own summed out: (problem,).

    `params` holds the population's parameters, `difficulty` (problem,), `misfit` (arm,) and `effect` (arm, problem).
    """
    cells = cells_by_length(params, data, grid, rows, params["effect"])
    return jax.nn.logsumexp(log_prior_length(params, grid) + cells.sum(axis=1), axis=1)


class DrawnLengths(NamedTuple):
    """Lengths drawn given everything else, in log tokens: ell (chain, draw, problem) and o (chain, draw, arm,
    problem)."""

    length: np.ndarray
    own_length: np.ndarray


def draw_lengths(posterior: dict[str, np.ndarray], data: TaskData, seed: int) -> DrawnLengths:
    """Draws of ell_j and o_ij given everything else, one for every posterior draw.

    `posterior` maps names to (chain, draw, ...) arrays and holds what `problem_log_likelihood` asks for.
    """
    grid, rows = length_grid(data.budgets), row_table(data)
    chains, draws = posterior["mu0"].shape
    flat = {k: jnp.asarray(v.reshape(chains * draws, *v.shape[2:])) for k, v in posterior.items()}
    nodes = jnp.asarray(grid.log_length)

    def one(params: dict[str, Array], key: Array) -> tuple[Array, Array]:
        first, second = jax.random.split(key)
        cells = cells_by_own_length(params, data, grid, rows, params["effect"])
        log_kernel = jnp.log(own_length_kernel(params, grid))
        joint = cells_by_length(params, data, grid, rows, params["effect"]).sum(axis=1)
        node = jax.random.categorical(first, log_prior_length(params, grid) + joint, axis=1)
        own = jax.random.categorical(second, cells + log_kernel[node][:, None], axis=2)
        ell = nodes[node] - params["mu0"] - params["rho"] * params["difficulty"]
        return ell, (nodes[own] - nodes[node][:, None]).T

    keys = jax.random.split(jax.random.PRNGKey(seed), chains * draws)
    found = jax.jit(lambda p, k: jax.lax.map(lambda pair: one(*pair), (p, k)))(flat, keys)
    return DrawnLengths(*(np.asarray(f).reshape(chains, draws, *f.shape[1:]) for f in found))
