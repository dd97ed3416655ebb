"""One trajectory, all budgets: the likelihood of a pattern of right and wrong answers at successive budgets.

The probes of one trajectory are not independent: what was solved at 256 tokens is still solved at 512. So a trajectory
is modelled as an interval-censored mixture-cure model (Farewell 1982) with probe noise: it is solved in one of the K
intervals between budgets, or in none of them (K + 1 states m); before that a probe is right with probability `guess`,
from then on it is wrong with probability `slip`. A trajectory that flips between right and wrong is thereby possible
and costs what it should:

    P(y) = sum_m pi_m prod_{k < m} Bern(y_k; guess) prod_{k >= m} Bern(y_k; 1 - slip)
    pi_m = q (F(T_m) - F(T_{m-1})),  m < K;   pi_K = 1 - q F(T_{K-1})

Budgets run one by one are patterns with a single observed probe: the same formula gives their Bernoulli likelihood.
Data are reduced to distinct (arm, problem, pattern) rows with counts, so the cost does not grow with the number of
samples.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array


class PatternTable(NamedTuple):
    """Distinct patterns as sufficient counts, each of shape (..., K + 1): probes seen before and from state m
    on."""

    right_before: np.ndarray
    wrong_before: np.ndarray
    right_after: np.ndarray
    wrong_after: np.ndarray


def pattern_table(patterns: np.ndarray) -> PatternTable:
    """Counts of right and wrong probes on either side of every possible moment of solving.

    Parameters
    ----------
    patterns : (..., K) integers: 1 right, 0 wrong, negative not measured.
    """
    right, wrong = (patterns == 1).astype(float), (patterns == 0).astype(float)

    def before(seen: np.ndarray) -> np.ndarray:
        return np.concatenate([np.zeros((*seen.shape[:-1], 1)), np.cumsum(seen, axis=-1)], axis=-1)

    right_before, wrong_before = before(right), before(wrong)
    return PatternTable(
        right_before, wrong_before, right_before[..., -1:] - right_before, wrong_before[..., -1:] - wrong_before
    )


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


def probe_probabilities(table: PatternTable, guess: Array, slip: Array) -> Array:
    """P(pattern | state), (..., pattern, K + 1), for one `guess` and slips that broadcast to (..., pattern)."""
    log_slip, log_kept = jnp.log(slip)[..., None], jnp.log1p(-slip)[..., None]
    return jnp.exp(
        table.right_before * jnp.log(guess)
        + table.wrong_before * jnp.log1p(-guess)
        + table.right_after * log_kept
        + table.wrong_after * log_slip
    )


def pattern_log_likelihood(states: Array, probes: Array) -> Array:
    """Log-likelihood of one trajectory of every arm and problem with every pattern.

    All combinations at once are one batched matrix product; looking up only the pairs that occur took three times as
    long, because the gradient of a lookup is a slow scatter.

    Parameters
    ----------
    states : (arm, problem, K + 1) from `state_probabilities`.
    probes : (arm, pattern, K + 1) from `probe_probabilities`.

    Returns
    -------
    (arm, problem, pattern) log-likelihoods, to be weighted by how often each occurred.
    """
    likelihood = jnp.einsum("ijm,ipm->ijp", states, probes)
    return jnp.log(likelihood + jnp.finfo(likelihood.dtype).tiny)
