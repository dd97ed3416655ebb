"""Posterior draws of a fit of published means: sequential Monte Carlo in the coordinates of `means_density`.

Few precise means leave several explanations (models cannot solve, or have not finished, or slip), between which a chain
hardly finds its way. Particles need not: they begin as draws of the prior, spread over all explanations, and the
likelihood is raised to powers that go from 0 to 1, each as large as leaves half of the particles' worth (Del Moral,
Doucet & Jasra 2006; Chopin 2002). At every power particles are resampled by their weights, then moved by Metropolis
steps that leave its distribution as it is (Crank and Nicolson's proposals, Cotter et al. 2013, around the normal with
the particles' moments), until they have forgotten where they were, or `MOST_MOVES` times.

A chain is an island: particles that are resampled among themselves alone, so that islands that disagree show in R-hat
and in the effective sample size as chains do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tslaw.fit.infer import Draws, Sampling
from tslaw.fit.means_data import MeansData
from tslaw.fit.means_density import Density
from tslaw.fit.model import Prior
from tslaw.fit.nuts import Show, progress_bar
from tslaw.fit.pseudo_problems import pseudo_problems

WORTH = 0.5
"""The part of the particles that weights leave effective from one power to the next."""
FORGOTTEN, FORGOTTEN_LAST = 0.5, 0.25
"""Correlations of coordinates with where they were before the moves, at every power and at the last."""
MOVES, MOST_MOVES = 10, 600
"""Moves between two looks at these, and the most at one power."""
ACCEPTED = 0.3
"""The part of proposals that should be accepted."""
FIRST_STEP = 0.5
BATCH = 64
"""Particles whose densities are computed together."""
SHRINK = 2.0
"""Particles that the former normal counts for, as a multiple of the number of coordinates."""


class Normal(NamedTuple):
    """A normal distribution of all coordinates: middle (coordinate,) and the Cholesky factor of its covariance."""

    middle: Any
    root: Any


class Particles(NamedTuple):
    """Places (particle, coordinate), and the logs of likelihood and volume there: posterior over prior, (particle,)."""

    place: np.ndarray
    level: np.ndarray


class Stage(NamedTuple):
    """What moves leave as it is, the prior times exp(level) to this power, and how they are proposed: at `step` of
    1 independently of where a particle is."""

    power: float
    normal: Normal
    step: float


Level = Callable[[Array, Array], Array]
"""From a place and the reports that are seen to the log of posterior over prior."""


class MeansSampler:
    """One task's means and prior, to be sampled with all reports or without some; compiled once for all of that."""

    def __init__(self, data: MeansData, prior: Prior) -> None:
        self.n_reports = len(data.report_arm)
        density = Density(data, prior, pseudo_problems())
        self.n = density.n

        def level(place: Array, seen: Array) -> tuple[Array, dict[str, Array]]:
            log_p, params = density.at(place, seen)
            return log_p + 0.5 * place @ place, params

        self._evaluate = jax.jit(
            lambda places, seen: jax.lax.map(lambda place: level(place, seen), places, batch_size=BATCH)
        )
        self._move = jax.jit(_mover(lambda place, seen: level(place, seen)[0]))

    def run(self, sampling: Sampling, without: int | None = None) -> Draws:
        """As many islands as `sampling` has chains, of as many particles as it has samples; its `warmup` says nothing
        here. `without` is the place of a report that is left out."""
        started, rng = time.perf_counter(), np.random.default_rng(sampling.seed)
        shape, seen = (sampling.chains, sampling.samples), (np.arange(self.n_reports) != without).astype(float)
        place = rng.standard_normal((shape[0] * shape[1], self.n))
        particles = Particles(place, np.asarray(self._evaluate(place, seen)[0]))
        stage = Stage(0.0, Normal(np.zeros(self.n), np.eye(self.n)), FIRST_STEP)

        def move(particles: Particles, stage: Stage) -> tuple[Particles, float]:
            key = jax.random.PRNGKey(int(rng.integers(2**31)))
            place, level, accepted = self._move(particles.place, particles.level, key, stage, seen)
            return Particles(np.asarray(place), np.asarray(level)), float(accepted)

        with progress_bar(100, sampling.progress) as show:
            while stage.power < 1.0:
                particles, stage = _next_power(particles, stage, shape, rng)
                particles, stage = _forget(particles, stage, move, show)
        params = self._evaluate(particles.place, seen)[1]
        drawn = {name: np.asarray(values).reshape(*shape, *values.shape[1:]) for name, values in params.items()}
        log_p = particles.level - 0.5 * np.square(particles.place).sum(axis=1)
        return Draws(drawn, {"lp": log_p.reshape(shape)}, time.perf_counter() - started)


def run_means(data: MeansData, prior: Prior, sampling: Sampling) -> Draws:
    """Fit one task's means: see `MeansSampler.run`."""
    return MeansSampler(data, prior).run(sampling)


