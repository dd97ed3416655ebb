"""Leaving out by moving draws, against what is known exactly."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cache_truths import cache_template, cache_truth
from scipy.stats import norm
from simulated import Truth

from tslaw.fit.data import TaskData
from tslaw.fit.diagnostics import leave_pairs_out, leave_pairs_out_by_moving, trajectories_by_model
from tslaw.fit.lengths import length_grid, problem_log_likelihood, row_table
from tslaw.fit.loo_matching import OWN, ModelOwn, arm_effects, cells_of_models, match, smoothed
from tslaw.fit.simulate import simulate_task


@pytest.mark.parametrize("surprise", [1.0, 6.0])
def test_of_a_normal_the_density_without_a_point_is_found(surprise) -> None:
    """Locations theta_i ~ Normal(0, spread), each seen once: what one is without its point is its prior."""
    rng, n, spread = np.random.default_rng(0), 20_000, 1.2
    seen = np.array([surprise, 0.3, -0.5, 1.1])
    posterior_variance = 1.0 / (1.0 + 1.0 / spread**2)
    theta = posterior_variance * seen + np.sqrt(posterior_variance) * rng.standard_normal((n, 4))

    def log_density_without_the_first(at: np.ndarray) -> np.ndarray:
        return norm.logpdf(at, 0.0, spread).sum(axis=1) + norm.logpdf(seen[1:], at[:, 1:]).sum(axis=1)

    before = log_density_without_the_first(theta)
    log_likelihood = norm.logpdf(seen[0], theta[:, 0])
    found = match(theta, log_likelihood, lambda at: log_density_without_the_first(at) - before)
    exact = norm.logpdf(seen[0], 0.0, np.hypot(1.0, spread))
    assert found.pareto_k < 0.7
    assert found.elpd == pytest.approx(exact, abs=0.2)
    if surprise > 5:
        weights, k = smoothed(-log_likelihood)
        assert k > 0.7, "draws as they are do not do"
        assert abs(np.log((weights * np.exp(log_likelihood)).sum()) - exact) > 0.5


def test_draws_that_can_be_weighed_are_not_moved() -> None:
    rng = np.random.default_rng(1)
    log_likelihood = 0.1 * rng.standard_normal(1000)

    def never(_: np.ndarray) -> np.ndarray:
        raise AssertionError("moved")

    found = match(rng.standard_normal((1000, 2)), log_likelihood, never)
    assert found.elpd == pytest.approx(-np.log(np.exp(-log_likelihood).mean()), abs=1e-3)


@pytest.fixture(scope="module")
def drawn() -> tuple[TaskData, Truth]:
    """A task with every kind of cache, and draws scattered around its truth."""
    empty = cache_template(4)
    truth, rng = cache_truth(6, empty), np.random.default_rng(0)
    return simulate_task(empty, truth, 6, seed=1), {
        n: v * rng.lognormal(0.0, 0.05, (2, 60, *v.shape)) for n, v in truth.items()
    }


@pytest.mark.slow
def test_what_moving_changes_is_what_the_whole_likelihood_says(drawn) -> None:
    """For a model's arms alone, with the other models' cells as they were, against everything evaluated anew."""
    data, draws = drawn
    flat = {name: values.reshape(-1, *values.shape[2:]) for name, values in draws.items()}
    cells, grid, rows = cells_of_models(flat, data), length_grid(data.budgets), row_table(data)
    own = ModelOwn(flat, data, 1, cells[:, 0])
    rng, arms = np.random.default_rng(2), np.flatnonzero(data.model_index() == 1)
    moved = own.numbers + 0.3 * rng.standard_normal(own.numbers.shape)
    found = own.change_without(2)(moved)
    there = own.with_numbers(moved)

    @jax.jit
    def by_problem(params: dict[str, jax.Array]) -> jax.Array:
        return problem_log_likelihood(params | {"effect": arm_effects(params, data)}, data, grid, rows)

    for s in (0, 17, 119):
        before = {name: values[s] for name, values in flat.items()}
        after = dict(before)
        for name in OWN:
            at = arms if name in ("kv_own", "kv_cut") else np.array([1])
            after[name] = before[name].copy()
            after[name][at] = there[name][s]
        likelihoods = [np.asarray(by_problem({n: jnp.asarray(v) for n, v in p.items()})) for p in (before, after)]
        likelihood = np.delete(likelihoods[1] - likelihoods[0], 2).sum()
        prior = sum(
            norm.logpdf(p[name], 0.0, p[sd]).sum() * sign
            for p, sign in ((after, 1.0), (before, -1.0))
            for name, sd in OWN.items()
        )
        assert found[s] == pytest.approx(likelihood + prior, abs=2e-3 * max(1.0, abs(likelihood)))
        assert abs(likelihood) > 0.1


def test_full_caches_and_other_models_stay_where_they_are(drawn) -> None:
    data, draws = drawn
    flat = {name: values.reshape(-1, *values.shape[2:]) for name, values in draws.items()}
    own = ModelOwn(flat, data, 0, cells_of_models(flat, data)[:, 1])
    there = own.with_numbers(own.numbers + 1.0)
    full = own.data.full_cache()
    assert (there["kv_own"][:, full] == 0).all()
    assert (there["kv_cut"][:, full] == 0).all()
    assert np.allclose(there["kv_own"][:, ~full] - own.params["kv_own"][:, ~full], 1.0)


@pytest.mark.slow
def test_fewer_pairs_are_bad_and_the_others_stay(drawn) -> None:
    data, draws = drawn
    before, after = leave_pairs_out(draws, data), leave_pairs_out_by_moving(draws, data)
    old, new = (np.asarray(of.loo.pareto_k.values) for of in (before, after))
    bad = ~(old <= 0.7)
    assert bad.any()
    assert after.matched == (bad & (new <= 0.7)).sum()
    assert (new[~bad] == old[~bad]).all()
    same = np.asarray(before.loo.elpd_i.values) == np.asarray(after.loo.elpd_i.values)
    assert (same == ~(bad & (new <= 0.7))).all()
    assert after.loo.elpd == pytest.approx(float(np.sum(after.loo.elpd_i.values)))
    assert (trajectories_by_model(data) > 0).all()
