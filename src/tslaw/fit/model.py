"""Priors, and the NumPyro model that ties them to the surface and the likelihood.

Difficulties are centred (sampled as what the data see, `easiness` = theta0 - d_j) where the data bound them on both
sides, and not centred (sampled in units of their spread) where the prior decides, and its scale with it. Models'
misfits and effects on single problems are centred as far as their own data speak: a model's effect as the logit of
solving a problem at native precision, quantization's as that at 4 bits. Lengths are summed out.

Thinking lengths are resolved only as finely as the budgets are spaced. A task whose lengths are nearly deterministic
would drive sigma_len to zero and the likelihood to a staircase; sigma_len is therefore bounded below by a quarter of
the smallest step between log budgets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from scipy.special import expit

from tslaw.fit import cache_arms, surface
from tslaw.fit import likelihood as lik
from tslaw.fit.cache_prior import CachePrior, sample_cache_parameters
from tslaw.fit.centred import sample_centred
from tslaw.fit.data import TaskData
from tslaw.fit.lengths import (
    arm_ability,
    arm_traits,
    length_grid,
    length_resolution,
    problem_log_likelihood,
    row_table,
)

if TYPE_CHECKING:
    from tslaw.fit.borrow import Borrowed

POPULATION = (
    "theta0",
    "alpha",
    "bend",
    "delta_w",
    "kappa_w",
    "gamma_w",
    "mu0",
    "mu1",
    "mu2",
    "sigma_len",
    "late0",
    "late1",
    "late2",
    "late3",
    "late_delay",
    "rho",
    "sd_difficulty",
    "sd_length",
    "sd_misfit",
    "sd_misfit_w",
    "sd_effect",
    "sd_effect_w",
    "sd_mu",
    "sd_late",
    "sd_relapse",
    "sd_slip",
    "own_length_share",
    "own_length_spread",
    "guess",
    "slip0",
    "slip1",
    "relapse0",
    "relapse1",
    "relapse2",
    "relapse_power",
    "kept",
)
"""The parameters that are not tied to one problem or one arm, in the units of the surface."""

RELATIVE = ("theta0", "alpha", "delta_w", "sd_misfit", "sd_misfit_w", "sd_effect", "sd_effect_w")
"""What is sampled as a multiple of `logit_unit`, under these names and `OF_UNIT`."""
OF_UNIT = "_rel"
SAMPLED = tuple(
    "sigma_len_excess" if name == "sigma_len" else name + OF_UNIT if name in RELATIVE else name for name in POPULATION
)
"""The sites that the population's parameters are sampled as."""
LOGISTIC_SD = 1.814
"""The standard deviation of the logistic distribution, pi / sqrt(3)."""

QUARTILE = -0.6745
"""The lower one of a standard normal."""
VARIANCES = (0.02, 25.0)
"""The least and the largest variance of effects that is taken to be typical."""
WELL_ABOVE, LOW_BITS = 8.0, 5.0
"""Bits a weight that say what a model does at native precision, and below which they say what quantization costs."""
CENTRED_TRAITS = {"model_mu": 0.9, "model_late": 0.6, "model_relapse": 0.4, "model_slip": 0.6}
"""How far traits are centred: lengths are plain in any data, relapses in few."""
FEW = 0.03
"""A problem solved less often than this, or missed less often, tells on one side only how difficult it is."""


