"""Problems nobody saw, for data that are means over them: quasi-random points in place of single problems.

A mean over a benchmark's problems says nothing of any one of them, so they are integrated out: a fixed set of points
in the unit cube (scrambled Sobol, each axis then evenly spaced) stands for them, and what a point is worth follows from
the population parameters alone,

    difficulty d_j = sd_difficulty Phi^-1(u_j1)         length ell_j = sd_length Phi^-1(u_j2)
    a model's own effect, and its quantization's, likewise from u_j3 and u_j4, the same for every model
    an arm's own length o_j: the u_j5 quantile of 0 with probability 1 - own_length_share and a normal otherwise

so that the average of `posterior.problem_accuracy` over the points is the mean accuracy, a smooth function of the
parameters, and everything that asks a fit about its problems finds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import ndtri
from scipy.stats import qmc

from tslaw.fit.surface import TRAITS, Params

N_PROBLEMS, SEED = 64, 29
"""The seed was chosen among others for means near to those over many more points; the tests hold it to 0.005."""
AXES = ("difficulty", "length", "model_effect", "quantization_effect", "own_length")
SCALES = {
    "difficulty": "sd_difficulty",
    "length": "sd_length",
    "model_effect": "sd_effect",
    "quantization_effect": "sd_effect_w",
}


def pseudo_problems(n: int = N_PROBLEMS) -> np.ndarray:
    """The points, (axis, problem), each strictly between 0 and 1; `n` is best a power of 2."""
    points = qmc.Sobol(len(AXES), scramble=True, rng=np.random.default_rng(SEED)).random(n)
    # An axis has one point in each of n intervals; in their middles its mean is right too.
    return (np.argsort(np.argsort(points, axis=0), axis=0).T + 0.5) / n


def effects(params: Params | Mapping[str, np.ndarray], points: np.ndarray) -> dict[str, Array]:
    """What the points are worth: `AXES` to (..., problem), of parameters of any shape (...)."""
    normal = ndtri(jnp.asarray(points))
    found = {name: jnp.asarray(params[scale])[..., None] * normal[AXES.index(name)] for name, scale in SCALES.items()}
    return found | {"own_length": own_lengths(params, points[AXES.index("own_length")])}


def own_lengths(params: Params | Mapping[str, np.ndarray], u: Any) -> Array:
    """The `u` quantiles (problem,) of an arm's own log length: (..., problem).

    Continuous also in the share: the lengths nearest to the atom at 0 are the smallest.
    """
    share = jnp.asarray(params["own_length_share"])[..., None]
    u = jnp.asarray(u)
    tail = jnp.minimum(u, 1.0 - u)
    inside = tail < 0.5 * share
    # Where the atom is, the argument is replaced, so that no gradient is infinite there.
    size = ndtri(jnp.where(inside, tail / share, 0.5))
    spread = jnp.asarray(params["own_length_spread"])[..., None]
    return jnp.where(inside, jnp.where(u < 0.5, size, -size) * spread, 0.0)


def stored_effects(params: dict[str, np.ndarray], points: np.ndarray, models: int, arms: int) -> dict[str, np.ndarray]:
    """The effects as `posterior.Posterior` holds them, from parameters (draw,): (draw, problem), (draw, model, problem)
    or (draw, arm, problem); and traits (draw, model) of 0, which means do not tell from misfits."""
    each = {name: np.asarray(values, float) for name, values in effects(params, points).items()}
    copies = {"model_effect": models, "quantization_effect": models, "own_length": arms}
    for name, n in copies.items():
        each[name] = np.broadcast_to(each[name][:, None], (len(each[name]), n, points.shape[1]))
    return each | {name: np.zeros((len(each["difficulty"]), models)) for name in TRAITS}
