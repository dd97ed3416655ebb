"""Lengths summed out of the likelihood, against the likelihood of every single length and an integral over them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from cells import cell_log_likelihood
from scipy.special import logsumexp, softmax
from scipy.stats import chi2, norm
from simulated import Truth, correct_of, draw_truth, template, with_outcomes

from reference.surface_reference import damage
from tslaw.fit.data import TaskData
from tslaw.fit.lengths import (
    cells_by_length,
    cells_by_own_length,
    draw_lengths,
    length_grid,
    length_resolution,
    log_prior_length,
    own_length_kernel,
    problem_log_likelihood,
    row_table,
)
from tslaw.fit.loo import left_out_log_likelihood
from tslaw.fit.model import sample_centred, sample_difficulty
from tslaw.fit.simulate import simulate_task

N_PROBLEMS, N_ARMS = 5, 4


@pytest.fixture(scope="module", params=[True, False], ids=["shared", "independent"])
def task(request: pytest.FixtureRequest) -> tuple[TaskData, Truth]:
    """A simulated task, some of its probes not measured and one arm's not at all on one problem."""
    data = template(N_PROBLEMS, (16, 4), (1000, 2000, 4000, 8000, 16000), ("Qwen3-1.7B", "Qwen3-8B"))
    truth = draw_truth(1, data)
    correct = correct_of(simulate_task(data, truth, 6, seed=0))
    correct[1, 2, 3:] = -2
    correct[2, 0] = -2
    return with_outcomes(data, correct, request.param), truth


def as_params(truth: Truth, data: TaskData) -> dict[str, jax.Array]:
    """With the arms' own effects c."""
    share = np.array([damage(truth, b) for b in data.weight_bits])
    model = data.model_index()
    effect = truth["model_effect"][model] + share[:, None] * truth["quantization_effect"][model]
    return {name: jnp.asarray(value) for name, value in (truth | {"effect": effect}).items()}


def residuals(truth: Truth, log_length: float) -> np.ndarray:
    """ell_j of every problem, were all their log lengths this one."""
    return log_length - truth["mu0"] - truth["rho"] * truth["difficulty"]


def at_length(truth: Truth, log_length: float) -> Truth:
    """Were that every arm's log length for every problem."""
    return truth | {"length": residuals(truth, log_length), "own_length": np.zeros_like(truth["own_length"])}


def test_every_node_agrees_with_the_likelihood_of_that_length(task) -> None:
    data, truth = task
    grid, params = length_grid(data.budgets), as_params(truth, data)
    found = np.asarray(jax.jit(lambda p: cells_by_own_length(p, data, grid, row_table(data), p["effect"]))(params))
    assert found.shape == (N_PROBLEMS, N_ARMS, len(grid.log_length))
    each = jax.jit(lambda p: cell_log_likelihood(p, data))
    for g, log_length in enumerate(grid.log_length):
        cells = np.asarray(each(as_params(at_length(truth, log_length), data)))
        assert found[:, :, g] == pytest.approx(cells.T, rel=1e-6, abs=1e-4)


def test_an_arms_own_length_is_summed_out_of_every_cell(task) -> None:
    """Against the nodes' likelihoods weighted by the kernel, one node of the problem after the other."""
    data, truth = task
    grid, params = length_grid(data.budgets), as_params(truth, data)
    rows = row_table(data)
    own = np.asarray(jax.jit(lambda p: cells_by_own_length(p, data, grid, rows, p["effect"]))(params), float)
    kernel = np.asarray(own_length_kernel(params, grid))
    assert kernel.sum(axis=1) == pytest.approx(1.0)
    found = np.asarray(jax.jit(lambda p: cells_by_length(p, data, grid, rows, p["effect"]))(params))
    for g in range(0, len(grid.log_length), 5):
        assert found[:, :, g] == pytest.approx(logsumexp(own, axis=2, b=kernel[g]), abs=1e-4)
    assert found[0, 2] == pytest.approx(0.0, abs=1e-6)  # not measured
    nodes, middle = grid.log_length, len(grid.log_length) // 2
    away = kernel[middle] - (1 - float(truth["own_length_share"])) * (np.arange(len(nodes)) == middle)
    spread = np.sqrt((away * (nodes - nodes[middle]) ** 2).sum() / away.sum())
    assert spread == pytest.approx(float(truth["own_length_spread"]), rel=0.05)