@dataclass(frozen=True)
class Prior:
    """Scales of the priors, in the units of the surface (log tokens, logits) and, for abilities, in units of how widely
    problems differ (`logit_unit`).

    How far apart problems lie in logits is hardly known where most are solved always or never; what a model's size
    does to its accuracy is known all the same. Priors in logits would tie the two, and flatten the trend in size.

    The defaults say (two standard deviations): an average problem is solved by 2 to 98% of models of the reference
    size; a model e times larger gains 0 to 1.6 units (1 unit: from 50% of the problems to 84%), up to 1.2 times more,
    or less, with every factor of e in size; 4-bit weights cost 0 to 0.8 units at the reference size; difficulties
    spread with a standard deviation of 1 to 20 logits, models' misfits of 0.02 to 0.25 units, those of their
    quantization of 0.01 to 0.16, their lengths of 0.02 to 0.4 log tokens, their late shares, relapse rates and slips
    of 0.07 to 1.2 logits or logs (never of zero: no two models lie on one line, and chains would get stuck on the way
    there), a model's effects on single problems, and those of its quantization, of 0 to 1.2 units; lengths lie within
    a factor of about 20 of the budgets' middle, and a fifth of an arm's are its own, up to half; a tenth of the
    solutions come late, up to a half, about e times later, more of them or fewer where problems are long, models small
    or bits few; what was solved relapses within 20 typical lengths, give or take a factor of 20, and a quarter of it
    stays, up to two thirds.
    """

    theta0: float = 1.0
    alpha: float = 0.8
    bend: float = 0.1
    delta_w: float = 0.4
    kappa_w: tuple[float, float] = (0.6, 0.5)
    gamma_w: float = 0.5
    mu0: float = 1.5
    mu1: float = 0.5
    mu2: float = 0.3
    sigma_len: tuple[float, float] = (0.5, 0.6)
    late0: tuple[float, float] = (-2.2, 1.0)
    late1: float = 0.5
    late2: float = 0.5
    late3: float = 0.5
    late_delay: tuple[float, float] = (1.0, 0.3)
    rho: float = 0.3
    sd_difficulty: tuple[float, float] = (4.0, 0.8)
    sd_length: float = 1.0
    sd_misfit: tuple[float, float] = (0.06, 0.7)
    sd_misfit_w: tuple[float, float] = (0.04, 0.7)
    sd_effect: float = 0.6
    sd_effect_w: float = 0.6
    sd_mu: tuple[float, float] = (0.1, 0.7)
    sd_late: tuple[float, float] = (0.3, 0.7)
    sd_relapse: tuple[float, float] = (0.3, 0.7)
    sd_slip: tuple[float, float] = (0.3, 0.7)
    own_length_share: tuple[float, float] = (1.0, 4.0)
    own_length_spread: tuple[float, float] = (0.5, 0.5)
    slip0: tuple[float, float] = (-3.0, 1.0)
    slip1: float = 0.5
    relapse0: tuple[float, float] = (-3.0, 1.5)
    relapse1: float = 0.5
    relapse2: float = 0.5
    relapse_power: tuple[float, float] = (0.7, 0.5)
    kept: tuple[float, float] = (1.0, 3.0)
    guess_weight: float = 200.0
    cache: CachePrior = field(default_factory=CachePrior)
    borrowed: Mapping[str, Borrowed] = field(default_factory=dict)
    """Distributions by name that replace these: see `borrow`."""


def sample_population(prior: Prior, budgets: np.ndarray, chance: float) -> dict[str, Array]:
    """Draw the population parameters from the prior (inside a NumPyro model); `budgets` (budget,) in tokens."""
    mean_log_budget = float(np.log(budgets).mean())
    draw = relative_priors(prior) | {
        "bend": dist.Normal(0.0, prior.bend),
        "kappa_w": _log_normal(prior.kappa_w),
        "gamma_w": dist.Normal(0.0, prior.gamma_w),
        "mu0": dist.Normal(mean_log_budget, prior.mu0),
        "mu1": dist.Normal(0.0, prior.mu1),
        "mu2": dist.Normal(0.0, prior.mu2),
        "sigma_len_excess": _log_normal(prior.sigma_len),
        "late0": dist.Normal(*prior.late0),
        "late1": dist.Normal(0.0, prior.late1),
        "late2": dist.Normal(0.0, prior.late2),
        "late3": dist.Normal(0.0, prior.late3),
        "late_delay": _log_normal(prior.late_delay),
        "rho": dist.Normal(0.0, prior.rho),
        "sd_difficulty": _log_normal(prior.sd_difficulty),
        "sd_length": dist.HalfNormal(prior.sd_length),
        "own_length_share": dist.Beta(*prior.own_length_share),
        "own_length_spread": _log_normal(prior.own_length_spread),
        # Centred on the task's chance rate but free to find guessing that is better or worse than uniform.
        "guess": dist.Beta(1.0 + prior.guess_weight * chance, 9.0 + prior.guess_weight * (1.0 - chance)),
        "slip0": dist.Normal(*prior.slip0),
        "slip1": dist.Normal(0.0, prior.slip1),
        "relapse0": dist.Normal(*prior.relapse0),
        "relapse1": dist.Normal(0.0, prior.relapse1),
        "relapse2": dist.Normal(0.0, prior.relapse2),
        "relapse_power": _log_normal(prior.relapse_power),
        "kept": dist.Beta(*prior.kept),
    }
    draw |= {name: _log_normal(getattr(prior, name)) for name in surface.TRAITS.values()}
    draw |= {name: of.distribution() for name, of in prior.borrowed.items() if name in draw}
    params = in_logits({name: numpyro.sample(name, distribution) for name, distribution in draw.items()})
    excess = params.pop("sigma_len_excess")
    params["sigma_len"] = numpyro.deterministic("sigma_len", jnp.hypot(excess, length_resolution(budgets)))
    return params


