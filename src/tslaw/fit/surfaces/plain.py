"""A plain alternative: logits linear in log size and saturating in log budget. No notion of how long thinking takes.

    curve_i(T) = theta0 + alpha x_i - delta_w s(b_i) - rise exp(-power (ln T - ln T_mid))

x is the log size, s(b) the share of 4 bits' damage that b bits do (`surface.weight_bit_shape`), T_mid the geometric
middle of the budgets. The last term is a power law in T: it falls to zero as thinking goes on, so every arm saturates,
at the same pace for all sizes and problems.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

from tslaw.fit.data import TaskData
from tslaw.fit.surface import weight_bit_shape
from tslaw.fit.surfaces.logit import LogitSurface, Params

RISE, POWER = 3.0, (0.7, 0.5)
"""Prior scale of the logits lost at the middle budget, and median and spread of the power of T."""


class Plain(LogitSurface):
    """Logit-linear in log size and weight-bit damage, a power law in the budget."""

    name = "plain"
    title = "logit-linear in log size, saturating in log budget"

    def parameters(self, data: TaskData) -> Params:
        """Priors; those that the mechanistic surface has too are as wide, in its prior's typical unit of ability."""
        prior, unit = self.prior, self.logit_unit
        draw = {
            "theta0": dist.Normal(0.0, unit * prior.theta0),
            "alpha": dist.HalfNormal(unit * prior.alpha),
            "delta_w": dist.HalfNormal(unit * prior.delta_w),
            "kappa_w": dist.LogNormal(np.log(prior.kappa_w[0]), prior.kappa_w[1]),
            "rise": dist.HalfNormal(RISE),
            "power": dist.LogNormal(np.log(POWER[0]), POWER[1]),
        }
        return {name: numpyro.sample(name, distribution) for name, distribution in draw.items()}

    def curve(self, params: Params, data: TaskData) -> Array:
        """(arm, budget)"""
        log_budget = jnp.log(data.budgets)
        damage = params["delta_w"] * weight_bit_shape(jnp.asarray(data.weight_bits), params["kappa_w"])
        ceiling = params["theta0"] + params["alpha"] * jnp.asarray(data.log_size) - damage
        return ceiling[:, None] - params["rise"] * jnp.exp(-params["power"] * (log_budget - log_budget.mean()))


SURFACE = Plain()
