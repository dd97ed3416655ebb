"""One trajectory, all budgets: the likelihood of a pattern of right and wrong answers at successive budgets.

The probes of one trajectory are not independent: what was solved at 256 tokens is mostly still solved at 512. So a
trajectory is modelled as an interval-censored mixture-cure model (Farewell 1982) with relapses and probe noise: it is
solved in one of the K intervals between budgets, or in none of them (K + 1 states m); from then on it is a chain of two
states, right and lost, from budget to budget. A probe is right with probability `guess` before solving and while lost,
and wrong with probability `slip` while right. A trajectory that flips is thereby possible and costs what it should:

    P(y) = sum_m pi_m prod_{k < m} Bern(y_k; guess) A_m(y)
    pi_m = q (F(T_m) - F(T_{m-1})),  m < K;   pi_K = 1 - q F(T_{K-1})
    A_m  = the chance of the rest of the pattern from the chain that begins at m, by recursion from the last budget

Budgets run one by one are patterns with a single observed probe: the same formula gives their Bernoulli likelihood.
Data are reduced to distinct (arm, problem, pattern) rows with counts, so the cost does not grow with the number of
samples.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array


class Relapse(NamedTuple):
    """The chain of solved trajectories. `decay` (..., K): exp(-kappa times the clock's advance) over the interval that
    ends at each budget; `kept`: the share that is right in the long run, one for all or (..., K)."""

    decay: Array
    kept: Array

    def of(self, places: np.ndarray) -> Relapse:
        """The chains at `places` of the first axis."""
        return Relapse(self.decay[places], self.kept[places] if jnp.ndim(self.kept) else self.kept)

    def from_right(self, halved: bool = False) -> Array:
        """P(right at the budget | right at the one before), or given solved on the way (half an interval)."""
        return self.kept + (1.0 - self.kept) * (jnp.sqrt(self.decay) if halved else self.decay)

    def from_lost(self) -> Array:
        """P(right at the budget | lost at the one before)."""
        return self.kept * (1.0 - self.decay)


def state_probabilities(q: Array, finished: Array) -> Array:
    """pi: probabilities of being solved in each interval, or never.

    Parameters
    ----------
    q : (...,) solve probabilities.
    finished : (..., K) F at the K budgets, increasing along the last axis.

    Returns
    -------
    (..., K + 1), summing to 1.
    """
    gained = jnp.diff(finished, axis=-1, prepend=0.0)
    return jnp.concatenate([q[..., None] * gained, 1.0 - q[..., None] * finished[..., -1:]], axis=-1)


def probe_probabilities(patterns: np.ndarray, guess: Array, slip: Array, relapse: Relapse) -> Array:
    """P(pattern | state).

    Parameters
    ----------
    patterns : (..., pattern, K) integers: 1 right, 0 wrong, negative not measured.
    guess : the chance to be right without having solved. slip : (...).
    relapse : with `decay` (..., K).

    Returns
    -------
    (..., pattern, K + 1)
    """
    right, lost = (_emission(patterns, p) for p in (1.0 - slip[..., None, None], guess))
    n_budgets = patterns.shape[-1]
    stay, found = relapse.from_right()[..., None, :], relapse.from_lost()[..., None, :]
    enter = relapse.from_right(halved=True)[..., None, :]
    if_right = if_lost = jnp.ones(right.shape[:-1])
    entered = []
    for k in reversed(range(n_budgets)):
        if k < n_budgets - 1:
            p, f = stay[..., k + 1], found[..., k + 1]
            if_right, if_lost = p * if_right + (1.0 - p) * if_lost, f * if_right + (1.0 - f) * if_lost
        if_right, if_lost = right[..., k] * if_right, lost[..., k] * if_lost
        entered.append(enter[..., k] * if_right + (1.0 - enter[..., k]) * if_lost)
    before = jnp.concatenate([jnp.ones((*lost.shape[:-1], 1)), jnp.cumprod(lost, axis=-1)], axis=-1)
    return before * jnp.stack([*reversed(entered), jnp.ones_like(if_right)], axis=-1)


def _emission(patterns: np.ndarray, p_right: Array) -> Array:
    """The chance of every outcome; 1 where nothing was measured."""
    return jnp.where(patterns == 1, p_right, jnp.where(patterns == 0, 1.0 - p_right, 1.0))
