"""The surface's pieces at their limits, and against the slow reference."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import draw_truth, posterior_of, template

from reference import surface_reference as reference
from tslaw.fit import surface

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


def test_accuracy_agrees_with_the_reference_and_has_the_right_limits() -> None:
    data, truth = template(7), draw_truth(2, 7, 18)
    posterior = posterior_of([truth], data)
    budgets = np.array([1e-3, 500.0, 3000.0, 20000.0, 1e15])
    for arm in posterior.family_arms("checkpoint")[::4]:
        x, misfit = data.log_size[arm.position], float(truth["misfit"][arm.position])
        expected = [reference.mean_accuracy(truth, x, arm.weight_bits, t, misfit) for t in budgets]
        found = posterior.arm_accuracy(arm, budgets)
        assert found.shape == (1, 5)
        assert found[0] == pytest.approx(expected, rel=1e-6)
        assert found[0, 0] == pytest.approx(float(truth["guess"]), rel=1e-6)
        ceiling = reference.mean_accuracy(truth, x, arm.weight_bits, np.inf, misfit)
        assert found[0, -1] == pytest.approx(ceiling, rel=1e-6)
        assert (np.diff(found[0]) > 0).all()
