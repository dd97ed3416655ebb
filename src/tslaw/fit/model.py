"""Priors, and the NumPyro model that ties them to the surface and the likelihood.

Problem effects are centred on the population's location (`easiness` = theta0 - d_j, `log_length_j` = mu0 + rho d_j +
ell_j). On the ladder, where
problems that every arm solves, or none, leave their difficulty open on one side, a zero-sum parametrisation of d_j
and ell_j needed as many steps but left theta0 and mu0
with R-hat of 1.1 and more; this one brings both below 1.01. The arms' misfits are few and weakly informed, hence not
centred.

Thinking lengths are resolved only as finely as the budgets are spaced. A task whose lengths are nearly deterministic
would drive sigma_len to zero and the likelihood to
a staircase; sigma_len is therefore bounded below by a quarter of the smallest step between log budgets.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

from tslaw.fit import likelihood as lik
from tslaw.fit import surface
from tslaw.fit.data import TaskData

POPULATION = (
    "theta0",
    "alpha",
    "delta_w",
    "kappa_w",
    "gamma_w",
    "mu0",
    "mu1",
    "mu2",
    "sigma_len",
    "rho",
    "sd_difficulty",
    "sd_length",
    "sd_misfit",
    "guess",
    "slip0",
    "slip1",
)
"""The parameters that are not tied to one problem or one arm."""


@dataclass(frozen=True)
class Prior:
    """Scales of the priors, in the units of the surface (logits and log tokens).

    The defaults say: a model e times larger gains 0 to 5 logits; 4-bit weights cost 0 to 3 logits at the
    reference size; a
    problem's difficulty spreads over 0 to 5 logits; lengths lie within a factor of about 20 of the budgets' middle.
    """

    theta0: float = 3.0
    alpha: float = 2.5
    delta_w: float = 1.5
    kappa_w: tuple[float, float] = (0.6, 0.5)
    gamma_w: float = 0.5
    mu0: float = 1.5
    mu1: float = 0.5
    mu2: float = 0.3
    sigma_len: tuple[float, float] = (0.5, 0.6)
    rho: float = 0.3
    sd_difficulty: float = 2.5
    sd_length: float = 1.0
    sd_misfit: float = 0.3
    slip0: tuple[float, float] = (-3.0, 1.0)
    slip1: float = 0.5
    guess_weight: float = 200.0


def length_resolution(budgets: np.ndarray) -> float:
    """The smallest sigma_len the budgets (budget,) can resolve, in log tokens."""
    return 0.25 * float(np.diff(np.log(budgets)).min()) if len(budgets) > 1 else 0.1


def sample_population(prior: Prior, budgets: np.ndarray, chance: float) -> dict[str, Array]:
    """Draw the population parameters from the prior (inside a NumPyro model); `budgets` (budget,) in tokens."""
    mean_log_budget = float(np.log(budgets).mean())
    draw = {
        "theta0": dist.Normal(0.0, prior.theta0),
        "alpha": dist.HalfNormal(prior.alpha),
        "delta_w": dist.HalfNormal(prior.delta_w),
        "kappa_w": dist.LogNormal(np.log(prior.kappa_w[0]), prior.kappa_w[1]),
        "gamma_w": dist.Normal(0.0, prior.gamma_w),
        "mu0": dist.Normal(mean_log_budget, prior.mu0),
        "mu1": dist.Normal(0.0, prior.mu1),
        "mu2": dist.Normal(0.0, prior.mu2),
        "sigma_len_excess": dist.LogNormal(np.log(prior.sigma_len[0]), prior.sigma_len[1]),
        "rho": dist.Normal(0.0, prior.rho),
        "sd_difficulty": dist.HalfNormal(prior.sd_difficulty),
        "sd_length": dist.HalfNormal(prior.sd_length),
        "sd_misfit": dist.HalfNormal(prior.sd_misfit),
        # Centred on the task's chance rate but free to find guessing that is better or worse than uniform.
        "guess": dist.Beta(1.0 + prior.guess_weight * chance, 9.0 + prior.guess_weight * (1.0 - chance)),
        "slip0": dist.Normal(*prior.slip0),
        "slip1": dist.Normal(0.0, prior.slip1),
    }
    params = {name: numpyro.sample(name, distribution) for name, distribution in draw.items()}
    excess = params.pop("sigma_len_excess")
    params["sigma_len"] = numpyro.deterministic("sigma_len", jnp.hypot(excess, length_resolution(budgets)))
    return params


def sample_problems(params: dict[str, Array], n_problems: int) -> dict[str, Array]:
    """Draw every problem's difficulty d_j and length residual ell_j, both (problem,)."""
    easiness = numpyro.sample(
        "easiness", dist.Normal(params["theta0"], params["sd_difficulty"]).expand([n_problems]).to_event(1)
    )
    difficulty = params["theta0"] - easiness
    expected = params["mu0"] + params["rho"] * difficulty
    log_length_j = numpyro.sample("log_length_j", dist.Normal(expected, params["sd_length"]).to_event(1))
    return {
        "difficulty": numpyro.deterministic("difficulty", difficulty),
        "length": numpyro.deterministic("length", log_length_j - expected),
    }


def task_model(data: TaskData, prior: Prior) -> None:
    """The model of one task: priors, surface, likelihood."""
    params = sample_population(prior, data.budgets, data.chance)
    params |= sample_problems(params, len(data.problems))
    standard = numpyro.sample("misfit_standard", dist.Normal(0.0, 1.0).expand([len(data.arms)]).to_event(1))
    params["misfit"] = numpyro.deterministic("misfit", params["sd_misfit"] * standard)
    numpyro.factor("trajectories", jnp.sum(cell_log_likelihood(params, data)))


def state_table(params: dict[str, Array], data: TaskData) -> Array:
    """pi of every (arm, problem): shape (arm, problem, K + 1)."""
    x, bits = jnp.asarray(data.log_size), jnp.asarray(data.weight_bits)
    theta = surface.ability(params, x, bits) + params["misfit"]
    mean_log_length = surface.log_length(params, x, bits)[:, None] + surface.problem_length(params)[None, :]
    finished = surface.finished_by(jnp.log(data.budgets), mean_log_length[..., None], params["sigma_len"])
    return lik.state_probabilities(surface.solve_probability(theta, params["difficulty"]), finished)


def cell_log_likelihood(params: dict[str, Array], data: TaskData) -> Array:
    """Log-likelihood of all trajectories of every arm on every problem, shape (arm, problem)."""
    slip = surface.slip_rate(params, jnp.asarray(data.log_size))
    probes = lik.probe_probabilities(lik.pattern_table(data.patterns), params["guess"], slip)
    each = lik.pattern_log_likelihood(state_table(params, data), probes)
    return jnp.sum(each * data.pattern_counts(), axis=-1)
