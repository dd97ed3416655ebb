"""The sampler of published means against plain importance sampling, which needs no mode, no curvature and no moves."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import handlers
from test_means import empty_means

from tslaw.fit import means_infer, means_loo
from tslaw.fit.diagnostics import EFFECTS, Diagnosis, judge, loo_of
from tslaw.fit.infer import Draws, Sampling
from tslaw.fit.means_data import MeansData
from tslaw.fit.means_density import population_sites, quantile
from tslaw.fit.means_infer import MeansSampler, _weights, resampled
from tslaw.fit.means_model import report_error, report_moments
from tslaw.fit.model import POPULATION, Prior, sample_population
from tslaw.fit.particles import FORGOTTEN_LAST, Forgetting
from tslaw.fit.pseudo_problems import pseudo_problems
from tslaw.fit.surface import weight_bit_shape

N_PLAIN = 60_000
TAILS = (0.02, 0.1, 0.5, 0.9, 0.98)
COMPARED = ("theta0", "alpha", "bend", "delta_w", "mu0", "sd_difficulty", "sd_misfit", "gamma_w", "guess", "kept")


def plain_importance_sampling(data: MeansData, prior: Prior) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Everything from the prior: parameters (draw,), and the log-likelihoods of reports, (draw, report), to weigh
    them by."""
    points, model = pseudo_problems(), data.model_index()

    def one(key: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        first, second = jax.random.split(key)
        with handlers.seed(rng_seed=first):
            params = sample_population(prior, data.budgets, data.chance)
        own, quantized = jax.random.normal(second, (2, len(data.shapes)))
        share = weight_bit_shape(jnp.asarray(data.weight_bits), params["kappa_w"])
        params["misfit"] = params["sd_misfit"] * own[model] + share * params["sd_misfit_w"] * quantized[model]
        mean, within, _ = report_moments(params, data, points)
        error = report_error(within, data.report_answers)
        z = (data.report_accuracy - mean) / error
        return {n: params[n] for n in COMPARED}, -0.5 * z * z - jnp.log(error) - 0.5 * jnp.log(2.0 * jnp.pi)

    run = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=500))
    params, log_likelihood = run(jax.random.split(jax.random.PRNGKey(5), N_PLAIN))
    return {n: np.asarray(v) for n, v in params.items()}, np.asarray(log_likelihood)


@pytest.fixture(scope="module")
def few_answers() -> MeansData:
    """Means over so few answers that plain sampling works."""
    data = empty_means(models=("Qwen3-1.7B", "Qwen3-14B"), answers=16.0)
    return replace(data, report_accuracy=np.array([0.5, 0.3, 0.8, 0.75]))


@pytest.fixture(scope="module")
def sampler(few_answers: MeansData) -> MeansSampler:
    return MeansSampler(few_answers, Prior())


@pytest.fixture(scope="module")
def draws(sampler: MeansSampler) -> Draws:
    return sampler.run(Sampling(chains=4, samples=300, seed=1, progress=False))


@pytest.fixture(scope="module")
def plain(few_answers: MeansData) -> tuple[dict[str, np.ndarray], np.ndarray]:
    return plain_importance_sampling(few_answers, Prior())


@pytest.mark.slow
@pytest.mark.xdist_group("means")
def test_particles_agree_with_plain_importance_sampling(draws: Draws, plain) -> None:
    """Means and spreads of parameters, of logarithms where positive, and what lies in their tails.

    The spread of theta0 is taken of nearly its logarithm: its kurtosis of 17 and more leaves its standard deviation
    unknown (by quarters of 240,000 plain draws 4.9 to 7.5). Its tails are compared as they are.
    """
    params, log_likelihood = plain
    weight = _weights(log_likelihood.sum(axis=1)[None])[0]
    worth = 1.0 / np.sum(weight**2)
    assert worth > 400
    for name in COMPARED:
        change = np.arcsinh if name == "theta0" else (lambda v: v) if name in ("bend", "mu0", "gamma_w") else np.log
        values, drawn = change(params[name]), change(draws.posterior[name])
        expected = float(weight @ values)
        spread = float(np.sqrt(weight @ (values - expected) ** 2))
        # 1,200 draws that may be worth as few as 200.
        error = spread * np.sqrt(1.0 / worth + 1.0 / 200.0)
        assert float(drawn.mean()) == pytest.approx(expected, abs=3.5 * error), name
        assert float(drawn.std()) == pytest.approx(spread, rel=0.15), name
        order = np.argsort(values)
        ends = np.interp(TAILS, np.cumsum(weight[order]), values[order])
        for tail, end in zip(TAILS, ends, strict=True):
            error = np.sqrt(tail * (1.0 - tail) * (1.0 / worth + 1.0 / 200.0))
            assert float((drawn < end).mean()) == pytest.approx(tail, abs=3.0 * error), (name, tail)