def _next_power(
    particles: Particles, stage: Stage, shape: tuple[int, int], rng: np.random.Generator
) -> tuple[Particles, Stage]:
    """The largest power that leaves every island's weights worth enough, and the particles resampled for it."""
    level = particles.level.reshape(shape)

    def worth(gain: float) -> float:
        weight = _weights(gain * level)
        return float((1.0 / np.square(weight).sum(axis=1)).min()) / shape[1]

    low, high = 0.0, 1.0 - stage.power
    if worth(high) < WORTH:
        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if worth(middle) > WORTH else (low, middle)
        gain, power = low, stage.power + low
    else:
        gain, power = high, 1.0
    kept = resampled(_weights(gain * level), rng)
    particles = Particles(particles.place[kept], particles.level[kept])
    return particles, Stage(power, _fitted(particles.place, stage.normal), stage.step)


def _weights(log_weight: np.ndarray) -> np.ndarray:
    """Weights that sum to 1 in every island: (island, particle)."""
    weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
    return weight / weight.sum(axis=1, keepdims=True)


def resampled(weight: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Systematic resampling (Kitagawa 1996) in every island: weights (island, particle) to places in all of them,
    (island * particle,), each about as often as its weight says."""
    islands, n = weight.shape
    points = (np.arange(n) + rng.random((islands, 1))) / n
    found = []
    for island, (end, point) in enumerate(zip(np.cumsum(weight, axis=1), points, strict=True)):
        place = np.minimum(np.searchsorted(end, point * end[-1]), n - 1)
        found.append(rng.permutation(place) + n * island)
    return np.concatenate(found)


def _fitted(place: np.ndarray, before: Normal) -> Normal:
    """A normal with the particles' moments, pulled towards the one before if they are few."""
    share = len(place) / (len(place) + SHRINK * place.shape[1])
    covariance = share * np.cov(place.T) + (1.0 - share) * before.root @ before.root.T
    return Normal(share * place.mean(axis=0) + (1.0 - share) * before.middle, np.linalg.cholesky(covariance))


def _forget(
    particles: Particles, stage: Stage, move: Callable[[Particles, Stage], tuple[Particles, float]], show: Show
) -> tuple[Particles, Stage]:
    """Move all particles until no coordinate tells where they were."""
    begun, moves, alike = particles.place, 0, 1.0
    enough = FORGOTTEN_LAST if stage.power == 1.0 else FORGOTTEN
    while alike > enough and moves < MOST_MOVES:
        show(int(99 * stage.power), f"power {stage.power:.3g}, {moves} moves, correlation {alike:.2f}")
        (particles, accepted), moves = move(particles, stage), moves + MOVES
        alike = float(np.max(_correlation(begun, particles.place)))
        # Towards the acceptance that is wanted, ever more slowly within a power.
        change = (accepted - ACCEPTED) / np.sqrt(moves / MOVES)
        stage = stage._replace(step=float(np.clip(stage.step * np.exp(1.5 * change), 0.01, 1.0)))
    return particles, stage


def _correlation(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Of every coordinate over the particles: (coordinate,)."""
    a, b = (values - values.mean(axis=0) for values in (before, after))
    return (a * b).sum(axis=0) / np.sqrt(np.square(a).sum(axis=0) * np.square(b).sum(axis=0))


def _mover(level: Level) -> Callable[..., tuple[Array, Array, Array]]:
    """The function that makes `MOVES` moves of all particles: from places, levels, a key, the stage and the reports
    seen to places, levels and the part accepted."""

    def one(place: Array, at: Array, key: Array, stage: Stage, seen: Array) -> tuple[Array, Array, Array]:
        middle, root = stage.normal

        def log_ratio(place: Array, at: Array) -> Array:
            """The posterior at this power over the normal."""
            z = jax.scipy.linalg.solve_triangular(root, place - middle, lower=True)
            return stage.power * at - 0.5 * place @ place + 0.5 * z @ z

        def step(state: tuple[Array, Array, Array], key: Array) -> tuple[tuple[Array, Array, Array], Array]:
            place, at, ratio = state
            a, b = jax.random.split(key)
            other = root @ jax.random.normal(a, place.shape)
            proposed = middle + jnp.sqrt(1.0 - stage.step**2) * (place - middle) + stage.step * other
            there = level(proposed, seen)
            its = log_ratio(proposed, there)
            accepted = jnp.log(jax.random.uniform(b)) < its - ratio
            new = jax.tree.map(lambda p, q: jnp.where(accepted, p, q), (proposed, there, its), (place, at, ratio))
            return new, accepted

        (place, at, _), accepted = jax.lax.scan(step, (place, at, log_ratio(place, at)), jax.random.split(key, MOVES))
        return place, at, accepted.mean()

    def move(place: Array, at: Array, key: Array, stage: Stage, seen: Array) -> tuple[Array, Array, Array]:
        each = (place, at, jax.random.split(key, len(place)))
        found = jax.lax.map(lambda of: one(of[0], of[1], of[2], stage, seen), each, batch_size=BATCH)
        return found[0], found[1], found[2].mean()

    return move
