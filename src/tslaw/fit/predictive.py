"""Posterior predictive accuracy: what the fitted model says a repeat of the measurement would have shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tslaw.fit import cache_arms
from tslaw.fit.data import TaskData
from tslaw.fit.infer import Draws
from tslaw.fit.lengths import arm_traits, relapse_chain
from tslaw.fit.likelihood import Relapse
from tslaw.fit.model import state_table
from tslaw.fit.simulate import simulate_patterns

PREDICTIVE_DRAWS = 200


class Trajectories(NamedTuple):
    """The measured trajectories one by one: `arm` and `problem` (trajectory,), and `seen` (trajectory, budget), whether
    a probe was measured."""

    arm: np.ndarray
    problem: np.ndarray
    seen: np.ndarray

    def accuracy(self, right: np.ndarray, n_arms: int) -> np.ndarray:
        """Of outcomes `right` (trajectory, budget): (arm, budget), NaN where nothing was measured."""
        with np.errstate(invalid="ignore"):
            return self._sums(right * self.seen, n_arms) / self._sums(self.seen, n_arms)

    def lost(self, right: np.ndarray, n_arms: int) -> np.ndarray:
        """The share of trajectories that are right at a budget and wrong at the next: (arm, budget - 1), NaN where
        nothing was measured at both."""
        both = self.seen[:, 1:] & self.seen[:, :-1]
        went = (right[:, :-1] == 1) & (right[:, 1:] == 0) & both
        with np.errstate(invalid="ignore"):
            return self._sums(went, n_arms) / self._sums(both, n_arms)

    def _sums(self, values: np.ndarray, n_arms: int) -> np.ndarray:
        return np.stack([values[self.arm == i].sum(axis=0) for i in range(n_arms)])


def trajectories(data: TaskData) -> Trajectories:
    """Every measured trajectory, in the order of the rows."""
    arm, problem, pattern = (np.repeat(i, data.row_count) for i in (data.row_arm, data.row_problem, data.row_pattern))
    return Trajectories(arm, problem, data.patterns[pattern] >= 0)


def replicated_probes(draws: Draws, data: TaskData, seed: int) -> Iterator[np.ndarray]:
    """Right and wrong answers of as many trajectories as were measured, (trajectory, budget), for each of about 200
    draws, chains one after the other."""
    chains, n = draws.posterior["alpha"].shape
    keep = max(1, n * chains // PREDICTIVE_DRAWS)
    flat = {k: v[:, ::keep].reshape(-1, *v.shape[2:]) for k, v in draws.posterior.items()}

    def one(p: dict[str, jax.Array]) -> tuple[jax.Array, ...]:
        slip = cache_arms.slips(p, data, arm_traits(p, data))
        return state_table(p, data), slip, *relapse_chain(p, data)

    tables = jax.jit(lambda f: jax.lax.map(one, f, batch_size=16))
    states, slips, decays, kepts = (np.asarray(a) for a in tables({k: jnp.asarray(v) for k, v in flat.items()}))
    arm, problem, _ = trajectories(data)
    rng = np.random.default_rng(seed)
    for state, slip, decay, kept, guess in zip(states, slips, decays, kepts, flat["guess"], strict=True):
        yield simulate_patterns(state[arm, problem], float(guess), slip[arm], Relapse(decay, kept).of(arm), rng)


def predictive_accuracy(draws: Draws, data: TaskData, seed: int) -> np.ndarray:
    """Replicated accuracy of every arm and budget, with as many trajectories and probes as were measured.

    Every kept draw simulates whole trajectories (solved or not, guesses and slips), so that the spread includes the
    dependence between budgets. About 200 draws a fit are enough for 90% bands.

    Returns
    -------
    (chain, kept draw, arm, budget)
    """
    chains, measured = len(draws.posterior["alpha"]), trajectories(data)
    found = [measured.accuracy(right, len(data.arms)) for right in replicated_probes(draws, data, seed)]
    return np.asarray(found).reshape(chains, -1, len(data.arms), len(data.budgets))
