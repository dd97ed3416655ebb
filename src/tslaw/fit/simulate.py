"""Data simulated from the model itself, for calibration and for tests with a known answer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tslaw.fit.data import TaskData, distinct_rows


def simulate_patterns(states: np.ndarray, guess: float, slip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Right and wrong answers of independent trajectories at every budget.

    Parameters
    ----------
    states : (trajectory, K + 1) probabilities of being solved in each interval or never.
    guess : chance that a probe before solving is right.
    slip : (trajectory,) chance that a probe after solving is wrong.

    Returns
    -------
    (trajectory, K) of 0 and 1.
    """
    n_budgets = states.shape[1] - 1
    solved_in = (rng.random((len(states), 1)) > np.cumsum(states[:, :-1], axis=1)).sum(axis=1)
    solved = np.arange(n_budgets) >= solved_in[:, None]
    right = np.where(solved, 1.0 - slip[:, None], guess)
    return (rng.random(right.shape) < right).astype(np.int8)


def simulate_task(template: TaskData, truth: Mapping[str, np.ndarray], samples: int, seed: int) -> TaskData:
    """A task's data with the arms, budgets and problems of `template` and trajectories drawn from `truth`.

    `truth` holds every population parameter, `difficulty` and `length` (problem,), and `misfit` (arm,).
    """
    from dataclasses import replace

    import jax.numpy as jnp

    from tslaw.fit import surface
    from tslaw.fit.model import state_table

    params = {k: jnp.asarray(v) for k, v in truth.items()}
    states = np.asarray(state_table(params, template))
    slip = np.asarray(surface.slip_rate(params, jnp.asarray(template.log_size)))
    n_arms, n_problems, n_states = states.shape
    flat = np.repeat(states.reshape(-1, n_states), samples, axis=0)
    slips = np.repeat(slip, n_problems * samples)
    correct = simulate_patterns(flat, float(truth["guess"]), slips, np.random.default_rng(seed))
    correct = correct.reshape(n_arms, n_problems, samples, n_states - 1)
    patterns, arm, problem, pattern, count = distinct_rows(correct, shared=True)
    return replace(template, patterns=patterns, row_arm=arm, row_problem=problem, row_pattern=pattern, row_count=count)
