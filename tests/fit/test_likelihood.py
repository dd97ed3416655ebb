"""The shared-trajectory likelihood against loops over every moment of solving and every probe."""

from __future__ import annotations

from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells import cell_log_likelihood, pattern_log_likelihood
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import Array
from simulated import correct_of, draw_truth, template, with_outcomes

from reference import likelihood_reference as reference
from reference import surface_reference
from tslaw.fit import likelihood, surface
from tslaw.fit.lengths import relapse_chain
from tslaw.fit.model import state_table
from tslaw.fit.simulate import simulate_task

N_BUDGETS = 4  # always the same shapes, so that JAX compiles once
RATE = st.floats(0.001, 0.999)
ALL_PATTERNS = np.array(list(product((0, 1), repeat=N_BUDGETS)))
quick = settings(max_examples=60, deadline=None)


@st.composite
def trajectories(draw: st.DrawFn) -> tuple[float, list[float], float, float, list[float], float]:
    """q, F at rising budgets, guess, slip, how much does not relapse before each budget, and what is kept."""
    finished = sorted(draw(st.lists(st.floats(0, 1), min_size=N_BUDGETS, max_size=N_BUDGETS)))
    decay = draw(st.lists(RATE, min_size=N_BUDGETS, max_size=N_BUDGETS))
    return draw(st.floats(0, 1)), finished, draw(RATE), draw(RATE), decay, draw(RATE)


def log_likelihoods(patterns: np.ndarray, q: float, finished: list[float], *noise: Any) -> np.ndarray:
    """Every pattern's log-likelihood by tslaw, for one arm and one problem."""
    return np.asarray(_compiled(patterns[None], q, jnp.array(finished), *noise[:2], jnp.array(noise[2]), noise[3]))


@jax.jit
def _compiled(
    patterns: Array, q: Array, finished: Array, guess: Array, slip: Array, decay: Array, kept: Array
) -> Array:
    states = likelihood.state_probabilities(jnp.full((1, 1), q), finished[None, None, :])
    relapse = likelihood.Relapse(decay[None], kept)
    probes = likelihood.probe_probabilities(patterns, guess, slip[None], relapse)
    return pattern_log_likelihood(states, probes)[0, 0]


@quick
@given(trajectories())
def test_states_are_a_distribution(values) -> None:
    q, finished, *_ = values
    states = np.asarray(likelihood.state_probabilities(jnp.asarray(q), jnp.array(finished)))
    assert states.sum() == pytest.approx(1.0, abs=1e-12)
    assert (states >= 0).all()
    assert states == pytest.approx(reference.state_probabilities(q, finished), abs=1e-12)


@quick
@given(trajectories())
def test_all_patterns_together_have_probability_one(values) -> None:
    assert np.exp(log_likelihoods(ALL_PATTERNS, *values)).sum() == pytest.approx(1.0, abs=1e-9)


@quick
@given(trajectories(), st.data())
def test_any_pattern_agrees_with_brute_force(values, data) -> None:
    one = st.lists(st.sampled_from((1, 0, -2)), min_size=N_BUDGETS, max_size=N_BUDGETS)
    patterns = data.draw(st.lists(one, min_size=6, max_size=6))
    expected = [reference.pattern_probability(p, *values) for p in patterns]
    found = np.exp(log_likelihoods(np.array(patterns), *values))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("unrolled", [True, False], ids=["written out", "step by step"])