@pytest.mark.slow
@pytest.mark.xdist_group("means")
def test_particles_that_did_not_move_fail_the_gate(
    few_answers: MeansData, sampler: MeansSampler, draws: Draws, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of few are worth few, and are said to be where they were; those that were moved have forgotten that."""
    loo = loo_of(draws.posterior, np.random.default_rng(0).standard_normal((4, 300, 4)))

    def judged(of: Draws) -> Diagnosis:
        return judge(of, few_answers.task, loo, POPULATION, EFFECTS)

    moved = judged(draws)
    assert not [text for text in moved.failures if "correlate" in text]
    assert 0.0 < moved.correlation <= FORGOTTEN_LAST
    assert moved.moves >= means_infer.MOVES
    monkeypatch.setattr(means_infer, "MOST_MOVES", 0)
    copies = sampler.run(Sampling(chains=4, samples=300, seed=1, progress=False))
    found = judged(copies)
    assert "particles still correlate by 1.00 > 0.25 with where they were before the last 0 moves" in found.failures
    assert (found.correlation, found.moves) == (pytest.approx(1.0), 0)
    assert found.as_dict()["correlation"] == found.correlation
    distinct = len(np.unique(copies.posterior["mu0"]))
    assert found.ess_bulk < distinct < 600
    unknown = judged(replace(copies, sample_stats={"lp": copies.sample_stats["lp"]}, forgetting=None))
    assert unknown.as_dict()["correlation"] is None
    assert found.ess_bulk < unknown.ess_bulk


def test_a_fit_without_a_report_counts_only_if_its_particles_forgot(
    few_answers: MeansData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report keeps its Pareto k otherwise."""
    log_density = 0.5 * np.random.default_rng(0).standard_normal((4, 150, 4))
    monkeypatch.setattr(means_loo, "left_out_reports", lambda *_: log_density)
    monkeypatch.setattr(means_loo, "BAD_PARETO", -10.0)
    some = Draws({"alpha": log_density[:, :, 0]}, {}, 0.0)
    for left, accepted in ((FORGOTTEN_LAST - 0.01, True), (FORGOTTEN_LAST + 0.01, False)):
        refit = replace(some, forgetting=Forgetting(left, means_infer.MOST_MOVES, 0.5))
        found = means_loo.leave_reports_out(some, few_answers, pseudo_problems(), lambda _, of=refit: of)
        assert (found.refitted == accepted).all()
        assert ((found.loo.pareto_k.values == 0) == accepted).all()


@pytest.mark.slow
@pytest.mark.xdist_group("means")
def test_a_report_is_left_out_exactly_by_fitting_without_it(
    few_answers: MeansData, sampler: MeansSampler, draws: Draws, plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the ratio of two evidences by plain sampling; reports that can be reweighed are not fitted again."""
    points, short = pseudo_problems(), Sampling(chains=4, samples=150, seed=2, progress=False)
    fitted = []

    def refit(report: int) -> Draws:
        fitted.append(report)
        return sampler.run(short, without=report)

    easy = means_loo.leave_reports_out(draws, few_answers, points, refit)
    assert not fitted, "all of these can be reweighed"
    assert not easy.refitted.any()
    monkeypatch.setattr(means_loo, "BAD_PARETO", -10.0)
    found = means_loo.leave_reports_out(draws, few_answers, points, refit)
    assert fitted == [0, 1, 2, 3]
    assert found.refitted.all()
    assert (found.loo.pareto_k.values == 0).all()
    every = plain[1].sum(axis=1, keepdims=True)
    exact = np.logaddexp.reduce(every, axis=0) - np.logaddexp.reduce(every - plain[1], axis=0)
    assert found.loo.elpd_i.values == pytest.approx(exact, abs=0.15)
    off, off_reweighed = (np.abs(of.loo.elpd_i.values - exact).mean() for of in (found, easy))
    assert off < off_reweighed
    assert found.loo.elpd == pytest.approx(found.loo.elpd_i.values.sum())
    assert found.loo.p - easy.loo.p == pytest.approx(easy.loo.elpd - found.loo.elpd)


def test_a_mean_that_few_draws_decide_is_worth_little() -> None:
    log_values = np.array([[0.0, 0.0], [0.0, 0.0]])
    assert means_loo.worth(log_values) == pytest.approx(4.0)
    assert means_loo.worth(np.array([[900.0, 0.0], [0.0, 0.0]])) == pytest.approx(1.0)
    assert means_loo.log_mean(np.log([1.0, 3.0]) - 2000.0) == pytest.approx(np.log(2.0) - 2000.0)


def test_a_mean_is_trusted_if_particles_forgot_and_islands_agree() -> None:
    """Islands one of which is off by one standard deviation do not, whatever their draws are worth."""
    log_values = 0.5 * np.random.default_rng(0).standard_normal((4, 150))
    apart = log_values + 0.5 * np.array([[1.0], [0.0], [0.0], [0.0]])
    forgot, did_not = Forgetting(0.2, 50, 0.5), Forgetting(0.3, 50, 0.5)
    assert means_loo.trusted(Draws({}, {}, 0.0, forgot), log_values)
    assert means_loo.trusted(Draws({}, {}, 0.0), log_values), "draws of chains have nothing to forget"
    assert not means_loo.trusted(Draws({}, {}, 0.0, did_not), log_values)
    assert means_loo.worth(apart) > means_loo.LEAST_WORTH
    assert not means_loo.trusted(Draws({}, {}, 0.0, forgot), apart)
    assert not means_loo.trusted(Draws({}, {}, 0.0, forgot), log_values[:1])
    assert not means_loo.trusted(Draws({}, {}, 0.0, forgot), 9.0 * log_values)


def test_moves_draw_from_the_posterior_whatever_the_normal() -> None:
    """A tilted normal whose likelihood is known, and particles that begin as its draws: far too wide, and off."""
    rng, power = np.random.default_rng(4), 0.5
    pull, to = np.array([[4.0, 1.5, 0.0], [1.5, 2.0, 0.0], [0.0, 0.0, 0.5]]), np.array([1.0, -1.0, 0.5])

    def level(places: np.ndarray) -> np.ndarray:
        off = places - to
        return -0.5 * np.einsum("pi,ij,pj->p", off, pull, off)

    place = rng.standard_normal((4000, 3))
    particles = means_infer.Particles(place, level(place), np.arange(4000))
    normal = means_infer.Normal(
        np.array([0.2, 0.0, -0.3]), np.array([[1.5, 0.4, 0.1], [0.4, 1.2, 0.0], [0.1, 0.0, 0.8]])
    )
    for _ in range(60):
        particles = means_infer._moved(particles, power, normal, level, rng)
    covariance = np.linalg.inv(np.eye(3) + power * pull)
    assert particles.place.mean(axis=0) == pytest.approx(covariance @ (power * pull @ to), abs=0.06)
    assert np.cov(particles.place.T) == pytest.approx(covariance, abs=0.06)
    assert particles.level == pytest.approx(level(particles.place))


def test_normal_draws_become_the_priors() -> None:
    """Quantiles of every site of the prior, through the functions that the sampler's coordinates go through."""
    data = empty_means()
    z = np.random.default_rng(0).standard_normal(20_000)
    for name, fn in population_sites(Prior(), data).items():
        made = np.sort(np.asarray(quantile(fn)(jnp.asarray(z))))
        drawn = np.asarray(fn.sample(jax.random.PRNGKey(1), (20_000,)))
        for q in (0.02, 0.1, 0.5, 0.9, 0.98):
            share = (drawn < made[int(q * len(made))]).mean()
            assert share == pytest.approx(q, abs=5.0 * np.sqrt(2.0 * q * (1.0 - q) / len(made))), (name, q)


def test_particles_are_resampled_on_their_own_island_and_as_often_as_they_weigh() -> None:
    weight = _weights(np.random.default_rng(0).normal(0.0, 2.0, (3, 50)))
    assert weight.sum(axis=1) == pytest.approx(1.0)
    found = resampled(weight, np.random.default_rng(1)).reshape(3, 50)
    for island in range(3):
        assert ((found[island] >= 50 * island) & (found[island] < 50 * (island + 1))).all()
        times = np.bincount(found[island] - 50 * island, minlength=50)
        assert (np.abs(times - 50 * weight[island]) < 1.0).all()
