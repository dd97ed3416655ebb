"""Simulation and posterior predictive: frequencies match probabilities, and replicas cover what was simulated."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from simulated import correct_of, draw_truth, template, with_outcomes

from reference import likelihood_reference as reference
from tslaw.fit.data import TaskData
from tslaw.fit.infer import Draws
from tslaw.fit.likelihood import Relapse
from tslaw.fit.predictive import predictive_accuracy
from tslaw.fit.simulate import simulate_patterns, simulate_task


def test_patterns_occur_as_often_as_they_should() -> None:
    q, finished, guess, slip, n = 0.7, [0.2, 0.5, 0.9], 0.2, [0.1, 0.4, 0.05], 40_000
    decay, kept = [0.9, 0.7, 0.5], 0.3
    states = np.tile(reference.state_probabilities(q, finished), (n, 1))
    relapse = Relapse(np.tile(decay, (n, 1)), kept)
    right = simulate_patterns(states, guess, np.tile(slip, (n, 1)), relapse, np.random.default_rng(0))
    for pattern in product((0, 1), repeat=3):
        expected = reference.pattern_probability(pattern, q, finished, guess, slip, decay, kept)
        assert (right == pattern).all(axis=1).mean() == pytest.approx(expected, abs=4 * np.sqrt(expected / n))


def truth_as_draws(truth: dict, n: int) -> Draws:
    """A posterior that knows the truth."""
    posterior = {name: np.broadcast_to(value, (2, n, *value.shape)) for name, value in truth.items()}
    return Draws(posterior, {}, 0.0)


def replicated_spread(data: TaskData, truth: dict) -> tuple[np.ndarray, np.ndarray]:
    replicas = predictive_accuracy(truth_as_draws(truth, 200), data, seed=1)
    assert replicas.shape == (2, 100, len(data.arms), len(data.budgets))
    flat = replicas.reshape(-1, *replicas.shape[2:])
    return flat.mean(axis=0), flat.std(axis=0)


def test_replicas_repeat_the_measurement_with_as_many_probes() -> None:
    """Their spread is that of repeated simulations, also where trajectories are missing or budgets were run alone."""
    empty = template(6, (16,), (4000, 8000, 32000), ("Qwen3-1.7B", "Qwen3-14B"))
    truth = draw_truth(3, empty)
    repeats = np.split(correct_of(simulate_task(empty, truth, 100 * 5, 0)), 100, axis=2)
    for shared in (True, False):
        accuracies = []
        for repeat in repeats:
            correct = repeat.copy()
            correct[0, :, 2:] = -2
            correct[1, :, :4, 1] = -2
            measured = with_outcomes(empty, correct, shared)
            accuracies.append(measured.accuracy()[0])
        mean, spread = replicated_spread(measured, truth)
        assert mean == pytest.approx(np.mean(accuracies, axis=0), abs=5 * spread.max() / np.sqrt(100))
        assert spread == pytest.approx(np.std(accuracies, axis=0), rel=0.3)


def test_a_real_fit_covers_what_was_measured(two_fits) -> None:
    for fit in two_fits:
        observed, _ = fit.data.accuracy()
        replicas = fit.predictive.reshape(-1, *observed.shape)
        low, high = np.quantile(replicas, [0.05, 0.95], axis=0)
        assert ((low <= observed) & (observed <= high)).mean() >= 0.8
