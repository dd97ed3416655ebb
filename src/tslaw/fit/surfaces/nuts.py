"""NUTS for any NumPyro model of a task. The mechanistic surface has a start and a metric of its own (`fit.infer`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import MCMC, NUTS, init_to_median
from numpyro.infer.util import constrain_fn, potential_energy

from tslaw.errors import TslawError
from tslaw.fit.data import TaskData
from tslaw.fit.infer import Draws, Sampling

SCATTER = 0.2
"""Chains start this far (unconstrained, standard deviation) from the common start, so that R-hat can see them disagree."""
STATISTICS = {
    "diverging": "diverging",
    "accept_prob": "acceptance_rate",
    "num_steps": "n_steps",
    "energy": "energy",
    "potential_energy": "lp",
}
"""NumPyro's names and ArviZ's."""


class NutsSurface:
    """Sampling for surfaces that say what their `model` is, and perhaps where chains should `start`.

    `auxiliary` sites are sampled but not kept: what they say is said again by deterministic ones.
    """

    auxiliary: tuple[str, ...] = ()

    def model(self, data: TaskData) -> None:
        """The NumPyro model of one task."""
        raise NotImplementedError

    def start(self, data: TaskData) -> Mapping[str, Any]:
        """Values of sampled sites to start from; sites that are left out start at their prior's median."""
        return {}

    def sample(self, data: TaskData, sampling: Sampling) -> Draws:
        """Posterior draws by NUTS."""
        return run_nuts(self.model, data, sampling, self.start(data), self.auxiliary)


def run_nuts(
    model: Callable[[TaskData], None],
    data: TaskData,
    sampling: Sampling,
    start: Mapping[str, Any],
    auxiliary: tuple[str, ...] = (),
) -> Draws:
    """Draw from `model`'s posterior, with a dense metric for all scalars together and a diagonal one for the rest.

    Raises
    ------
    TslawError : the model's density is not finite where the chains start.
    """
    started = time.perf_counter()
    first, second = jax.random.split(jax.random.PRNGKey(sampling.seed))
    here = unconstrained_start(model, data, start, first)
    scalars = tuple(sorted(name for name, value in here.items() if jnp.size(value) == 1))
    # NUTS is given the density, not the model: it would run the model outside of any compilation, which takes longer
    # than everything else for small data.
    mcmc = MCMC(
        NUTS(
            potential_fn=lambda z: potential_energy(model, (data,), {}, z),
            target_accept_prob=sampling.target_accept,
            dense_mass=[scalars] if scalars else False,
        ),
        num_warmup=sampling.warmup,
        num_samples=sampling.samples,
        num_chains=sampling.chains,
        chain_method="parallel" if jax.local_device_count() >= sampling.chains > 1 else "sequential",
        progress_bar=sampling.progress,
    )
    starts = scattered(here, sampling.chains, sampling.seed + 1)
    if sampling.chains == 1:
        starts = {name: values[0] for name, values in starts.items()}
    mcmc.run(second, init_params=starts, extra_fields=tuple(STATISTICS))
    draws = mcmc.get_samples(group_by_chain=True)
    samples = jax.jit(lambda z: constrain_fn(model, (data,), {}, z, return_deterministic=True, batch_ndims=2))(draws)
    posterior = {name: np.asarray(values) for name, values in samples.items() if name not in auxiliary}
    extra = {STATISTICS[k]: np.asarray(v) for k, v in mcmc.get_extra_fields(group_by_chain=True).items()}
    return Draws(posterior, extra | {"lp": -extra["lp"]}, time.perf_counter() - started)


def scattered(here: Mapping[str, Any], chains: int, seed: int) -> dict[str, jax.Array]:
    """Unconstrained starts of the chains, (chain, ...) each, scattered around one."""
    rng = np.random.default_rng(seed)
    return {n: jnp.asarray(v + SCATTER * rng.standard_normal((chains, *jnp.shape(v)))) for n, v in here.items()}


def unconstrained_start(
    model: Callable[[TaskData], None], data: TaskData, start: Mapping[str, Any], key: jax.Array
) -> dict[str, jax.Array]:
    """Every sampled site on the whole real line: the values given by `start`, or else the priors' medians.

    Raises
    ------
    TslawError : the model's density is not finite there.
    """
    given = {name: jnp.asarray(value, float) for name, value in start.items()}

    def value_of(site: dict[str, Any]) -> Any:
        if site["type"] != "sample" or site["is_observed"]:
            return None
        return given[site["name"]] if site["name"] in given else init_to_median(site)

    def begin(key: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        sites = trace(substitute(seed(model, key), substitute_fn=value_of)).get_trace(data)
        free = {n: s for n, s in sites.items() if s["type"] == "sample" and not s["is_observed"]}
        here = {n: biject_to(s["fn"].support).inv(s["value"]) for n, s in free.items()}
        return here, potential_energy(model, (data,), {}, here)

    here, energy = jax.jit(begin)(key)
    if not np.isfinite(float(energy)):
        raise TslawError(
            "The density of this surface's model is not finite where its chains start.",
            where=f"task {data.task}",
            fix="give start() values inside every prior, at which every probability lies strictly between 0 and 1",
        )
    return dict(here)