def test_gradients_agree_with_differences_of_brute_force(unrolled, monkeypatch) -> None:
    monkeypatch.setattr(likelihood, "_unrolled", lambda: unrolled)
    patterns = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [-2, 1, -2, 0], [-2, -2, 1, -2]])
    values = np.array([0.7, 0.1, 0.3, 0.6, 0.9, 0.05, 0.02, 0.9, 0.8, 0.95, 0.6, 0.4])

    def total(values: Array) -> Array:
        q, finished, guess, slip, decay, kept = values[0], values[1:5], values[5], values[6], values[7:11], values[11]
        return _compiled.__wrapped__(patterns[None], q, finished, guess, slip, decay, kept).sum()

    def slow(values: np.ndarray) -> float:
        q, *finished, guess, slip = values[:7].tolist()
        noise = (guess, slip, values[7:11].tolist(), float(values[11]))
        return sum(np.log(reference.pattern_probability(p, q, finished, *noise)) for p in patterns.tolist())

    steps = 1e-6 * np.eye(len(values))
    expected = [(slow(values + step) - slow(values - step)) / 2e-6 for step in steps]
    found = jax.jit(jax.vmap(jax.grad(total)))(jnp.stack([values, values]))
    assert np.asarray(found[1]) == pytest.approx(np.array(expected), rel=1e-6, abs=1e-6)


def test_a_decay_that_underflows_has_a_slope() -> None:
    """Solutions that are lost at once, exp(-exp(8)): the chain forgets them, whatever its rate."""

    def total(log_rate: Array) -> Array:
        relapse = likelihood.Relapse(jnp.exp(-jnp.exp(log_rate) * jnp.ones((1, 3))), jnp.asarray(0.3))
        patterns = np.array([[[1, 0, 1], [0, 0, 1]]])
        return jnp.log(likelihood.probe_probabilities(patterns, jnp.asarray(0.1), jnp.asarray([0.1]), relapse)).sum()

    slope_of = jax.jit(jax.value_and_grad(total))
    at_once, soon = (slope_of(jnp.asarray(log_rate)) for log_rate in (8.0, 4.0))
    assert at_once[0] == pytest.approx(float(soon[0]), abs=1e-9)
    assert float(at_once[1]) == 0.0


def test_single_precision_is_exact_to_its_rounding_where_little_is_lost() -> None:
    """With slips and relapses so rare that 1 - p in single precision would be wrong by percents."""
    patterns = np.array(list(product((1, 0, -2), repeat=N_BUDGETS)))[None]

    def found(values: Array, dtype: Any) -> Array:
        relapse = likelihood.Relapse(1.0 - values[2:6][None], values[6])
        return likelihood.probe_probabilities(patterns, values[0], values[1:2], relapse, dtype)

    values = jnp.asarray([0.01, 1e-6, 1e-6, 3e-6, 1e-6, 2e-6, 0.4])
    single, double = (np.asarray(jax.jit(found, static_argnums=1)(values, d), float) for d in (jnp.float32, float))
    assert single == pytest.approx(double, rel=3e-6)
    slopes = [jax.jit(jax.grad(lambda v, d=dtype: jnp.sum(found(v, d))))(values) for dtype in (jnp.float32, float)]
    assert np.asarray(slopes[0]) == pytest.approx(np.asarray(slopes[1]), rel=1e-5, abs=1e-4)


@quick
@given(trajectories(), st.data())
def test_a_single_probe_is_a_bernoulli_of_the_accuracy(values, data) -> None:
    q, finished, guess, slip, decay, _ = values
    k = data.draw(st.integers(0, len(finished) - 1))
    patterns = np.full((2, len(finished)), -2)
    patterns[:, k] = (1, 0)
    right = float(surface.accuracy(jnp.asarray(q * finished[k]), jnp.asarray(guess), jnp.asarray(slip)))
    never_lost = [1.0] * len(decay), 0.5
    found = log_likelihoods(patterns, q, finished, guess, slip, *never_lost)
    assert np.exp(found) == pytest.approx([right, 1 - right], rel=1e-9)


