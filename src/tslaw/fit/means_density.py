"""The posterior of published means in coordinates that are nearly independent and normal there.

A handful of precise means says much of a few combinations of parameters and nothing of the rest: whether a model fails
because it cannot solve or because it has not finished is for the prior to say. Such a posterior is a thin bent sheet on
which samplers hardly move. But given everything else the reports are nearly linear in what decides abilities: theta0,
alpha, delta_w, and every model's two misfits. So all parameters are written as standard normal draws that the prior's
quantiles make parameters of (`quantile`), those of abilities, v, apart from the others, z, and

    v = mode + root^-T xi

with mode and curvature root root^T of what is known of v given z (Gauss and Newton's method). What is sampled is z and
xi. That is exact wherever the steps end, for mode and root are functions of z alone; but where they end far from the
mode the coordinates are not straight, and chains stand still. All is in double precision, and nothing ends abruptly: no
parameter has a bound in these coordinates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.scipy.linalg import cho_solve, solve_triangular
from jax.scipy.special import logit, ndtr, ndtri
from numpyro import handlers
from numpyro.distributions import biject_to
from scipy.special import ndtr as norm_cdf
from scipy.stats import beta as beta_quantile

from tslaw.fit import surface
from tslaw.fit.means_data import MeansData
from tslaw.fit.means_model import Reports, moments, report_error, reports
from tslaw.fit.model import OF_UNIT, Prior, logit_unit, sample_population

SOLVED_FOR = ("theta0", "alpha", "delta_w")
"""Population parameters that abilities are linear in, beside the misfits."""
PROBIT, NEAREST = 0.346, (0.01, 0.99)
"""(16 sqrt(3) / 15 pi)^2, by which normal spread flattens a sigmoid, and shares solved that are told from 0 and 1."""
ROUGH_STEPS, STRAIGHT_STEPS, NEWTON_STEPS, FARTHEST = 2, 2, 3, 20.0
"""Steps to the mode: from guessed abilities, from logits of means, which are nearly straight in abilities, and from the
means themselves. No step moves abilities by more than so many logits (root mean square)."""
FURTHEST, N_QUANTILES = 6.0, 1201
"""Standard deviations that tabulated quantiles reach, and how many there are."""

Quantile = Callable[[Array], Array]


class Abilities(NamedTuple):
    """How abilities follow from v (solved,), given all else.

    design : (report, solved) logits of a report's ability for one of each of `values`. values : from v to theta0,
    alpha and delta_w in logits and the misfits in standard deviations, (solved,).
    """

    design: Array
    values: Quantile

    def at(self, v: Array) -> tuple[Array, Array]:
        """Every report's ability, (report,), and how it changes with v, (report, solved)."""
        value, rate = jax.jvp(self.values, (v,), (jnp.ones_like(v),))
        return self.design @ value, self.design * rate


class Linear(NamedTuple):
    """Reports around some v as normal distributions: how far each lies above what is expected, in standard errors
    (report,), and how that expectation changes with v, likewise (report, solved)."""

    residual: Array
    jacobian: Array

    def of(self, seen: Array | float) -> Linear:
        """Of the reports seen only."""
        return Linear(seen * self.residual, (seen * self.jacobian.T).T)

    def curvature(self) -> Array:
        """Of the negative log posterior in v, whose prior is standard normal: (solved, solved)."""
        return jnp.eye(self.jacobian.shape[1]) + self.jacobian.T @ self.jacobian


