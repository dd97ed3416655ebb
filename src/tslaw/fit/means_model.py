"""The likelihood of published means: the surface averaged over pseudo-problems, with each mean's own standard error.

    y_r ~ Normal(P_r, sqrt(V_r / n_r + 1 / (12 n_r^2)))
    P_r = mean_j p_j,  V_r = mean_j p_j (1 - p_j)

p_j is the accuracy of the report's arm at its budget on pseudo-problem j (`posterior.problem_accuracy`), n_r the number
of answers that the mean is over; the last term is a mean's rounding to whole answers, so that no error is zero. The
problems are the benchmark's own and the same for all, so it is answers that are sampled, not problems. How far a
benchmark's few problems happen to suit one model is in that model's misfit, as is all else that is its own. Reports of
one arm at several budgets are taken to be independent.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tslaw.fit import surface
from tslaw.fit.means_data import MeansData
from tslaw.fit.pseudo_problems import effects


class Reports(NamedTuple):
    """What every report's accuracies are but for its arm's ability: p = floor + height sigmoid(ability + shift).

    floor is a scalar; height and shift are (report, problem).
    """

    floor: Array
    height: Array
    shift: Array


class Moments(NamedTuple):
    """P and V of every report, and how P changes with its ability: (report,) each."""

    mean: Array
    within: Array
    slope: Array


def reports(params: dict[str, Array], data: MeansData, points: np.ndarray) -> Reports:
    """The reports' parts, from the population's parameters of one draw."""
    own = effects(params, points)
    # In the precision of the parameters.
    of_arms = (jnp.asarray(values, params["mu0"].dtype) for values in (data.log_size, data.weight_bits))
    x, bits = (values[data.report_arm] for values in of_arms)
    quantized = surface.weight_bit_shape(bits, params["kappa_w"])[:, None]
    longer = params["rho"] * own["difficulty"] + own["length"] + own["own_length"]
    slack = jnp.asarray(np.log(data.budgets)[data.report_budget], x.dtype) - surface.log_length(params, x, bits)
    solved = surface.solved_by(params, slack[:, None], longer, x[:, None], bits[:, None])
    certain = surface.accuracy(solved, params["guess"], surface.slip_rate(params, x)[:, None])
    shift = own["model_effect"] + quantized * own["quantization_effect"] - own["difficulty"]
    return Reports(params["guess"], certain - params["guess"], shift)


def moments(of: Reports, ability: Array) -> Moments:
    """Means over the pseudo-problems, at abilities (report,)."""
    q = jax.nn.sigmoid(ability[:, None] + of.shift)
    p = of.floor + of.height * q
    slope = (of.height * q * (1.0 - q)).mean(axis=-1)
    return Moments(p.mean(axis=-1), (p * (1.0 - p)).mean(axis=-1), slope)


def report_moments(params: dict[str, Array], data: MeansData, points: np.ndarray) -> Moments:
    """The same from a draw's parameters, `misfit` (arm,) among them."""
    ability = surface.ability(params, jnp.asarray(data.log_size), jnp.asarray(data.weight_bits)) + params["misfit"]
    return moments(reports(params, data, points), ability[data.report_arm])


def report_error(within: Array, answers: np.ndarray) -> Array:
    """The standard error of means over so many answers, from V: see above."""
    return jnp.sqrt(within / answers + 1.0 / (12.0 * answers**2))
