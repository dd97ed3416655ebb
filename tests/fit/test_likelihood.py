"""The shared-trajectory likelihood against loops over every moment of solving and every probe."""

from __future__ import annotations

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import Array
from simulated import correct_of, draw_truth, template, with_outcomes

from reference import likelihood_reference as reference
from reference import surface_reference
from tslaw.fit import likelihood, surface
from tslaw.fit.model import cell_log_likelihood
from tslaw.fit.simulate import simulate_task

N_BUDGETS = 4  # always the same shapes, so that JAX compiles once
RATE = st.floats(0.001, 0.999)
ALL_PATTERNS = np.array(list(product((0, 1), repeat=N_BUDGETS)))
quick = settings(max_examples=60, deadline=None)


@st.composite
def trajectories(draw: st.DrawFn) -> tuple[float, list[float], float, float]:
    """q, F at rising budgets, guess and slip."""
    finished = sorted(draw(st.lists(st.floats(0, 1), min_size=N_BUDGETS, max_size=N_BUDGETS)))
    return draw(st.floats(0, 1)), finished, draw(RATE), draw(RATE)


def log_likelihoods(patterns: np.ndarray, q: float, finished: list[float], guess: float, slip: float) -> np.ndarray:
    """Every pattern's log-likelihood by tslaw, for one arm and one problem."""
    return np.asarray(_compiled(likelihood.pattern_table(patterns), q, jnp.array(finished), guess, slip))


@jax.jit
def _compiled(table: likelihood.PatternTable, q: Array, finished: Array, guess: Array, slip: Array) -> Array:
    states = likelihood.state_probabilities(jnp.full((1, 1), q), finished[None, None, :])
    probes = likelihood.probe_probabilities(table, guess, slip[None, None])
    return likelihood.pattern_log_likelihood(states, probes)[0, 0]


@quick
@given(trajectories())
def test_states_are_a_distribution(values) -> None:
    q, finished, _, _ = values
    states = np.asarray(likelihood.state_probabilities(jnp.asarray(q), jnp.array(finished)))
    assert states.sum() == pytest.approx(1.0, abs=1e-12)
    assert (states >= 0).all()
    assert states == pytest.approx(reference.state_probabilities(q, finished), abs=1e-12)


@quick
@given(trajectories())
def test_all_patterns_together_have_probability_one(values) -> None:
    q, finished, guess, slip = values
    assert np.exp(log_likelihoods(ALL_PATTERNS, q, finished, guess, slip)).sum() == pytest.approx(1.0, abs=1e-9)


@quick
@given(trajectories(), st.data())
def test_any_pattern_agrees_with_brute_force(values, data) -> None:
    q, finished, guess, slip = values
    one = st.lists(st.sampled_from((1, 0, -2)), min_size=N_BUDGETS, max_size=N_BUDGETS)
    patterns = data.draw(st.lists(one, min_size=6, max_size=6))
    expected = [reference.pattern_probability(p, q, finished, guess, slip) for p in patterns]
    found = np.exp(log_likelihoods(np.array(patterns), q, finished, guess, slip))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-300)


@quick
@given(trajectories(), st.data())
def test_a_single_probe_is_a_bernoulli_of_the_accuracy(values, data) -> None:
    q, finished, guess, slip = values
    k = data.draw(st.integers(0, len(finished) - 1))
    patterns = np.full((2, len(finished)), -2)
    patterns[:, k] = (1, 0)
    right = float(surface.accuracy(jnp.asarray(q * finished[k]), jnp.asarray(guess), jnp.asarray(slip)))
    assert np.exp(log_likelihoods(patterns, q, finished, guess, slip)) == pytest.approx([right, 1 - right], rel=1e-9)


@pytest.mark.parametrize("shared", [True, False])
def test_cells_of_a_simulated_task_against_surface_and_loops(shared) -> None:
    """The whole path from parameters to cells: every trajectory of every arm and problem by brute force."""
    data = template(5, (16, 4), (1000, 4000, 16000), ("Qwen3-1.7B", "Qwen3-8B"))
    truth = draw_truth(1, 5, 4)
    correct = correct_of(simulate_task(data, truth, 6, seed=0))
    correct[1, 2, 3:] = -2
    data = with_outcomes(data, correct, shared)
    assert shared or ((data.patterns >= 0).sum(axis=1) == 1).all()
    found = np.asarray(cell_log_likelihood({k: jnp.asarray(v) for k, v in truth.items()}, data))
    for i, j in np.ndindex(found.shape):
        x, bits, misfit = data.log_size[i], data.weight_bits[i], float(truth["misfit"][i])
        alone = truth | {"difficulty": truth["difficulty"][[j]], "length": truth["length"][[j]]}
        certain = alone | {"guess": 0.0, "slip0": -700.0}
        q = surface_reference.mean_accuracy(certain, x, bits, np.inf, misfit)
        finished = [surface_reference.mean_accuracy(certain, x, bits, t, misfit) / q for t in data.budgets]
        guess, slip = float(truth["guess"]), surface_reference.slip(truth, x)
        expected = 0.0
        for outcomes in correct[i, j]:
            single = [[y if k == only else -2 for k, y in enumerate(outcomes)] for only in range(3)]
            for pattern in [outcomes] if shared else single:
                expected += np.log(reference.pattern_probability(pattern, q, finished, guess, slip))
        assert found[i, j] == pytest.approx(expected, rel=1e-9)