class Density:
    """The posterior of one task's means over coordinates z and xi, `n` in all."""

    def __init__(self, data: MeansData, prior: Prior, points: np.ndarray) -> None:
        self.data, self.prior, self.points = data, prior, points
        every = {name: quantile(fn) for name, fn in population_sites(prior, data).items()}
        self.solved_for = {name: every.pop(name + OF_UNIT) for name in SOLVED_FOR}
        self.free = every
        self.n = len(self.free) + len(self.solved_for) + 2 * len(data.shapes)

    def at(self, place: Array, seen: Array | float = 1.0) -> tuple[Array, dict[str, Array]]:
        """The log posterior density at a place (n,), up to a constant, and the parameters, `misfit` (arm,) too.

        `seen` (report,) is 0 for reports that are left out, and 1 otherwise.
        """
        z, xi = place[: len(self.free)], place[len(self.free) :]
        params = self.population(z)
        parts, of_arms = reports(params, self.data, self.points), self.abilities(params)
        abilities = of_arms._replace(design=of_arms.design[self.data.report_arm])
        mode = self.mode(parts, abilities, seen)
        root = jnp.linalg.cholesky(self.linear(parts, abilities, mode).of(seen).curvature())
        v = mode + solve_triangular(root.T, xi, lower=False)
        at = moments(parts, abilities.at(v)[0])
        error = report_error(at.within, self.data.report_answers)
        off = (self.data.report_accuracy - at.mean) / error
        log_likelihood = -jnp.sum(seen * (0.5 * off**2 + jnp.log(error)))
        log_volume = -jnp.sum(jnp.log(jnp.diag(root)))
        values = abilities.values(v)
        params |= dict(zip(self.solved_for, values, strict=False))
        k = len(self.solved_for)
        params["misfit"] = of_arms.design[:, k:] @ values[k:]
        log_p = log_likelihood + log_volume - 0.5 * (z @ z + v @ v)
        return jnp.where(jnp.isnan(log_p), -jnp.inf, log_p), params

    def population(self, z: Array) -> dict[str, Array]:
        """The population parameters but for those that are solved for, from z."""
        draw = {name: of(value) for value, (name, of) in zip(z, self.free.items(), strict=True)}
        rest = {name + OF_UNIT: jnp.ones(()) for name in SOLVED_FOR}  # replaced once they are solved for
        with handlers.seed(rng_seed=0), handlers.substitute(data=draw | rest):
            return sample_population(self.prior, self.data.budgets, self.data.chance)

    def abilities(self, params: dict[str, Array]) -> Abilities:
        """How the arms' abilities follow from v."""
        x, bits = jnp.asarray(self.data.log_size), jnp.asarray(self.data.weight_bits)
        own = jnp.eye(len(self.data.shapes))[self.data.model_index()]
        quantized = surface.weight_bit_shape(bits, params["kappa_w"])[:, None]
        loss = quantized * jnp.exp(-params["gamma_w"] * x)[:, None]
        rise = surface.bent(params["bend"], x)[:, None]
        misfits = [params["sd_misfit"] * own, params["sd_misfit_w"] * quantized * own]
        design = jnp.concatenate([jnp.ones_like(loss), rise, -loss, *misfits], axis=1)
        unit, k = logit_unit(params["sd_difficulty"]), len(self.solved_for)

        def values(v: Array) -> Array:
            relative = [of(value) for value, of in zip(v, self.solved_for.values(), strict=False)]
            return jnp.concatenate([unit * jnp.stack(relative), v[k:]])

        return Abilities(design, values)

    def mode(self, parts: Reports, abilities: Abilities, seen: Array | float) -> Array:
        """The most probable v, (solved,), nearly, given the reports `seen`."""
        ability, weight = self.rough_abilities(parts)

        def rough(v: Array) -> Linear:
            here, jacobian = abilities.at(v)
            return Linear(weight * (ability - here), weight[:, None] * jacobian)

        def steps(n: int, linear: Callable[[Array], Linear], v: Array) -> Array:
            # Not written out: that takes twice as long to compile.
            return jax.lax.fori_loop(0, n, lambda _, at: newton(linear(at).of(seen), at, abilities), v)

        v = steps(ROUGH_STEPS, rough, jnp.zeros(abilities.design.shape[1]))
        v = steps(STRAIGHT_STEPS, lambda at: self.straightened(parts, abilities, at), v)
        return steps(NEWTON_STEPS, lambda at: self.linear(parts, abilities, at), v)

    def rough_abilities(self, parts: Reports) -> tuple[Array, Array]:
        """Abilities that reports would have, were problems normally spread, and one over their errors: (report,)."""
        share = share_solved(parts, jnp.asarray(self.data.report_accuracy))
        wider = jnp.sqrt(1.0 + PROBIT * parts.shift.var(axis=-1))
        return wider * logit(share), share * (1.0 - share) / wider * self.data.report_answers**0.5

    def linear(self, parts: Reports, abilities: Abilities, v: Array) -> Linear:
        """The reports around v."""
        ability, jacobian = abilities.at(v)
        at = moments(parts, ability)
        error = report_error(at.within, self.data.report_answers)
        return Linear(
            (jnp.asarray(self.data.report_accuracy) - at.mean) / error, (at.slope / error)[:, None] * jacobian
        )

    def straightened(self, parts: Reports, abilities: Abilities, v: Array) -> Linear:
        """The logits of the reports around v: far from the mode they say better than the reports how far it is."""
        ability, jacobian = abilities.at(v)
        at, height = moments(parts, ability), parts.height.mean(axis=-1)
        observed = share_solved(parts, jnp.asarray(self.data.report_accuracy))
        expected = share_solved(parts, at.mean)
        error = report_error(at.within, self.data.report_answers) / (height * observed * (1.0 - observed))
        slope = at.slope / (height * expected * (1.0 - expected))
        return Linear((logit(observed) - logit(expected)) / error, (slope / error)[:, None] * jacobian)


