"""Posterior draws of a fit of published means: NUTS in the coordinates of `means_density`, all chains in one vector.

A gradient is many small operations on a few numbers each, so that four chains side by side cost hardly more than one.
"""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tslaw.fit.infer import Draws, Sampling, sampler_stats
from tslaw.fit.means_data import MeansData
from tslaw.fit.means_density import Density
from tslaw.fit.model import Prior
from tslaw.fit.nuts import Checkpoint, sample_chains
from tslaw.fit.pseudo_problems import pseudo_problems

PLACE = "place"
STARTS = 512
"""Prior draws of which a chain starts at the most probable."""
TOGETHER = 64
"""Draws or starts that are computed at once."""


def run_means(data: MeansData, prior: Prior, sampling: Sampling, checkpoint: Checkpoint | None = None) -> Draws:
    """Fit one task's means. An unfinished run is kept in `checkpoint`, and resumed from there."""
    started = time.perf_counter()
    density = Density(data, prior, pseudo_problems())
    chains = sample_chains(
        lambda at: -density.log_p(at[PLACE]),
        {PLACE: chain_starts(density, sampling)},
        # The prior's in these coordinates, and nearly the posterior's.
        {(PLACE,): jnp.eye(density.n)},
        (PLACE,),
        sampling,
        checkpoint,
        vectorised=True,
    )
    posterior = parameters_at(density, chains.z[PLACE])
    return Draws(posterior, sampler_stats(chains), time.perf_counter() - started)


def chain_starts(density: Density, sampling: Sampling) -> Array:
    """Where chains start, (chain, n): every one at the best of many prior draws of its own."""
    drawn = jax.random.normal(jax.random.PRNGKey(sampling.seed), (sampling.chains, STARTS, density.n))
    level = jax.jit(lambda places: jax.lax.map(density.log_p, places, batch_size=TOGETHER))
    return jnp.stack([places[jnp.argmax(level(places))] for places in drawn])


def parameters_at(density: Density, places: np.ndarray) -> dict[str, np.ndarray]:
    """What places (chain, draw, n) stand for: names to (chain, draw, ...) arrays."""
    flat = jnp.asarray(places.reshape(-1, density.n))
    found = jax.jit(lambda flat: jax.lax.map(density.parameters, flat, batch_size=TOGETHER))(flat)
    return {name: np.asarray(values).reshape(*places.shape[:2], *values.shape[1:]) for name, values in found.items()}
