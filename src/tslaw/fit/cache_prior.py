"""Priors of what compressed KV caches cost. Their sites are sampled only where the data hold compressed caches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

from tslaw.fit.cache_terms import EVICTOR_TERMS, ROUNDING, evicts, site_names
from tslaw.fit.centred import sample_centred
from tslaw.fit.data import TaskData

if TYPE_CHECKING:
    from tslaw.fit.borrow import Borrowed

LEVEL, OWN_LEVEL, CUT_LEVEL = "kv_level", "kv_own_level", "kv_cut_level"
"""The sampled sites behind `kv_misfit` (the logs of the scales), `kv_own` and `kv_cut`."""
CACHE_SCALES = {"sd_kv": 0.3, "sd_kv_own": 0.3, "sd_kv_cut": 0.7}
"""Where the MAP start holds the standard deviations of the misfits."""
START = {
    "delta_kv": 0.5,
    "kappa_kv": 1.0,
    "gamma_kv": 0.0,
    "loss_kv": -2.0,
    "gamma_evict": 0.0,
    "reach": 0.0,
    "found": 0.5,
    "loss": -1.0,
    "power": 0.7,
    "onset": 0.0,
    "worth": 1.0,
}
"""Where the MAP begins; an evictor's terms under their first names."""
CENTRED = 0.7
"""How far the levels are centred on the trend: few cells, of which the data say much."""
HARDLY_ROUNDED = 4.0
"""Bits at which rounding costs so little that data say nothing of what one cache's costs are: not centred then."""
TYPICAL_SLIP = 0.05
"""By which it is guessed how far the data bound a slip: decides how it is sampled, nothing else."""


@dataclass(frozen=True)
class CachePrior:
    """Scales of the priors, in the units of the surface.

    The defaults say (two standard deviations): 2-bit caches cost 0 to 4 logits at the reference size, 4-bit ones an
    eighth of that (less than a half), and lose a solution within 7 typical lengths, give or take a factor of 20; an
    evictor that keeps r tokens finds a solution of 2 r tokens as often as not, or never, or always, and loses half of
    what was solved by 2 to 8 r, give or take a factor of 20; of a typical length kept, r is that, give or take a factor
    of e, and half of that of .28 to .68 as much kept; an e times larger model suffers up to e times as much or as
    little, and its r is up to 1.8 times as large or as small; what models suffer differs by factors of 1.07 to 3.3, and
    so does r from cache to cache; the odds of a slip differ by factors of 1.1 to 7.6 with where a budget cuts.
    """

    delta_kv: float = 2.0
    kappa_kv: tuple[float, float] = (1.0, 0.5)
    gamma_kv: float = 0.5
    loss_kv: tuple[float, float] = (-2.0, 1.5)
    found: float = 1.0
    loss: tuple[float, float] = (-1.0, 1.5)
    gamma_evict: float = 0.5
    reach: float = 0.3
    power: tuple[float, float] = (0.7, 0.5)
    onset: float = 0.5
    worth: tuple[float, float] = (1.0, 0.3)
    sd_kv: tuple[float, float] = (0.3, 0.7)
    sd_kv_own: tuple[float, float] = (0.3, 0.7)
    sd_kv_cut: tuple[float, float] = (0.5, 0.7)


def prior_of(prior: CachePrior, name: str) -> dist.Distribution:
    """The prior of one scalar parameter."""
    field = general_name(name)
    scale: Any = getattr(prior, field)
    if field in ("delta_kv", "found"):
        return dist.HalfNormal(scale)
    if field in ("kappa_kv", "power", "worth", "sd_kv", "sd_kv_own", "sd_kv_cut"):
        return dist.LogNormal(np.log(scale[0]), scale[1])
    return dist.Normal(*(scale if isinstance(scale, tuple) else (0.0, scale)))


def general_name(name: str) -> str:
    """A parameter's name without the evictor that it belongs to."""
    term, _, evictor = name.partition("_")
    return term if term in EVICTOR_TERMS and evictor != "kv" else name