def relative_priors(prior: Prior) -> dict[str, dist.Distribution]:
    """The priors of what is sampled in units of how widely problems differ, by the names of their sites."""
    draw = {
        "theta0": dist.Normal(0.0, prior.theta0),
        "alpha": dist.HalfNormal(prior.alpha),
        "delta_w": dist.HalfNormal(prior.delta_w),
        "sd_misfit": _log_normal(prior.sd_misfit),
        "sd_misfit_w": _log_normal(prior.sd_misfit_w),
        "sd_effect": dist.HalfNormal(prior.sd_effect),
        "sd_effect_w": dist.HalfNormal(prior.sd_effect_w),
    }
    return {name + OF_UNIT: distribution for name, distribution in draw.items()}


def logit_unit(sd_difficulty: Any) -> Any:
    """How many logits make a unit of ability: the standard deviation over problems, and over one answer's chance."""
    return (sd_difficulty**2 + LOGISTIC_SD**2) ** 0.5


def in_logits(params: dict[str, Array]) -> dict[str, Array]:
    """The same parameters, the relative ones of them in logits, under their own names, as deterministic sites."""
    found, unit = dict(params), logit_unit(params["sd_difficulty"])
    for name in RELATIVE:
        if name + OF_UNIT in found:
            found[name] = numpyro.deterministic(name, found.pop(name + OF_UNIT) * unit)
    return found


def _log_normal(median_and_spread: tuple[float, float]) -> dist.Distribution:
    median, spread = median_and_spread
    return dist.LogNormal(np.log(median), spread)


def informative(data: TaskData) -> np.ndarray:
    """Which problems are both solved and missed, so that data bound their difficulty on both sides: (problem,)."""
    share = data.solved_share()
    return (share > FEW) & (share < 1.0 - FEW)


def sample_difficulty(params: dict[str, Array], centred: np.ndarray) -> Array:
    """Draw every problem's difficulty d_j, (problem,), centred where `centred` (problem,) says so.

    What many trajectories bound is how easy a problem is, so that is what is then sampled.
    """
    location = jnp.where(centred, params["theta0"], 0.0)
    scale = jnp.where(centred, params["sd_difficulty"], 1.0)
    easiness = numpyro.sample("easiness", dist.Normal(location, scale).to_event(1))
    return jnp.where(centred, params["theta0"] - easiness, -params["sd_difficulty"] * easiness)


class Group(NamedTuple):
    """What some arms of every model say of its effects.

    model : (arm,) the model of every arm. misfit : (model,) and effect : (model, problem) how far its misfit and its
    effects are centred. logit : (model, problem) of what was seen at the largest budgets.
    """

    model: np.ndarray
    misfit: np.ndarray
    effect: np.ndarray
    logit: np.ndarray


class _Seen(NamedTuple):
    """Logits at the largest budgets, shrunk to be finite, and their information; and the information on both sides,
    which is none where all trajectories did the same: (model, problem) each.

    A solution that was lost again, or that may come `late`, bounds the chance to solve on one side only: in the shipped
    knowledge fit most of the problems that a model gets right nine times in ten may be solved always, for all that is
    known. Taken to be bounded, they tied all logits to the scale that they have in common, along which chains then
    moved slowly.
    """

    logit: np.ndarray
    information: np.ndarray
    two_sided: np.ndarray


def groups(data: TaskData, prior: Prior) -> tuple[Group, Group]:
    """What the arms nearest to native precision say of each model, and what the most quantized ones say besides."""
    model = data.model_index()
    top = np.array([data.weight_bits[model == m].max() for m in range(model.max() + 1)])[model]
    full = data.full_cache()
    late = float(expit(prior.late0[0]))
    native = _seen(data, model, full & (data.weight_bits >= np.minimum(top, WELL_ABOVE)), late)
    low = _seen(data, model, full & (data.weight_bits < LOW_BITS), late)
    additive = native.logit.mean(axis=1, keepdims=True) + native.logit.mean(axis=0) - native.logit.mean()
    own = _typical_variance(native.logit - additive, 1.0 / native.information)
    lost = low.logit - native.logit
    lost = _typical_variance(lost - lost.mean(axis=1, keepdims=True), 1.0 / low.information + 1.0 / native.information)
    unit = float(logit_unit(prior.sd_difficulty[0]))
    return _group(model, native, own, prior.sd_misfit, unit), _group(model, low, lost, prior.sd_misfit_w, unit)


def _seen(data: TaskData, model: np.ndarray, member: np.ndarray, late: float) -> _Seen:
    counts, models = (*data.solved_counts(), data.never_solved()), range(int(model.max()) + 1)
    right, total, never = (np.stack([c[member & (model == m)].sum(axis=0) for m in models]) for c in counts)
    share = (right + 0.5) / (total + 1.0)
    unsolvable = np.maximum(never - late * total, 0.0)
    two_sided = right * unsolvable / np.maximum(right + unsolvable, 1.0)
    return _Seen(np.log(share / (1.0 - share)), (total + 1.0) * share * (1.0 - share), two_sided)


