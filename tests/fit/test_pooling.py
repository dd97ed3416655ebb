"""Tasks fitted together: the tie between them, its limits, and draws of both at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import biject_to
from numpyro.infer.util import unconstrain_fn
from scipy import stats
from simulated import draw_truth, template

from tslaw.errors import TslawError
from tslaw.fit import pooling
from tslaw.fit.borrow import Borrowed
from tslaw.fit.data import TaskData
from tslaw.fit.fit_file import load_posterior
from tslaw.fit.fit_tasks import fit_tasks
from tslaw.fit.infer import Laplace, Sampling, rough_start
from tslaw.fit.model import Prior, sample_parameters
from tslaw.fit.quick import Quick
from tslaw.fit.simulate import simulate_task
from tslaw.fit.subset import some_problems

TIED = {
    "normal": (dist.Normal(0.3, 0.5), stats.norm(0.3, 0.5)),
    "log-normal": (dist.LogNormal(-0.7, 0.4), stats.lognorm(s=0.4, scale=np.exp(-0.7))),
    "half-normal": (dist.HalfNormal(0.8), stats.halfnorm(scale=0.8)),
    "beta": (dist.Beta(1.0, 3.0), stats.beta(1.0, 3.0)),
}


@pytest.mark.parametrize("name", TIED)
def test_a_normal_score_is_the_normal_quantile_of_the_distribution_function(name: str) -> None:
    ours, reference = TIED[name]
    for probability in (1e-6, 0.02, 0.5, 0.8, 1.0 - 1e-6):
        z = biject_to(ours.support).inv(jnp.asarray(reference.ppf(probability)))
        assert float(pooling.normal_score(ours)(z)) == pytest.approx(stats.norm.ppf(probability), abs=1e-5)


def test_what_was_borrowed_has_scores_too() -> None:
    score = pooling.normal_score(Borrowed("share", 0.2, 0.5).distribution())
    assert float(score(jnp.asarray(1.2))) == pytest.approx(2.0)


def test_scores_stay_finite_far_out() -> None:
    for ours, _ in TIED.values():
        assert np.isfinite([float(pooling.normal_score(ours)(jnp.asarray(z))) for z in (-30.0, 5.0)]).all()


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("width", [0.1, 0.5, 1.0])
def test_the_tie_is_the_ratio_of_two_normal_densities(n: int, width: float) -> None:
    scores = np.array([0.7, -1.2, 0.4])[:n]
    covariance = (1.0 - width**2) * np.ones((n, n)) + width**2 * np.eye(n)
    expected = stats.multivariate_normal(np.zeros(n), covariance).logpdf(scores) - stats.norm.logpdf(scores).sum()
    assert float(pooling.log_tie(jnp.asarray(scores), width)) == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_a_tie_leaves_every_prior_as_it_was() -> None:
    z, step = np.linspace(-8.0, 8.0, 4001, retstep=True)
    for first in (-1.5, 0.0, 2.0):
        tied = np.exp([float(pooling.log_tie(jnp.array([first, other]), 0.5)) for other in z[::40]])
        assert (tied * stats.norm.pdf(z[::40])).sum() * 40 * step == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("width", [0.0, 0.01, 1.1, float("nan")])
def test_a_width_that_makes_no_sense_is_refused(width: float) -> None:
    with pytest.raises(TslawError, match="width"):
        pooling.correlation(width)


def test_positions_come_apart_as_they_were_joined() -> None:
    each = [{"a": np.zeros(2), "b.c": np.ones(3)}, {"a": np.full(1, 2.0)}]
    found = pooling.parted(pooling.joined(each), 2)
    assert [sorted(of) for of in found] == [["a", "b.c"], ["a"]]
    assert found[1]["a"] == 2.0


@pytest.fixture(scope="module")
def two_tasks() -> tuple[TaskData, TaskData]:
    """Plenty of one task; of another, which obeys the same law, few problems."""
    data = template(6, bits=(16, 4), budgets=(1000, 8000, 32000), models=("Qwen3-0.6B", "Qwen3-32B"))
    plenty = simulate_task(data, draw_truth(5, data), 6, seed=5)
    few = some_problems(simulate_task(data, draw_truth(5, data), 2, seed=6), 3, 0)
    return replace(plenty, task="plenty"), replace(few, task="few")


def test_the_energy_of_all_tasks_is_the_sum_of_theirs_less_the_tie() -> None:
    modes = [{"a": jnp.asarray(0.4), "b": jnp.arange(2.0)}, {"a": jnp.asarray(-1.3)}]

    def tied(positions: Sequence[pooling.Positions]) -> jnp.ndarray:
        return pooling.log_tie(jnp.stack([z["a"] for z in positions]), 0.5)

    def alone(k: int) -> Laplace:
        return Laplace(modes[k], np.eye(1), jax.value_and_grad(lambda z: jnp.sum(z**4) * (k + 1.0)))

    def expected(z: pooling.Positions) -> jnp.ndarray:
        positions = pooling.parted(z, 2)
        fourth = [sum(jnp.sum(x**4) for x in of.values()) for of in positions]
        return jnp.asarray(fourth[0] + 2.0 * fourth[1] - tied(positions))

    z = pooling.joined(modes)
    level, slope = pooling.energy_of_all([alone(0), alone(1)], tied)(z)
    reference, slopes = jax.value_and_grad(expected)(z)
    assert float(level) == pytest.approx(float(reference))
    assert slope.keys() == slopes.keys()
    for name, value in slopes.items():
        np.testing.assert_allclose(slope[name], value, rtol=1e-12)


def test_nothing_that_belongs_to_problems_or_models_is_tied(two_tasks: tuple[TaskData, TaskData]) -> None:
    names = set(pooling.tied_sites(two_tasks[0], Prior()))
    assert {"alpha_rel", "delta_w_rel", "mu1", "kept", "sd_effect_rel"} <= names
    assert not names & {"theta0_rel", "mu0", "sd_difficulty", "sd_length", "rho", "guess", "easiness", "model_mu_level"}


def test_tasks_that_share_nothing_are_not_tied(two_tasks: tuple[TaskData, TaskData]) -> None:
    priors = [Prior(), Prior()]
    modes = [
        unconstrain_fn(sample_parameters, (data, prior), {}, rough_start(data, prior))
        for data, prior in zip(two_tasks, priors, strict=True)
    ]
    assert float(pooling.tie(two_tasks, priors, 1.0)(modes)) == pytest.approx(0.0, abs=1e-9)
    assert abs(float(pooling.tie(two_tasks, priors, 0.3)(modes))) > 1.0


@pytest.mark.slow
def test_tasks_that_share_much_are_drawn_together(two_tasks: tuple[TaskData, TaskData]) -> None:
    tree = fit_tasks(two_tasks, Sampling(2, 50, 50, seed=3, map_steps=150, progress=False), pool_width=0.1)
    rich, poor = (load_posterior(tree, name).params for name in ("plenty", "few"))
    # Of what these data hardly say: one draw is one state of both.
    for name in ("late1", "relapse1", "gamma_w"):
        assert np.corrcoef(rich[name], poor[name])[0, 1] > 0.5
        assert abs(rich[name].mean() - poor[name].mean()) < 0.1
    assert json.loads(tree.attrs["provenance"])["pooled"] == {"width": 0.1, "tasks": ["plenty", "few"]}
    assert np.isfinite([*rich["theta0"], *poor["theta0"]]).all()


def test_what_cannot_be_pooled_is_refused(two_tasks: tuple[TaskData, TaskData]) -> None:
    with pytest.raises(TslawError, match="one task"):
        fit_tasks(two_tasks[:1], Sampling(), pool_width=0.5)
    with pytest.raises(TslawError, match="one by one"):
        fit_tasks(two_tasks, Quick(), pool_width=0.5)