@pytest.mark.parametrize("shared", [True, False])
def test_cells_of_a_simulated_task_against_surface_and_loops(shared) -> None:
    """The whole path from parameters to cells: every trajectory of every arm and problem by brute force."""
    data = template(5, (16, 4), (1000, 4000, 16000), ("Qwen3-1.7B", "Qwen3-8B"))
    truth = draw_truth(1, data)
    correct = correct_of(simulate_task(data, truth, 6, seed=0))
    correct[1, 2, 3:] = -2
    data = with_outcomes(data, correct, shared)
    assert shared or ((data.patterns >= 0).sum(axis=1) == 1).all()
    found = np.asarray(jax.jit(lambda p: cell_log_likelihood(p, data))({k: jnp.asarray(v) for k, v in truth.items()}))
    chain = relapse_chain({k: jnp.asarray(v) for k, v in truth.items()}, data)
    certain = truth | {"guess": 0.0, "slip0": -700.0, "relapse0": np.asarray(-700.0)}
    for i, j in np.ndindex(found.shape):
        solved = np.array([surface_reference.problem_accuracy(certain, data, i, t)[j] for t in (*data.budgets, 1e9)])
        q, finished = solved[-1], solved[:-1] / solved[-1]
        own = surface_reference.of_model(truth, data.model_index()[i])
        guess, slip = float(truth["guess"]), surface_reference.slip(own, data.log_size[i])
        noise = (guess, slip, np.asarray(chain.decay)[i], float(truth["kept"]))
        expected = 0.0
        for outcomes in correct[i, j]:
            single = [[y if k == only else -2 for k, y in enumerate(outcomes)] for only in range(3)]
            for pattern in [outcomes] if shared else single:
                expected += np.log(reference.pattern_probability(pattern, q, finished, *noise))
        assert found[i, j] == pytest.approx(expected, rel=1e-9)


def test_the_chain_advances_with_the_clock() -> None:
    """Between budgets exp(-kappa times the clock's advance); before the first as in the step after it."""
    data = template(5, (16, 4), (1000, 4000, 16000), ("Qwen3-1.7B", "Qwen3-8B"))
    truth = draw_truth(1, data)
    found = np.asarray(relapse_chain({k: jnp.asarray(v) for k, v in truth.items()}, data).decay)
    for i in range(4):
        x, bits = data.log_size[i], data.weight_bits[i]
        own = surface_reference.of_model(truth, data.model_index()[i])
        typical = np.exp(surface_reference.log_length(own, x, bits))
        worse = float(truth["relapse2"]) * surface_reference.damage(truth, bits)
        rate = np.exp(float(own["relapse0"]) + float(truth["relapse1"]) * x + worse)
        clock = (np.array([250.0, 1000, 4000, 16000]) / typical) ** float(truth["relapse_power"])
        assert found[i] == pytest.approx(np.exp(-rate * np.diff(clock)), rel=1e-9)


def test_the_curve_between_budgets_is_that_of_the_chain() -> None:
    """Closely spaced probes: the chance to be right by the chain is the surface's, which has it in closed form."""
    budgets = tuple(np.geomspace(500, 60000, 60).round().astype(int).tolist())
    data = template(5, (4,), budgets, ("Qwen3-1.7B",))
    truth = draw_truth(4, data) | {"relapse0": np.asarray(-1.5), "sigma_len": np.asarray(0.15)}
    params = {k: jnp.asarray(v) for k, v in truth.items()}
    states, chain = np.asarray(state_table(params, data))[0], relapse_chain(params, data)
    stay, found, enter = (np.asarray(p)[0] for p in (chain.from_right(), chain.from_lost(), chain.from_right(True)))
    right, lost, curve = np.zeros(5), np.zeros(5), []
    for k in range(len(budgets)):
        if k:
            right, lost = right * stay[k] + lost * found[k], right * (1 - stay[k]) + lost * (1 - found[k])
        right, lost = right + states[:, k] * enter[k], lost + states[:, k] * (1 - enter[k])
        curve.append(right)
    certain = truth | {"guess": 0.0, "slip0": -700.0}
    expected = [surface_reference.problem_accuracy(certain, data, 0, t) for t in budgets]
    assert np.array(curve).min() >= 0
    assert np.array(curve) == pytest.approx(np.array(expected), abs=0.02)
