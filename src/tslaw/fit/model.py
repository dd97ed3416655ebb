"""Priors, and the NumPyro model that ties them to the surface and the likelihood.

Difficulties are centred on the population (`easiness` = theta0 - d_j) where the data bound them on both sides, and not
centred where every arm solves a problem, or none: there the prior decides, and its scale with it. The arms' misfits are
centred as far as the arms' own data speak. Lengths are summed out.

Thinking lengths are resolved only as finely as the budgets are spaced. A task whose lengths are nearly deterministic
would drive sigma_len to zero and the likelihood to a staircase; sigma_len is therefore bounded below by a quarter of
the smallest step between log budgets.
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
from tslaw.fit.lengths import length_grid, length_resolution, problem_log_likelihood, row_table

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
    "late_share",
    "late_delay",
    "rho",
    "sd_difficulty",
    "sd_length",
    "sd_misfit",
    "guess",
    "slip0",
    "slip1",
)
"""The parameters that are not tied to one problem or one arm."""


HALF_NORMAL_QUARTILE = 0.3186
KNOWN = 0.75
"""How far centred arms are, on average, where their data tell their abilities: see `arms_are_known`."""
FEW = 0.03
"""A problem solved less often than this, or missed less often, tells on one side only how difficult it is."""


@dataclass(frozen=True)
class Prior:
    """Scales of the priors, in the units of the surface (logits and log tokens).

    The defaults say (two standard deviations): a model e times larger gains 0 to 8 logits; 4-bit weights cost 0 to 3
    logits at the reference size; difficulties spread with a standard deviation of 0 to 10 logits, arms' misfits of 0 to
    1; lengths lie within a factor of about 20 of the budgets' middle; a tenth of the solutions come late, up to a
    third, about e times later.
    """

    theta0: float = 5.0
    alpha: float = 4.0
    delta_w: float = 1.5
    kappa_w: tuple[float, float] = (0.6, 0.5)
    gamma_w: float = 0.5
    mu0: float = 1.5
    mu1: float = 0.5
    mu2: float = 0.3
    sigma_len: tuple[float, float] = (0.5, 0.6)
    late_share: tuple[float, float] = (1.0, 9.0)
    late_delay: tuple[float, float] = (1.0, 0.3)
    rho: float = 0.3
    sd_difficulty: float = 5.0
    sd_length: float = 1.0
    sd_misfit: float = 0.5
    slip0: tuple[float, float] = (-3.0, 1.0)
    slip1: float = 0.5
    guess_weight: float = 200.0


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
        "late_share": dist.Beta(*prior.late_share),
        "late_delay": dist.LogNormal(np.log(prior.late_delay[0]), prior.late_delay[1]),
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


def informative(data: TaskData) -> np.ndarray:
    """Which problems are both solved and missed, so that data bound their difficulty on both sides: (problem,)."""
    share = data.solved_share()
    return (share > FEW) & (share < 1.0 - FEW)


def sample_difficulty(params: dict[str, Array], centred: np.ndarray, anchor: Array) -> Array:
    """Draw every problem's difficulty d_j, (problem,), centred where `centred` (problem,) says so.

    What many trajectories bound is how easy a problem is for the arms, so that is what is then sampled: the easiness
    for an arm of the mean ability `anchor` (without theta0). Were it theta0's alone, all problems and all arms would
    have to move together to trade theta0 for the arms' misfits, and a sampler takes hundreds of steps for that.
    """
    typical = params["theta0"] + anchor
    location = jnp.where(centred, typical, 0.0)
    scale = jnp.where(centred, params["sd_difficulty"], 1.0)
    easiness = numpyro.sample("easiness", dist.Normal(location, scale).to_event(1))
    return jnp.where(centred, typical - easiness, -params["sd_difficulty"] * easiness)


def centring(data: TaskData, prior: Prior) -> np.ndarray:
    """How far each arm's ability is to be centred on the population's: 0 where only the prior speaks, 1 where only the
    data do, (arm,).

    The share of the arm's information about its misfit that comes from its own trajectories, each problem's at its
    largest budget, when misfits spread as the prior's lower quartile says: too much centring costs divergences.
    """
    right, total = data.solved_counts()
    share = (right + 0.5) / (total + 1.0)
    information = (total * share * (1.0 - share)).sum(axis=1) * (HALF_NORMAL_QUARTILE * prior.sd_misfit) ** 2
    return information / (1.0 + information)


def relative_ability(params: dict[str, Array], data: TaskData) -> Array:
    """Every arm's ability without theta0 and without its misfit, (arm,)."""
    return surface.ability(params, jnp.asarray(data.log_size), jnp.asarray(data.weight_bits)) - params["theta0"]


def arms_are_known(data: TaskData, prior: Prior) -> bool:
    """Whether the arms' own data tell their abilities nearly by themselves.

    Then problems are anchored at the arms and the arms share the dense metric. With few trajectories an arm follows the
    population, the Laplace approximation says little of it, and short warm-ups with such a metric were seen to stick.
    """
    return bool(centring(data, prior).mean() > KNOWN)


def sample_misfit(params: dict[str, Array], data: TaskData, centred: np.ndarray) -> Array:
    """Draw every arm's misfit u_i, (arm,), partially centred (Papaspiliopoulos, Roberts & Skold 2007) by `centred`.

    Fully centred, arms with few trajectories make a funnel of sd_misfit; not centred, arms with many tie delta_w and
    alpha to every misfit.
    """
    expected = relative_ability(params, data)
    spread = params["sd_misfit"] ** centred
    ability = numpyro.sample("arm_ability", dist.Normal(centred * expected, spread).to_event(1))
    return params["sd_misfit"] ** (1.0 - centred) * (ability - centred * expected)


def task_model(data: TaskData, prior: Prior) -> None:
    """The model of one task: priors, surface, likelihood. The problems' lengths are summed out: see `lengths`."""
    params = sample_population(prior, data.budgets, data.chance)
    params["misfit"] = numpyro.deterministic("misfit", sample_misfit(params, data, centring(data, prior)))
    anchor = jnp.zeros(())
    if arms_are_known(data, prior):
        anchor = jnp.mean(relative_ability(params, data) + params["misfit"])
    params["difficulty"] = numpyro.deterministic("difficulty", sample_difficulty(params, informative(data), anchor))
    each = problem_log_likelihood(params, data, length_grid(data.budgets), row_table(data))
    numpyro.factor("trajectories", jnp.sum(each))


def state_table(params: dict[str, Array], data: TaskData) -> Array:
    """pi of every (arm, problem): shape (arm, problem, K + 1)."""
    x, bits = jnp.asarray(data.log_size), jnp.asarray(data.weight_bits)
    theta = surface.ability(params, x, bits) + params["misfit"]
    mean_log_length = surface.log_length(params, x, bits)[:, None] + surface.problem_length(params)[None, :]
    finished = surface.finished_by(params, jnp.log(data.budgets), mean_log_length[..., None])
    return lik.state_probabilities(surface.solve_probability(theta, params["difficulty"]), finished)


def cell_log_likelihood(params: dict[str, Array], data: TaskData) -> Array:
    """Log-likelihood of all trajectories of every arm on every problem, shape (arm, problem)."""
    slip = surface.slip_rate(params, jnp.asarray(data.log_size))
    probes = lik.probe_probabilities(lik.pattern_table(data.patterns), params["guess"], slip[:, None])
    each = lik.pattern_log_likelihood(state_table(params, data), probes)
    return jnp.sum(each * data.pattern_counts(), axis=-1)