def test_the_sum_agrees_with_an_integral_over_lengths(task) -> None:
    """A much finer and much wider grid, the normal densities written out: the marginal likelihood of every problem."""
    data, truth = task
    params = as_params(truth, data)
    grid, rows = length_grid(data.budgets), row_table(data)
    found = np.asarray(jax.jit(lambda p: problem_log_likelihood(p, data, grid, rows))(params))
    lengths = np.linspace(truth["mu0"] - 5, truth["mu0"] + 5, 801)
    step = lengths[1] - lengths[0]
    each = jax.jit(
        lambda ell: cell_log_likelihood(
            params | {"length": ell, "own_length": jnp.zeros_like(params["own_length"])}, data
        )
    )
    cells = np.stack([np.asarray(each(residuals(truth, v))) for v in lengths])  # (length, arm, problem)
    share, spread = float(truth["own_length_share"]), float(truth["own_length_spread"])
    most = cells.max(axis=0)
    likely = np.exp(cells - most)
    wide = norm.pdf(lengths[:, None], lengths[None, :], spread) * step
    averaged = (1 - share) * likely + share * np.einsum("gh,hap->gap", wide, likely)
    joint = (np.log(averaged) + most).sum(axis=1)
    joint += np.stack([norm.logpdf(residuals(truth, v), 0.0, truth["sd_length"]) for v in lengths])
    assert found == pytest.approx(logsumexp(joint, axis=0) + np.log(step), abs=0.05)


def test_a_prior_over_lengths_is_a_distribution_with_the_priors_moments(task) -> None:
    data, truth = task
    grid = length_grid(data.budgets)
    weight = np.exp(np.asarray(log_prior_length(as_params(truth, data), grid)))
    assert weight.sum(axis=1) == pytest.approx(1.0)
    mean = weight @ grid.log_length
    assert mean == pytest.approx(truth["mu0"] + truth["rho"] * truth["difficulty"], abs=3e-3)
    spread = np.sqrt(weight @ grid.log_length**2 - mean**2)
    assert spread == pytest.approx(float(truth["sd_length"]), rel=0.02)


def as_often_as_expected(seen: np.ndarray, expected: np.ndarray) -> bool:
    """Chi-square over the places where more than five were expected."""
    usual = expected > 5
    statistic = ((seen - expected)[usual] ** 2 / expected[usual]).sum()
    return seen[~usual].sum() < 0.05 * seen.sum() and statistic < chi2.isf(1e-5, max(usual.sum() - 1, 1))


def test_lengths_are_drawn_from_their_distribution_given_the_rest(task) -> None:
    data, truth = task
    chains, draws = 2, 1500
    grid, params, rows = length_grid(data.budgets), as_params(truth, data), row_table(data)
    known = truth | {"effect": np.asarray(params["effect"])}
    posterior = {name: np.broadcast_to(v, (chains, draws, *np.shape(v))) for name, v in known.items()}
    drawn = draw_lengths(posterior, data, seed=0)
    assert drawn.length.shape == (chains, draws, N_PROBLEMS)
    assert drawn.own_length.shape == (chains, draws, N_ARMS, N_PROBLEMS)
    cells = np.asarray(jax.jit(lambda p: cells_by_length(p, data, grid, rows, p["effect"]))(params))
    joint = np.asarray(log_prior_length(params, grid)) + cells.sum(axis=1)
    node_p = softmax(joint, axis=1)
    own_cells = jax.jit(lambda p: cells_by_own_length(p, data, grid, rows, p["effect"]))(params)
    own_cells = np.asarray(own_cells, float)
    log_kernel = np.log(np.maximum(np.asarray(own_length_kernel(params, grid)), 1e-300))
    for j in range(N_PROBLEMS):
        centre = truth["mu0"] + truth["rho"] * truth["difficulty"][j]
        total = drawn.length[..., j].ravel() + centre
        node = np.abs(total[:, None] - grid.log_length).argmin(axis=1)
        assert as_often_as_expected(np.bincount(node, minlength=len(grid.log_length)), node_p[j] * chains * draws)
        for i in (0, 3):
            arms = total + drawn.own_length[:, :, i, j].ravel()
            own_node = np.abs(arms[:, None] - grid.log_length).argmin(axis=1)
            own_p = node_p[j] @ softmax(own_cells[j, i] + log_kernel, axis=1)
            assert as_often_as_expected(np.bincount(own_node, minlength=len(grid.log_length)), own_p * chains * draws)


