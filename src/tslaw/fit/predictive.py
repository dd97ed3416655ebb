"""Posterior predictive accuracy: what the fitted model says a repeat of the measurement would have shown."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from tslaw.fit import surface
from tslaw.fit.data import TaskData
from tslaw.fit.infer import Draws
from tslaw.fit.lengths import relapse_chain
from tslaw.fit.likelihood import Relapse
from tslaw.fit.model import state_table
from tslaw.fit.simulate import simulate_patterns

PREDICTIVE_DRAWS = 200


def predictive_accuracy(draws: Draws, data: TaskData, seed: int) -> np.ndarray:
    """Replicated accuracy of every arm and budget, with as many trajectories and probes as were measured.

    Every kept draw simulates whole trajectories (solved or not, guesses and slips), so that the spread includes the
    dependence between budgets. About 200 draws a fit are enough for 90% bands.

    Returns
    -------
    (chain, kept draw, arm, budget)
    """
    chains, n = draws.posterior["alpha"].shape
    keep = max(1, n * chains // PREDICTIVE_DRAWS)
    flat = {k: v[:, ::keep].reshape(-1, *v.shape[2:]) for k, v in draws.posterior.items()}
    x = jnp.asarray(data.log_size)

    def one(p: dict[str, jax.Array]) -> tuple[jax.Array, ...]:
        return state_table(p, data), surface.slip_rate(p, x), relapse_chain(p, data).decay

    tables = jax.jit(lambda f: jax.lax.map(one, f, batch_size=16))
    states, slips, decays = (np.asarray(a) for a in tables({k: jnp.asarray(v) for k, v in flat.items()}))
    arm, problem, pattern = (np.repeat(i, data.row_count) for i in (data.row_arm, data.row_problem, data.row_pattern))
    seen = data.patterns[pattern] >= 0
    probes = _sum_by_arm(seen, arm, len(data.arms))
    rng = np.random.default_rng(seed)
    replicates = []
    for state, slip, decay, guess, kept in zip(states, slips, decays, flat["guess"], flat["kept"], strict=True):
        right = simulate_patterns(state[arm, problem], float(guess), slip[arm], Relapse(decay[arm], kept), rng)
        with np.errstate(invalid="ignore"):
            replicates.append(_sum_by_arm(right * seen, arm, len(data.arms)) / probes)
    return np.asarray(replicates).reshape(chains, -1, len(data.arms), len(data.budgets))


def _sum_by_arm(values: np.ndarray, arm: np.ndarray, n_arms: int) -> np.ndarray:
    """Sums of `values` (trajectory, budget) over each arm's trajectories: (arm, budget)."""
    return np.stack([values[arm == i].sum(axis=0) for i in range(n_arms)])
