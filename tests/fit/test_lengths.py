"""Lengths summed out of the likelihood, against the likelihood of every single length and an integral over them."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from scipy.special import logsumexp
from scipy.stats import chi2, norm
from simulated import Truth, correct_of, draw_truth, template, with_outcomes

from tslaw.fit.data import TaskData
from tslaw.fit.lengths import (
    cell_given_the_others,
    draw_lengths,
    length_grid,
    length_resolution,
    log_likelihood_by_length,
    log_prior_length,
    problem_log_likelihood,
    row_table,
)
from tslaw.fit.model import cell_log_likelihood, sample_difficulty
from tslaw.fit.simulate import simulate_task

N_PROBLEMS, N_ARMS = 5, 4


@pytest.fixture(scope="module", params=[True, False], ids=["shared", "independent"])
def task(request: pytest.FixtureRequest) -> tuple[TaskData, Truth]:
    """A simulated task, some of its probes not measured and one arm's not at all on one problem."""
    data = template(N_PROBLEMS, (16, 4), (1000, 2000, 4000, 8000, 16000), ("Qwen3-1.7B", "Qwen3-8B"))
    truth = draw_truth(1, N_PROBLEMS, N_ARMS)
    correct = correct_of(simulate_task(data, truth, 6, seed=0))
    correct[1, 2, 3:] = -2
    correct[2, 0] = -2
    return with_outcomes(data, correct, request.param), truth


def as_params(truth: Truth) -> dict[str, jax.Array]:
    return {name: jnp.asarray(value) for name, value in truth.items()}


def residuals(truth: Truth, log_length: float) -> np.ndarray:
    """ell_j of every problem, were all their log lengths this one."""
    return log_length - truth["mu0"] - truth["rho"] * truth["difficulty"]


def test_every_node_agrees_with_the_likelihood_of_that_length(task) -> None:
    data, truth = task
    grid = length_grid(data.budgets)
    found = np.asarray(log_likelihood_by_length(as_params(truth), data, grid, row_table(data)))
    assert found.shape == (N_PROBLEMS, len(grid.log_length))
    for g, log_length in enumerate(grid.log_length):
        cells = cell_log_likelihood(as_params(truth | {"length": residuals(truth, log_length)}), data)
        assert found[:, g] == pytest.approx(np.asarray(cells).sum(axis=0), rel=1e-6, abs=1e-4)


def test_the_sum_agrees_with_an_integral_over_lengths(task) -> None:
    """A much finer and much wider grid, the normal density written out: the marginal likelihood of every problem."""
    data, truth = task
    found = np.asarray(problem_log_likelihood(as_params(truth), data, length_grid(data.budgets), row_table(data)))
    lengths = np.linspace(truth["mu0"] - 5, truth["mu0"] + 5, 2001)
    each = jax.jit(lambda ell: cell_log_likelihood(as_params(truth) | {"length": ell}, data).sum(axis=0))
    joint = np.stack([np.asarray(each(residuals(truth, v))) for v in lengths])
    joint += np.stack([norm.logpdf(residuals(truth, v), 0.0, truth["sd_length"]) for v in lengths])
    assert found == pytest.approx(logsumexp(joint, axis=0) + np.log(lengths[1] - lengths[0]), abs=0.02)


def test_a_prior_over_lengths_is_a_distribution_with_the_priors_moments(task) -> None:
    data, truth = task
    grid = length_grid(data.budgets)
    weight = np.exp(np.asarray(log_prior_length(as_params(truth), grid)))
    assert weight.sum(axis=1) == pytest.approx(1.0)
    mean = weight @ grid.log_length
    assert mean == pytest.approx(truth["mu0"] + truth["rho"] * truth["difficulty"], abs=1e-3)
    spread = np.sqrt(weight @ grid.log_length**2 - mean**2)
    assert spread == pytest.approx(float(truth["sd_length"]), rel=0.01)


def test_lengths_are_drawn_from_their_distribution_given_the_rest(task) -> None:
    data, truth = task
    chains, draws = 2, 1500
    posterior = {name: np.broadcast_to(v, (chains, draws, *np.shape(v))) for name, v in truth.items()}
    drawn = draw_lengths(posterior, data, seed=0)
    assert drawn.shape == (chains, draws, N_PROBLEMS)
    grid, params = length_grid(data.budgets), as_params(truth)
    joint = log_prior_length(params, grid) + log_likelihood_by_length(params, data, grid, row_table(data))
    expected = np.asarray(jax.nn.softmax(joint, axis=1)) * chains * draws
    for j in range(N_PROBLEMS):
        centre = truth["mu0"] + truth["rho"] * truth["difficulty"][j]
        node = np.abs(drawn[..., j].ravel()[:, None] + centre - grid.log_length).argmin(axis=1)
        seen = np.bincount(node, minlength=len(grid.log_length))
        usual = expected[j] > 5
        assert seen[~usual].sum() < 0.05 * seen.sum()
        statistic = ((seen - expected[j])[usual] ** 2 / expected[j][usual]).sum()
        assert statistic < chi2.isf(1e-4, usual.sum() - 1)


def test_the_grid_resolves_the_sharpest_lengths_and_reaches_beyond_the_budgets() -> None:
    budgets = np.array([16.0, 24, 32, 64, 256])
    grid = length_grid(budgets)
    assert (np.diff(grid.log_length) > 0).all()
    inside = (grid.log_length > np.log(8)) & (grid.log_length < np.log(512))
    assert np.diff(grid.log_length[inside]).max() <= length_resolution(budgets) + 1e-12
    assert grid.log_length[0] < np.log(16) - 2.9
    assert grid.log_length[-1] > np.log(256) + 2.9
    assert length_resolution(budgets) == pytest.approx(0.25 * np.log(32 / 24))
    assert length_resolution(budgets[:1]) > 0


def test_difficulties_have_one_prior_however_they_are_parametrised() -> None:
    """Centred for problems the data pin down, not centred for the others: the same normal distribution."""
    centred = np.arange(20_000) % 2 == 0
    params = {"theta0": jnp.asarray(1.5), "sd_difficulty": jnp.asarray(2.0)}
    with numpyro.handlers.seed(rng_seed=0):
        drawn = np.asarray(sample_difficulty(params, centred, jnp.asarray(0.7)))
    for half in (drawn[centred], drawn[~centred]):
        assert half.mean() == pytest.approx(0.0, abs=0.08)
        assert half.std() == pytest.approx(2.0, rel=0.03)


def test_a_cell_given_the_others_is_what_leaving_it_out_changes(task) -> None:
    """The problem's likelihood with the cell over that without it, each cell left out by hand."""
    data, truth = task
    grid, params = length_grid(data.budgets), as_params(truth)
    whole = np.asarray(problem_log_likelihood(params, data, grid, row_table(data)))
    found = np.asarray(cell_given_the_others(params, data, grid, row_table(data)))
    assert found.shape == (N_ARMS, N_PROBLEMS)
    for i, j in np.ndindex(found.shape):
        kept = (data.row_arm != i) | (data.row_problem != j)
        fields = ("row_arm", "row_problem", "row_pattern", "row_count")
        less = replace(data, **{name: getattr(data, name)[kept] for name in fields})
        without = np.asarray(problem_log_likelihood(params, less, grid, row_table(less)))
        assert found[i, j] == pytest.approx(whole[j] - without[j], abs=1e-4)
