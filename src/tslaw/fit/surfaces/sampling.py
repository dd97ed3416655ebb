"""NUTS for any NumPyro model of a task: where chains start and with which metric. `fit.nuts` moves them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro.distributions import biject_to
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import init_to_median
from numpyro.infer.util import constrain_fn, potential_energy

from tslaw.errors import TslawError
from tslaw.fit.data import TaskData
from tslaw.fit.infer import Draws, Sampling, by_site, chain_starts, laplace_covariance, map_start, starting_mass
from tslaw.fit.nuts import Checkpoint, sample_chains

STATISTICS = {"accept_prob": "acceptance_rate", "num_steps": "n_steps", "potential_energy": "lp"}
"""NumPyro's names and ArviZ's, where they differ."""


class NutsSurface:
    """Sampling for surfaces that say what their `model` is, and perhaps where chains should `start`.

    `auxiliary` sites are sampled but not kept: what they say is said again by deterministic ones. `scales` are standard
    deviations of effects: at the joint mode they would be zero, so they are held at their start while it is looked for.
    """

    auxiliary: tuple[str, ...] = ()
    scales: tuple[str, ...] = ()

    def model(self, data: TaskData) -> None:
        """The NumPyro model of one task."""
        raise NotImplementedError

    def start(self, data: TaskData) -> Mapping[str, Any]:
        """Values of sampled sites to start from; sites that are left out start at their prior's median."""
        return {}

    def sample(self, data: TaskData, sampling: Sampling, checkpoint: Checkpoint | None = None) -> Draws:
        """Posterior draws by NUTS; an unfinished run is kept in `checkpoint`, and resumed from there."""
        return run_nuts(self.model, data, sampling, self.start(data), self.auxiliary, self.scales, checkpoint)


def run_nuts(
    model: Callable[[TaskData], None],
    data: TaskData,
    sampling: Sampling,
    start: Mapping[str, Any],
    auxiliary: tuple[str, ...] = (),
    scales: tuple[str, ...] = (),
    checkpoint: Checkpoint | None = None,
) -> Draws:
    """Draw from `model`'s posterior: a MAP start, its Laplace approximation for starts and metric, then NUTS.

    The metric is dense for all scalars together and diagonal for the rest.

    Raises
    ------
    TslawError : the model's density is not finite where the search for the start begins.
    """
    started = time.perf_counter()

    def potential(z: dict[str, jax.Array]) -> jax.Array:
        return potential_energy(model, (data,), {}, z)

    rough = unconstrained_start(model, data, start, jax.random.PRNGKey(sampling.seed))
    _, unravel = ravel_pytree(rough)
    energy = jax.jit(jax.value_and_grad(lambda z: potential(unravel(z))))

    def gradient(z: jax.Array) -> jax.Array:
        return energy(z)[1]

    here = map_start(rough, gradient, sampling.map_steps, scales)
    covariance, scalars = laplace_covariance(here, gradient), scalars_of(here)
    starts = chain_starts(here, covariance, sampling.chains, sampling.seed)
    metric = starting_mass(here, covariance, scalars)
    chains = sample_chains(potential, starts, metric, scalars, sampling, checkpoint, by_site(energy, rough))
    samples = jax.jit(lambda z: constrain_fn(model, (data,), {}, z, return_deterministic=True, batch_ndims=2))(chains.z)
    posterior = {name: np.asarray(values) for name, values in samples.items() if name not in auxiliary}
    stats = {STATISTICS.get(name, name): values for name, values in chains.stats.items()}
    return Draws(posterior, stats | {"lp": -stats["lp"]}, time.perf_counter() - started)


def scalars_of(here: Mapping[str, jax.Array]) -> tuple[str, ...]:
    """The names of all sites with one number; TslawError when there are none."""
    scalars = tuple(sorted(name for name, value in here.items() if jnp.size(value) == 1))
    if not scalars:
        raise TslawError("This surface's model has no scalar parameter.", expected="at least one sampled scalar")
    return scalars


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