def test_the_grid_resolves_the_sharpest_lengths_and_reaches_beyond_the_budgets() -> None:
    budgets = np.array([16.0, 24, 32, 64, 256])
    grid = length_grid(budgets)
    assert (np.diff(grid.log_length) > 0).all()
    inside = (grid.log_length > np.log(12)) & (grid.log_length < np.log(400))
    assert np.diff(grid.log_length[inside]).max() <= 2 * length_resolution(budgets) + 1e-12
    for low, high in itertools.pairwise(np.log(budgets)):
        assert ((grid.log_length > low - 1e-9) & (grid.log_length < high - 1e-9)).sum() >= 4
    assert grid.log_length[0] < np.log(16) - 2.5
    assert grid.log_length[-1] > np.log(256) + 2.5
    assert length_resolution(budgets) == pytest.approx(0.25 * np.log(32 / 24))
    assert length_resolution(budgets[:1]) > 0
    assert (np.diff(length_grid(budgets[:1]).log_length) > 0).all()


def test_effects_have_one_prior_however_they_are_parametrised() -> None:
    """Centred where the data pin them down, not centred elsewhere: the same normal distribution."""
    known = np.arange(20_000) % 2 == 0
    params = {"theta0": jnp.asarray(1.5), "sd_difficulty": jnp.asarray(2.0)}
    with numpyro.handlers.seed(rng_seed=0):
        difficulty = np.asarray(sample_difficulty(params, known))
        some = np.where(known, 0.9, 0.2)
        misfit = np.asarray(sample_centred("ability", jnp.full(20_000, 0.7), jnp.asarray(2.0), some))
        effect = np.asarray(sample_centred("logit", jnp.full((1, 20_000), -3.0), jnp.asarray(2.0), known[None] * 1.0))
    for drawn in (difficulty, effect[0], misfit):
        for half in (drawn[known], drawn[~known]):
            assert half.mean() == pytest.approx(0.0, abs=0.08)
            assert half.std() == pytest.approx(2.0, rel=0.03)


@pytest.mark.slow
def test_what_is_left_out_is_what_leaving_it_out_changes(task) -> None:
    """A model on a problem: the problem's likelihood with it, its effects integrated on a fine grid, over that
    without."""
    data, truth = task
    params = as_params(truth, data)
    few = {name: np.broadcast_to(v, (1, 2, *np.shape(v))) for name, v in truth.items()}
    spread = {"model_effect": "sd_effect", "quantization_effect": "sd_effect_w"}
    # where the quadrature has its nodes: about as wide as the priors
    around = few | {
        n: float(truth[s]) * np.array([[-0.75, 0.75]])[..., None, None] * np.ones((1, 2, 2, N_PROBLEMS))
        for n, s in spread.items()
    }
    found = left_out_log_likelihood(few | around, data)[0, 0]
    assert found.shape == (2, N_PROBLEMS)
    drawn = {n: around[n][0, 0] for n in spread}
    model = data.model_index()
    each = jax.jit(problem_by_effect(params, data))
    share = np.array([damage(truth, b) for b in data.weight_bits])[:, None]
    own = drawn["model_effect"][model] + share * drawn["quantization_effect"][model]
    z = np.linspace(-4, 4, 21)
    weight = norm.pdf(z) / norm.pdf(z).sum()
    for m in range(2):
        less = without(data, np.flatnonzero(model == m))
        base = np.asarray(jax.jit(problem_by_effect(params, less))(jnp.asarray(own)))
        total = []
        for a, b in itertools.product(range(len(z)), repeat=2):
            effect = float(truth["sd_effect"]) * z[a] + share * float(truth["sd_effect_w"]) * z[b]
            changed = np.where((model == m)[:, None], effect, own)
            total.append(np.asarray(each(jnp.asarray(changed))) + np.log(weight[a] * weight[b]))
        assert found[m] == pytest.approx(logsumexp(total, axis=0) - base, abs=0.03)


def problem_by_effect(params: dict[str, jax.Array], data: TaskData) -> Callable[[jax.Array], jax.Array]:
    """The likelihood of every problem, from the arms' own effects."""
    grid, rows = length_grid(data.budgets), row_table(data)
    return lambda effect: problem_log_likelihood(params | {"effect": effect}, data, grid, rows)


def without(data: TaskData, arms: np.ndarray) -> TaskData:
    kept = ~np.isin(data.row_arm, arms)
    fields = ("row_arm", "row_problem", "row_pattern", "row_count")
    return replace(data, **{name: getattr(data, name)[kept] for name in fields})
