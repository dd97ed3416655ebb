"""Published means: the table, the likelihood against brute force, the sampler against plain importance sampling."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, ndtr
from simulated import draw_truth, template

from reference import surface_reference as reference
from tslaw.fit.means_data import MeansData
from tslaw.fit.means_left_out import left_out_reports
from tslaw.fit.means_model import Moments, report_error, report_moments
from tslaw.fit.model import POPULATION
from tslaw.fit.pseudo_problems import AXES, effects, pseudo_problems

MODELS = ("Qwen3-1.7B", "Qwen3-4B", "Qwen3-14B")


def moments_of(truth: dict[str, np.ndarray], data: MeansData, points: np.ndarray) -> Moments:
    """`report_moments`, compiled as a whole."""
    return jax.jit(lambda params: report_moments(params, data, points))({k: jnp.asarray(v) for k, v in truth.items()})


def means_of(truth: dict[str, np.ndarray], data: MeansData, seed: int) -> MeansData:
    """The data with reports drawn from the truth."""
    mean, within, _ = moments_of(truth, data, pseudo_problems(256))
    noise = np.random.default_rng(seed).standard_normal(len(data.report_arm))
    drawn = np.asarray(mean) + np.asarray(report_error(within, data.report_answers)) * noise
    return replace(data, report_accuracy=np.clip(drawn, 0.0, 1.0))


def empty_means(models=MODELS, bits=(16, 4), budgets=(32000,), answers=2000.0) -> MeansData:
    """Every arm at every budget, accuracies unknown."""
    of = template(1, bits, budgets, models)
    arm, budget = (m.ravel() for m in np.meshgrid(range(len(of.arms)), range(len(budgets)), indexing="ij"))
    return MeansData(
        task="simulated",
        family="qwen3",
        chance=0.0,
        arms=of.arms,
        models=of.models,
        log_size=of.log_size,
        weight_bits=of.weight_bits,
        reference_size=of.reference_size,
        budgets=of.budgets,
        shapes=of.shapes,
        report_arm=arm,
        report_budget=budget,
        report_accuracy=np.full(len(arm), 0.5),
        report_answers=np.full(len(arm), answers),
        sources=("a simulation",),
    )


def population(seed: int, data: MeansData) -> dict[str, np.ndarray]:
    """A truth without problems: its population parameters, and misfits of the arms."""
    truth = draw_truth(
        seed, template(1, tuple(sorted(set(data.weight_bits), reverse=True)), (32000,), list(data.shapes))
    )
    kept = {name: truth[name] for name in POPULATION}
    model, rng = data.model_index(), np.random.default_rng(seed)
    own, quantized = rng.standard_normal((2, len(data.shapes)))
    share = np.array([reference.damage(kept, b) for b in data.weight_bits])
    return kept | {"misfit": kept["sd_misfit"] * own[model] + share * kept["sd_misfit_w"] * quantized[model]}


def brute_force(truth: dict[str, np.ndarray], data: MeansData, arm: int, tokens: float, n: int) -> tuple[float, float]:
    """P and V over n problems drawn at random, one formula at a time."""
    rng = np.random.default_rng(arm)
    x, bits = float(data.log_size[arm]), float(data.weight_bits[arm])
    difficulty = truth["sd_difficulty"] * rng.standard_normal(n)
    own = truth["sd_effect"] * rng.standard_normal(n)
    own = own + reference.damage(truth, bits) * truth["sd_effect_w"] * rng.standard_normal(n)
    has_own = rng.random(n) < truth["own_length_share"]
    longer = truth["rho"] * difficulty + truth["sd_length"] * rng.standard_normal(n)
    longer = longer + has_own * truth["own_length_spread"] * rng.standard_normal(n)
    q = expit(reference.ability(truth, x, bits) + truth["misfit"][arm] - difficulty + own)
    right = q * reference.solved(truth, longer, x, bits, np.array([tokens]), average=False)[0]
    p = right * (1.0 - reference.slip(truth, x)) + (1.0 - right) * truth["guess"]
    return float(p.mean()), float((p * (1.0 - p)).mean())


@pytest.mark.parametrize("seed", range(3))
def test_pseudo_problems_average_as_many_real_ones_do(seed: int) -> None:
    """64 points are as good as 200,000 random problems to half a point of accuracy, every arm and budget."""
    data = empty_means(budgets=(4000, 32000))
    truth = population(seed, data)
    mean, within, _ = moments_of(truth, data, pseudo_problems())
    for r, (arm, budget) in enumerate(zip(data.report_arm, data.report_budget, strict=True)):
        expected = brute_force(truth, data, arm, data.budgets[budget], 200_000)
        assert float(mean[r]) == pytest.approx(expected[0], abs=0.005)
        assert float(within[r]) == pytest.approx(expected[1], abs=0.005)


def test_points_are_worth_what_the_population_says() -> None:
    points = pseudo_problems(1024)
    assert points.shape == (len(AXES), 1024)
    params = {"sd_difficulty": 2.0, "sd_length": 0.3, "sd_effect": 1.0, "sd_effect_w": 0.5}
    params |= {"own_length_share": 0.25, "own_length_spread": 0.4}
    found = jax.jit(lambda p: effects(p, points))({k: jnp.asarray(v) for k, v in params.items()})
    for name, spread in (("difficulty", 2.0), ("length", 0.3), ("model_effect", 1.0), ("quantization_effect", 0.5)):
        assert float(found[name].mean()) == pytest.approx(0.0, abs=1e-6)
        assert float(found[name].std()) == pytest.approx(spread, rel=0.01)
    own = np.asarray(found["own_length"])
    assert (own == 0).mean() == pytest.approx(0.75, abs=0.002)
    assert own[own != 0].std() == pytest.approx(0.4, rel=0.02)
    ranks = np.linspace(-1.0, 1.0, 9)
    mixed = 0.75 * (ranks >= 0) + 0.25 * ndtr(ranks / 0.4)
    assert np.allclose([(own <= r).mean() for r in ranks], mixed, atol=0.003)


def test_own_lengths_are_smooth_in_their_share() -> None:
    """No jump and no infinite slope where a length joins the atom at 0."""
    points = pseudo_problems(64)

    def total(share: jax.Array) -> jax.Array:
        params = {"own_length_share": share, "own_length_spread": jnp.asarray(1.0)}
        from tslaw.fit.pseudo_problems import own_lengths

        return jnp.square(own_lengths(params, points[AXES.index("own_length")])).sum()

    shares = np.linspace(0.01, 0.99, 197)
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(total)))(jnp.asarray(shares))
    assert np.isfinite(slopes).all()
    assert np.abs(np.diff(values)).max() < 1.5
    assert (np.diff(values)[1:] > 0).all()


def test_left_out_reports_are_what_gaussian_conditioning_says() -> None:
    """With misfits too small for the surface to bend, against the joint normal of the reports, one at a time."""
    data = empty_means(answers=500.0)
    truth = population(1, data) | {"sd_misfit": np.array(0.02), "sd_misfit_w": np.array(0.03)}
    truth["misfit"] = np.zeros(len(data.arms))
    data = means_of(truth, data, 0)
    draws = {name: np.broadcast_to(value, (1, 1, *np.shape(value))) for name, value in truth.items()}
    found = left_out_reports(draws, data, pseudo_problems())[0, 0]
    mean, within, slope = (np.asarray(a) for a in moments_of(truth, data, pseudo_problems()))
    share = np.array([reference.damage(truth, b) for b in data.weight_bits])
    n = len(found)
    covariance = np.zeros((n, n))
    for a in range(n):
        for b in range(n):
            same = data.models[a] == data.models[b]
            covariance[a, b] = same * (0.02**2 + 0.03**2 * share[a] * share[b]) * slope[a] * slope[b]
    covariance += np.diag(within / data.report_answers + 1 / (12 * data.report_answers**2))
    for a in range(n):
        rest = [b for b in range(n) if b != a]
        weights = covariance[a, rest] @ np.linalg.inv(covariance[np.ix_(rest, rest)])
        expected = mean[a] + weights @ (data.report_accuracy[rest] - mean[rest])
        spread = sqrt(covariance[a, a] - weights @ covariance[rest, a])
        z = (data.report_accuracy[a] - expected) / spread
        assert found[a] == pytest.approx(-0.5 * z * z - np.log(spread * sqrt(2 * np.pi)), rel=1e-6)
