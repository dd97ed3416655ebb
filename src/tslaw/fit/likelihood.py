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

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

Pair = tuple[Array, Array]


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
        decay = self.decay
        if halved:  # a decay that underflows to zero would have an infinite slope
            decay = jnp.sqrt(jnp.maximum(decay, jnp.finfo(jnp.result_type(decay)).tiny))
        return self.kept + (1.0 - self.kept) * decay

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


def probe_probabilities(
    patterns: np.ndarray | Array, guess: Array, slip: Array, relapse: Relapse, dtype: Any = float
) -> Array:
    """P(pattern | state).

    Parameters
    ----------
    patterns : (..., pattern, K) integers: 1 right, 0 wrong, negative not measured.
    guess : the chance to be right without having solved. slip : (...), or (..., K) where budgets differ.
    relapse : with `decay` (..., K).
    dtype : of what comes after solving. All its terms are positive, so nothing cancels in single precision; the small
        chances it begins with are taken from 1 in the precision of the parameters.

    Returns
    -------
    (..., pattern, K + 1)
    """
    outcomes = jnp.moveaxis(jnp.asarray(patterns, jnp.int8), -1, 0)
    never = jnp.ones(outcomes.shape[1:], dtype)
    if_not, slips = _chances(guess, dtype), slip if jnp.ndim(slip) == jnp.ndim(relapse.decay) else slip[..., None]
    if_solved, stay, found, enter = (
        _chances(jnp.moveaxis(jnp.broadcast_to(p, relapse.decay.shape), -1, 0)[..., None], dtype)
        for p in (1.0 - slips, relapse.from_right(), relapse.from_lost(), relapse.from_right(halved=True))
    )

    def earlier(after: Pair, at: tuple[Array, Pair, Pair, Pair, Pair]) -> tuple[Pair, Array]:
        """From the chances of what comes after a budget, if right and if lost there, to those of the budget before;
        and the chance of the rest for what is solved on the way to this one."""
        outcome, if_solved, stay, found, enter = at
        rest = _emission(outcome, if_solved) * after[0], _emission(outcome, if_not) * after[1]
        return (_either(stay, rest), _either(found, rest)), _either(enter, rest)

    def unsolved(before: Array, outcome: Array) -> tuple[Array, Array]:
        with_this = before * _emission(outcome, exactly)
        return with_this, with_this.astype(dtype)

    unroll = _unrolled()
    budgets = (outcomes, if_solved, stay, found, enter)
    _, entered = lax.scan(earlier, (never, never), budgets, reverse=True, unroll=unroll)
    # All trajectories share the chance to guess: rounded first, it would make the sum of their logarithms uneven.
    exactly = _chances(guess, float)
    _, before = lax.scan(unsolved, jnp.ones(never.shape), outcomes, unroll=unroll)
    first, last = entered[:1], before[-1:]
    return jnp.moveaxis(jnp.concatenate([first, before[:-1] * entered[1:], last]), 0, -1)


def _unrolled() -> bool:
    """Whether recursions over budgets are written out.

    A GPU then fuses the steps into few kernels. On a CPU the gradient takes several times as long that way, and so does
    compiling it.
    """
    return jax.default_backend() != "cpu"


def _chances(p: Array, dtype: Any) -> Pair:
    """p and 1 - p."""
    return jnp.asarray(p, dtype), jnp.asarray(1.0 - p, dtype)


def _either(chance: Pair, values: Pair) -> Array:
    """The mean of two values."""
    return chance[0] * values[0] + chance[1] * values[1]


def _emission(outcome: Array, right: Pair) -> Array:
    """The chance of every outcome; 1 where nothing was measured."""
    return jnp.where(outcome == 1, right[0], jnp.where(outcome == 0, right[1], jnp.ones((), right[0].dtype)))
