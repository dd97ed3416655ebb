"""The surface's pieces at their limits, and against the slow reference."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from simulated import draw_truth, posterior_of, template

from reference import surface_reference as reference
from tslaw.fit import surface

HARMLESS = {"delta_w": 0.0, "kappa_w": 0.6, "gamma_w": 0.0}
"""Weight bits that do nothing."""

quick = settings(max_examples=60, deadline=None)


@quick
@given(st.floats(0.01, 5), st.floats(0.05, 3))
def test_the_bit_penalty_is_nothing_at_native_and_delta_at_four_bits(delta, kappa) -> None:
    at = surface.weight_bit_penalty(jnp.array([16.0, 4.0]), delta, kappa)
    assert float(at[0]) == pytest.approx(0.0, abs=1e-12)
    assert float(at[1]) == pytest.approx(delta, rel=1e-9)


@quick
@given(st.floats(0.01, 5), st.floats(0.05, 2), st.lists(st.floats(2, 16), min_size=6, max_size=6))
def test_the_bit_penalty_falls_with_bits(delta, kappa, bits) -> None:
    values = np.asarray(surface.weight_bit_penalty(jnp.array(sorted(bits)), delta, kappa))
    assert (np.diff(values) <= 1e-12).all()
    assert (values >= -1e-12).all()


@quick
@given(st.floats(0, 0.5), st.floats(0, 0.4))
def test_accuracy_lies_between_guessing_and_not_slipping(guess, slip) -> None:
    ends = surface.accuracy(jnp.array([0.0, 1.0]), guess, slip)
    assert ends == pytest.approx([guess, 1.0 - slip])


def test_the_normal_distribution_function_is_exact_in_both_tails() -> None:
    z = np.concatenate([np.linspace(-37, 9, 500), [-1e3, 0.0, 1e3]])
    assert np.asarray(surface.normal_cdf(jnp.asarray(z))) == pytest.approx(norm.cdf(z), rel=1e-12, abs=0)
    slope = jax.vmap(jax.grad(surface.normal_cdf))(jnp.asarray(z))
    assert np.asarray(slope) == pytest.approx(norm.pdf(z), rel=1e-11, abs=0)


def test_a_measured_arm_agrees_with_the_reference_and_has_the_right_limits() -> None:
    data = template(7)
    truth = draw_truth(2, data)
    posterior = posterior_of([truth], data)
    budgets = np.array([1e-3, 500.0, 3000.0, 20000.0, 60000.0])
    for arm in posterior.family_arms("checkpoint")[::4]:
        expected = [reference.arm_accuracy(truth, data, arm.position, t) for t in budgets]
        found = posterior.arm_accuracy(arm, budgets)
        assert found.shape == (1, 5)
        assert found[0] == pytest.approx(expected, rel=1e-6)
        assert found[0, 0] == pytest.approx(float(truth["guess"]), rel=1e-6)


def test_a_size_nobody_ran_agrees_with_averaging_over_its_effects_and_lengths() -> None:
    data = template(7)
    truth = draw_truth(2, data)
    posterior = posterior_of([truth], data)
    budgets = np.array([1e-3, 500.0, 3000.0, 20000.0, 60000.0])
    for x, bits in ((-2.0, 4.0), (0.3, 5.0), (2.0, 16.0)):
        expected = [reference.mean_accuracy(truth, x, bits, t, 0.2) for t in budgets]
        found = posterior.accuracy(x, bits, budgets, np.array([0.2]))
        assert found[0] == pytest.approx(expected, abs=1e-4)


def test_what_was_solved_relapses_to_the_share_that_is_kept() -> None:
    truth = draw_truth(2, template(7)) | {"late0": np.asarray(-50.0), "kept": np.asarray(0.4)}
    x, bits, longer = jnp.asarray(0.0), jnp.asarray(16.0), jnp.asarray(0.0)
    slack = jnp.array([-20.0, 3.0, 5.0, 40.0])
    solved = np.asarray(surface.solved_by(truth, slack, longer, x, bits))
    assert solved[0] == pytest.approx(0.0, abs=1e-12)
    assert solved[1] > solved[2] > solved[3]
    assert solved[3] == pytest.approx(0.4, rel=1e-6)
    never = truth | {"relapse0": np.asarray(-50.0)}
    assert np.asarray(surface.solved_by(never, slack, longer, x, bits))[1:] == pytest.approx(1.0, abs=1e-3)


@quick
@given(st.floats(-12, 12), st.floats(0, 8))
def test_the_mean_chance_to_solve_is_that_of_a_logistic_normal(logit, spread) -> None:
    z = np.linspace(-9, 9, 4001)
    weights = np.exp(-0.5 * z**2)
    expected = (weights / (1 + np.exp(-(logit + spread * z)))).sum() / weights.sum()
    found = float(surface.average_solve_probability(jnp.asarray(logit), jnp.asarray(spread)))
    assert found == pytest.approx(expected, abs=1e-4)


def test_an_arms_effect_is_its_models_and_its_quantizations_share() -> None:
    native, low = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[10.0, 20.0], [30.0, 40.0]])
    found = surface.own_effect(native, low, jnp.array([0.0, 1.0, 0.5]), np.array([0, 0, 1]))
    assert found.tolist() == [[1.0, 2.0], [11.0, 22.0], [18.0, 24.0]]


@given(bend=st.floats(-1, 1), x=st.floats(-4, 4))
@settings(deadline=None)
def test_the_trend_in_size_bends_and_never_falls(bend, x) -> None:
    gained = float(surface.bent(jnp.asarray(bend), jnp.asarray(x)))
    expected = (
        reference.ability({"theta0": 0, "alpha": 1, "bend": bend, **HARMLESS}, x, 16.0) if abs(bend) > 1e-6 else x
    )
    assert gained == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert float(surface.bent(jnp.asarray(bend), jnp.asarray(x + 0.1))) > gained


def test_a_straight_trend_has_gradients() -> None:
    """At a bend of 0, where the ratio is 0 / 0, and on both sides of where the series takes over."""
    for bend in (0.0, surface.SMALL / 2 * 0.999, surface.SMALL / 2 * 1.001):
        by_bend, by_x = jax.grad(surface.bent, argnums=(0, 1))(bend, 2.0)
        assert float(by_bend) == pytest.approx(2.0, rel=2e-3)
        assert float(by_x) == pytest.approx(np.exp(2.0 * bend), rel=1e-5)


def test_widths_far_below_the_measured_ones_have_an_accuracy_in_single_precision() -> None:
    """Damage that grows so fast with fewer bits that relapses come at once."""
    truth = draw_truth(1, template(7)) | {"kappa_w": np.asarray(6.0), "relapse2": np.asarray(1.0)}
    single = {name: jnp.asarray(value, jnp.float32) for name, value in truth.items()}
    x, bits = jnp.float32(0.0), jnp.float32(2.0)
    assert np.isfinite(float(surface.relapse_rate(single, x, bits)))
    slack = jnp.linspace(-6.0, 6.0, 50, dtype=jnp.float32)[:, None]
    solved = np.asarray(surface.solved_by(single, slack, single["length"], x, bits))
    assert ((solved >= 0) & (solved <= 1)).all()