def cache_sites(data: TaskData) -> tuple[str, ...]:
    """All sampled sites that these data add to the surface; none where every cache is full."""
    names = site_names(data.cache_kinds)
    return (*names, LEVEL, OWN_LEVEL, *((CUT_LEVEL,) if cuts(data).any() else ())) if names else ()


def cache_priors(prior: CachePrior, kinds: Sequence[str]) -> dict[str, dist.Distribution]:
    """The priors of all scalars that a surface with these kinds of compression adds, by the names of their sites."""
    return {name: prior_of(prior, name) for name in site_names(kinds)}


def sample_cache_parameters(prior: CachePrior, data: TaskData, borrowed: Mapping[str, Borrowed]) -> dict[str, Array]:
    """Draw what `cache_arms` needs from the prior (inside a NumPyro model): the scalars, those `borrowed` from what an
    earlier fit says, `kv_misfit` (model, kind), `kv_own` (arm,), 0 for full caches, and `kv_cut` (arm, budget), 0 where
    nothing was evicted yet. Empty where every cache is full."""
    draw = cache_priors(prior, data.cache_kinds)
    if not draw:
        return {}
    draw |= {name: of.distribution() for name, of in borrowed.items() if name in draw}
    params = {name: numpyro.sample(name, distribution) for name, distribution in draw.items()}
    x = jnp.asarray(data.model_log_size())
    slopes = [params["gamma_kv" if kind == ROUNDING else "gamma_evict"] for kind in data.cache_kinds]
    trend = -x[:, None] * jnp.stack(slopes)
    misfit = sample_centred(LEVEL, trend, params["sd_kv"], np.full(trend.shape, CENTRED))
    own = _sample_own(data, params["sd_kv_own"])
    return params | {
        "kv_misfit": numpyro.deterministic("kv_misfit", misfit),
        "kv_own": numpyro.deterministic("kv_own", own),
        "kv_cut": numpyro.deterministic("kv_cut", _sample_cuts(data, params.get("sd_kv_cut", jnp.ones(())))),
    }


def _sample_own(data: TaskData, spread: Array) -> Array:
    """Draw what is every compressed cache's own with its model: (arm,), 0 for full ones."""
    arm = np.flatnonzero(~data.full_cache())
    plain = [data.kv_policies[i].evictor is None and data.kv_policies[i].bits >= HARDLY_ROUNDED for i in arm]
    own = sample_centred(OWN_LEVEL, jnp.zeros(len(arm)), spread, np.where(plain, 0.0, CENTRED))
    return jnp.zeros(len(data.arms)).at[arm].set(own)


def cuts(data: TaskData) -> np.ndarray:
    """At which budgets of which arms something was evicted: (arm, budget)."""
    return np.array([[evicts(policy, budget) for budget in data.budgets] for policy in data.kv_policies])


def _sample_cuts(data: TaskData, spread: Array) -> Array:
    """Draw what every budget adds to the logit of the slip rate of the arms it cuts, (arm, budget); centred as far as
    so many right answers bound a slip."""
    at = cuts(data)
    if not at.any():
        return jnp.zeros(at.shape)
    accuracy, probes = data.accuracy()
    information = (TYPICAL_SLIP * np.nan_to_num(accuracy) * probes * CACHE_SCALES["sd_kv_cut"] ** 2)[at]
    drawn = sample_centred(CUT_LEVEL, jnp.zeros(at.sum()), spread, information / (1.0 + information))
    return jnp.zeros(at.shape).at[at].set(drawn)


def cache_start(data: TaskData) -> dict[str, Any]:
    """Where the MAP begins: every sampled site that these data add."""
    names = site_names(data.cache_kinds)
    if not names:
        return {}
    scalars = START | CACHE_SCALES
    start: dict[str, Any] = {name: scalars[general_name(name)] for name in names}
    shapes = {
        LEVEL: (len(data.shapes), len(data.cache_kinds)),
        OWN_LEVEL: (int((~data.full_cache()).sum()),),
        CUT_LEVEL: (int(cuts(data).sum()),),
    }
    return start | {name: np.zeros(shapes[name]) for name in cache_sites(data) if name in shapes}
