"""Posterior draws of a fit of published means, by elliptical slice sampling in the coordinates of `means_density`.

Slices along ellipses (Murray, Adams & MacKay 2010) turn a normal distribution into draws of the posterior: exactly,
without tuning, and where the density has walls, as it does wherever a model would have to be better than its slips let
it be. There NUTS needs hundreds of gradients a draw. The normal is the prior at first; in the warm-up it takes the
moments of what was drawn, twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tslaw.fit.infer import Draws, Sampling
from tslaw.fit.means_data import MeansData
from tslaw.fit.means_density import Density
from tslaw.fit.model import Prior
from tslaw.fit.pseudo_problems import pseudo_problems

THIN = 40
"""Moves between two draws that are kept, and in one iteration of the warm-up."""
WIDER = 1.2
"""The fitted normal's standard deviations, over those of what was drawn."""
STARTS = 512
MOST_SHRINKS = 60


class Normal(NamedTuple):
    """A normal distribution of all coordinates: middle (coordinate,) and the Cholesky factor of its covariance."""

    middle: Array
    root: Array


class Walk(NamedTuple):
    """Where a chain is, (coordinate,), the log of posterior over normal there, of the posterior, and the parameters."""

    place: Array
    level: Array
    log_p: Array
    params: dict[str, Array]


Target = Callable[[Array], tuple[Array, dict[str, Array]]]
"""From coordinates to the log posterior density, up to a constant, and the parameters (misfits among them)."""


def run_means(data: MeansData, prior: Prior, sampling: Sampling) -> Draws:
    """Fit one task's means; every chain starts at the best of many prior draws of its own."""
    from rich.progress import Progress

    started = time.perf_counter()
    density = Density(data, prior, pseudo_problems())
    target, n = density.at, density.n
    normal = Normal(jnp.zeros(n), jnp.eye(n))
    key = jax.random.PRNGKey(sampling.seed)
    advance = jax.jit(lambda normal, places, key: _advance(target, normal, places, key))
    first = jax.jit(lambda normal, keys: jax.vmap(lambda k: _start(target, normal, k))(keys))
    place = first(normal, jax.random.split(key, sampling.chains))
    total = sampling.warmup + sampling.samples
    visited: list[Array] = []
    kept: list[Walk] = []
    with Progress(disable=not sampling.progress, transient=True) as progress:
        bar = progress.add_task(data.task, total=total)
        for k in range(total):
            if k in (sampling.warmup // 2, sampling.warmup):
                normal, visited = _fitted(normal, visited[len(visited) // 2 :]), []
            walks = advance(normal, place, jax.random.fold_in(key, k))
            place = walks.place
            if k < sampling.warmup:
                visited.append(place)
            else:
                kept.append(walks)
            progress.advance(bar)
    drawn = {name: np.stack([np.asarray(w.params[name]) for w in kept], axis=1) for name in kept[0].params}
    level = np.stack([np.asarray(w.log_p) for w in kept], axis=1)
    return Draws(drawn, {"lp": level}, time.perf_counter() - started)


def _log_normal(normal: Normal, place: Array) -> Array:
    z = jax.scipy.linalg.solve_triangular(normal.root, place - normal.middle, lower=True)
    return -0.5 * z @ z


def _walk(target: Target, normal: Normal, place: Array) -> Walk:
    log_p, params = target(place)
    return Walk(place, log_p - _log_normal(normal, place), log_p, params)


def _start(target: Target, normal: Normal, key: Array) -> Array:
    """The most probable of many draws of the normal."""
    z = jax.random.normal(key, (STARTS, len(normal.middle)))
    places = normal.middle + z @ normal.root.T
    levels = jax.lax.map(lambda p: target(p)[0], places, batch_size=32)
    return places[jnp.argmax(levels)]


def _advance(target: Target, normal: Normal, places: Array, key: Array) -> Walk:
    """`THIN` moves of every chain from its place."""

    def one(place: Array, key: Array) -> Walk:
        start = _walk(target, normal, place)
        return jax.lax.fori_loop(0, THIN, lambda k, w: _move(target, normal, w, jax.random.fold_in(key, k)), start)

    return jax.vmap(one)(places, jax.random.split(key, len(places)))


def _move(target: Target, normal: Normal, walk: Walk, key: Array) -> Walk:
    """One elliptical slice: shrink the arc towards where the chain is until a point on it is above the level drawn."""
    a, b, c, d = jax.random.split(key, 4)
    other = normal.root @ jax.random.normal(a, normal.middle.shape)
    here = walk.place - normal.middle
    threshold = walk.level + jnp.log(jax.random.uniform(b))
    angle = jax.random.uniform(c, maxval=2.0 * jnp.pi)

    def at(angle: Array) -> Walk:
        return _walk(target, normal, normal.middle + here * jnp.cos(angle) + other * jnp.sin(angle))

    def low(state: tuple[Array, Array, Array, Array, Walk]) -> Array:
        return (state[4].level <= threshold) & (state[3] < MOST_SHRINKS)

    def shrink(state: tuple[Array, Array, Array, Array, Walk]) -> tuple[Array, Array, Array, Array, Walk]:
        angle, least, most, k, _ = state
        found = at(angle)
        least, most = jnp.where(angle < 0, angle, least), jnp.where(angle < 0, most, angle)
        following = jax.random.uniform(jax.random.fold_in(d, k), minval=least, maxval=most)
        return following, least, most, k + 1, found

    # The first pass is there for the first angle: a place that is below any threshold leads into it.
    below = walk._replace(level=jnp.full_like(walk.level, -jnp.inf))
    begin = (angle, angle - 2.0 * jnp.pi, angle, jnp.zeros((), int), below)
    found = jax.lax.while_loop(low, shrink, begin)[4]
    return jax.tree.map(lambda new, old: jnp.where(found.level > threshold, new, old), found, walk)


def _fitted(normal: Normal, places: list[Array]) -> Normal:
    """A normal with the moments of what all chains drew, pulled towards the one before if they were few."""
    drawn = np.asarray(jnp.stack(places)).reshape(-1, len(normal.middle))
    before = np.asarray(normal.root @ normal.root.T)
    share = len(drawn) / (len(drawn) + 10.0 * drawn.shape[1])
    covariance = share * WIDER**2 * np.cov(drawn.T) + (1.0 - share) * before
    middle = share * drawn.mean(axis=0) + (1.0 - share) * np.asarray(normal.middle)
    return Normal(jnp.asarray(middle), jnp.asarray(np.linalg.cholesky(covariance)))