def share_solved(parts: Reports, accuracy: Array) -> Array:
    """The share of problems that a mean accuracy (report,) says are solved, kept away from 0 and 1."""
    return jnp.clip((accuracy - parts.floor) / parts.height.mean(axis=-1), *NEAREST)


def newton(linear: Linear, v: Array, abilities: Abilities) -> Array:
    """v after one step, shortened, smoothly, where it would take abilities far."""
    uphill = linear.jacobian.T @ linear.residual - v
    step = cho_solve((jnp.linalg.cholesky(linear.curvature()), True), uphill)
    change = abilities.at(v)[1] @ step
    return v + step / jnp.sqrt(1.0 + jnp.mean(change**2) / FARTHEST**2)


def population_sites(prior: Prior, data: MeansData) -> dict[str, Any]:
    """The prior's distributions by the names of the sites that they are drawn for."""
    with handlers.seed(rng_seed=0), handlers.trace() as trace:
        sample_population(prior, data.budgets, data.chance)
    return {name: site["fn"] for name, site in trace.items() if site["type"] == "sample"}


def quantile(fn: Any) -> Quantile:
    """The function that makes a standard normal draw one of `fn`: what it is at the same quantile."""
    if isinstance(fn, dist.HalfNormal):
        # From above, where one minus a probability is still exact.
        return lambda z: -fn.scale * ndtri(0.5 * ndtr(-z))
    if isinstance(fn, dist.Beta):
        return _beta_quantile(float(fn.concentration1), float(fn.concentration0))
    # All others are normal distributions that were transformed.
    to, base = biject_to(fn.support), fn.base_dist if isinstance(fn, dist.TransformedDistribution) else fn
    return lambda z: to(base.loc + base.scale * z)


def _beta_quantile(a: float, b: float) -> Quantile:
    """Tabulated: the logit is nearly straight in z."""
    grid = np.linspace(-FURTHEST, FURTHEST, N_QUANTILES)
    below = norm_cdf(-np.abs(grid))
    # The upper half from above, where 1 - probability is still exact.
    low, high = beta_quantile.ppf(below, a, b), beta_quantile.isf(below, a, b)
    logits = np.where(grid < 0, np.log(low) - np.log1p(-low), np.log(high) - np.log1p(-high))
    return lambda z: jax.nn.sigmoid(jnp.interp(z, grid, logits))
