"""The likelihood of every arm on every problem at given lengths, all patterns at once: what sums over lengths are
checked against."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array

from tslaw.fit import cache_arms, likelihood
from tslaw.fit.data import TaskData
from tslaw.fit.lengths import arm_traits, relapse_chain
from tslaw.fit.model import state_table


def pattern_log_likelihood(states: Array, probes: Array) -> Array:
    """(arm, problem, pattern) from states (arm, problem, K + 1) and probes (arm, pattern, K + 1)."""
    found = jnp.einsum("ijm,ipm->ijp", states, probes)
    return jnp.log(found + jnp.finfo(found.dtype).tiny)


def cell_log_likelihood(params: dict[str, Array], data: TaskData) -> Array:
    """Log-likelihood of all trajectories of every arm on every problem, (arm, problem)."""
    counts = np.zeros((len(data.arms), len(data.problems), len(data.patterns)))
    counts[data.row_arm, data.row_problem, data.row_pattern] = data.row_count
    slip = cache_arms.slips(params, data, arm_traits(params, data))
    every = np.broadcast_to(data.patterns, (len(data.arms), *data.patterns.shape))
    probes = likelihood.probe_probabilities(every, params["guess"], slip, relapse_chain(params, data))
    return jnp.sum(pattern_log_likelihood(state_table(params, data), probes) * counts, axis=-1)
