"""Probes of one trajectory that are alike: a logit of its own, shared by all budgets, summed out.

For surfaces that say the chance of a right probe at every budget, not what happens between budgets. Probes at nested
budgets of one trajectory are far from independent; calling them so would make every interval too narrow. So trajectory
t has an effect z_t, and given it its probes are independent:

    P(right at T | z) = guess + (1 - guess) sigmoid(logit(T) + sd_trajectory z),   z ~ Normal(0, 1)

The sum over z is by equal steps, which for a Gaussian times something smooth converges faster than any power of the
step; where effects are large and budgets many, as many of Gauss and Hermite's nodes are several times less exact.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import expit

from tslaw.fit.data import TaskData

NODES = np.linspace(-4.0, 4.0, 17)
LOG_WEIGHTS = -0.5 * NODES**2 - np.log(np.exp(-0.5 * NODES**2).sum())


def log_likelihood_of_pairs(
    logit: Array, guess: Array, sd_trajectory: Array, data: TaskData, dtype: Any = jnp.float32
) -> Array:
    """Log-likelihood of all trajectories of each model on each problem, (model, problem); pairs without data give 0.

    Parameters
    ----------
    logit : (arm, problem, budget) of an average trajectory. guess, sd_trajectory : scalars.
    dtype : of the sums over probes; nearly all the time goes into them, and single precision is enough to sample.
    """
    seen = data.patterns[data.row_pattern]
    right, measured = ((seen == 1).astype(np.float32), seen >= 0)
    shifted = logit[data.row_arm, data.row_problem].astype(dtype)[..., None] + (sd_trajectory * NODES).astype(dtype)
    # The chance of what was seen is guess (if right) + (1 - guess) sigmoid(+- logit): one exponential, one logarithm.
    known = jax.nn.sigmoid(jnp.asarray(2.0 * right - 1.0, dtype)[..., None] * shifted)
    chance = jnp.asarray(right, dtype)[..., None] * guess.astype(dtype) + (1.0 - guess).astype(dtype) * known
    log_chance = jnp.where(measured[..., None], jnp.log(chance + jnp.finfo(dtype).tiny), 0.0)
    each = log_chance.sum(axis=1) + LOG_WEIGHTS.astype(dtype)
    rows = jnp.asarray(data.row_count, dtype) * jax.nn.logsumexp(each, axis=1)
    n_problems, n_models = len(data.problems), int(data.model_index().max()) + 1
    pair = data.model_index()[data.row_arm] * n_problems + data.row_problem
    return jax.ops.segment_sum(rows, pair, n_models * n_problems).reshape(n_models, n_problems).astype(logit.dtype)


def simulate_probes(
    logit: np.ndarray, guess: float, sd_trajectory: float, arm: np.ndarray, problem: np.ndarray, seed: Any
) -> np.ndarray:
    """Right (1) and wrong (0) probes of independent trajectories: (trajectory, budget).

    `logit` is (arm, problem, budget); `arm` and `problem` (trajectory,) say what each trajectory is of.
    """
    rng = np.random.default_rng(seed)
    own = sd_trajectory * rng.standard_normal(len(arm))
    p = guess + (1.0 - guess) * expit(logit[arm, problem] + own[:, None])
    return (rng.random(p.shape) < p).astype(np.int8)