def _typical_variance(residuals: np.ndarray, noise: np.ndarray) -> float:
    """Of effects whose noisy residuals were seen: a rough guess that decides how they are sampled, nothing else."""
    return float(np.clip(np.mean(residuals**2 - noise), *VARIANCES))


def _group(model: np.ndarray, seen: _Seen, variance: float, sd_misfit: tuple[float, float], unit: float) -> Group:
    effect = seen.two_sided * variance / (1.0 + seen.two_sided * variance)
    of_model = (effect / variance).sum(axis=1) * (unit * sd_misfit[0] * np.exp(QUARTILE * sd_misfit[1])) ** 2
    return Group(model, of_model / (1.0 + of_model), effect, seen.logit)


def sample_traits(params: dict[str, Array], x: Array) -> dict[str, Array]:
    """Draw what models of log sizes `x` (model,) have of their own, (model,) each, centred on the trends.

    Lengths are relative to the models' mean. Were they not, all models thinking longer and all problems being shorter
    would be one and the same but for the grid of the problems' lengths, between whose nodes chains moved slowly.
    """
    slopes = zip(surface.TRAITS.items(), ("mu1", "late2", "relapse1", "slip1"), strict=True)
    found = {}
    for (name, spread), slope in slopes:
        centred = np.full(len(x), CENTRED_TRAITS[name])
        own = sample_centred(f"{name}_level", params[slope] * x, params[spread], centred)
        found[name] = numpyro.deterministic(name, own - own.mean() if name == "model_mu" else own)
    return found


def sample_parameters(data: TaskData, prior: Prior) -> dict[str, Array]:
    """Everything that is sampled, drawn from its prior (inside a NumPyro model), as `problem_log_likelihood` asks."""
    params = sample_population(prior, data.budgets, data.chance)
    native, low = groups(data, prior)
    x = jnp.asarray(data.model_log_size())
    params |= sample_traits(params, x)
    quantized = surface.weight_bit_shape(jnp.asarray(data.weight_bits), params["kappa_w"])
    rise = surface.rise(params, x)
    loss = params["delta_w"] * jnp.exp(-params["gamma_w"] * x)
    u = sample_centred("model_ability", rise, params["sd_misfit"], native.misfit)
    v = sample_centred("quantized_ability", -loss, params["sd_misfit_w"], low.misfit)
    params["misfit"] = numpyro.deterministic("misfit", u[native.model] + quantized * v[native.model])
    difficulty = numpyro.deterministic("difficulty", sample_difficulty(params, informative(data)))
    params["difficulty"] = difficulty
    at_native = (params["theta0"] + rise + u)[:, None] - difficulty
    own = numpyro.deterministic("model_effect", sample_centred("logit", at_native, params["sd_effect"], native.effect))
    at_low = at_native + own + (v - loss)[:, None]
    own_w = sample_centred("quantized_logit", at_low, params["sd_effect_w"], low.effect)
    own_w = numpyro.deterministic("quantization_effect", own_w)
    params["effect"] = surface.own_effect(own, own_w, quantized, native.model)
    return params | sample_cache_parameters(prior.cache, data, prior.borrowed)


def task_model(data: TaskData, prior: Prior) -> None:
    """The model of one task: priors, surface, likelihood. The problems' lengths are summed out: see `lengths`."""
    params = sample_parameters(data, prior)
    each = problem_log_likelihood(params, data, length_grid(data.budgets), row_table(data))
    numpyro.factor("trajectories", jnp.sum(each))


def state_table(params: dict[str, Array], data: TaskData) -> Array:
    """pi of every (arm, problem): shape (arm, problem, K + 1). `params` holds every effect and every length."""
    x, bits = jnp.asarray(data.log_size), jnp.asarray(data.weight_bits)
    theta = arm_ability(params, data)
    longer = surface.problem_length(params)[None, :] + params["own_length"]
    traits = arm_traits(params, data)
    mean_log_length = surface.log_length(params, x, bits, traits.mu)[:, None] + longer
    late = surface.late_share(params, longer, x[:, None], bits[:, None], jnp.asarray(traits.late)[:, None])
    finished = cache_arms.finished(params, data, mean_log_length, late)
    quantized = surface.weight_bit_shape(bits, params["kappa_w"])
    effect = surface.own_effect(params["model_effect"], params["quantization_effect"], quantized, data.model_index())
    return lik.state_probabilities(surface.solve_probability(theta, params["difficulty"], effect), finished)
