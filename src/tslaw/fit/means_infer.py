"""Posterior draws of a fit of published means: sequential Monte Carlo in the coordinates of `means_density`.

Few precise means leave several explanations (models cannot solve, or have not finished, or slip), between which a chain
hardly finds its way. Particles need not: they begin as draws of the prior, spread over all explanations, and the
likelihood is raised to powers that go from 0 to 1, each as large as leaves half of the particles' worth (Del Moral,
Doucet & Jasra 2006; Chopin 2002). At every power particles are resampled by their weights, then moved by Metropolis
steps that leave its distribution as it is, until they have forgotten where they were, or `MOST_MOVES` times. How far
they forgot is in `Draws.forgetting`, and a fit whose particles have not does not pass (`particles`, `diagnostics`).

A step draws some coordinates anew, any number of them, from a normal given the others. The posterior is not a bent
ridge along which one could go in small steps: most coordinates are as free as the prior has them, and a dozen (lengths,
slips, relapses) are free within walls, behind which the reports are out of reach. Few such draws are accepted, but each
forgets all that it touches; steps in all coordinates at once were as small as the walls are near. Particles take turns
to move, a part of them at a time, and the normal has the moments of the others, which stand still meanwhile: so every
step leaves the distribution exactly as it is. That matters: a normal of fifty coordinates that was fitted to particles
has them in its middle by some nats more than their like, and all would leave where they are too easily. It is learned
anew as particles move, for right after resampling they are copies of few.

A chain is an island: particles that are resampled among themselves alone, so that islands that disagree show in R-hat
and in the effective sample size as chains do. Copies within an island do not show there; `Draws.sample_stats` has the
`family` of every draw, the first particle it descends from, by which `diagnostics` sees them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from tslaw.fit.infer import Draws, Sampling
from tslaw.fit.means_data import MeansData
from tslaw.fit.means_density import Density
from tslaw.fit.model import Prior
from tslaw.fit.nuts import Show, progress_bar
from tslaw.fit.particles import FORGOTTEN_LAST, Forgetting, correlation
from tslaw.fit.pseudo_problems import pseudo_problems

WORTH = 0.5
"""The part of the particles that weights leave effective from one power to the next."""
FORGOTTEN = 0.5
"""The largest correlation with where they were before the moves at a power that is not the last."""
MOVES, MOST_MOVES = 10, 3000
"""Moves between two looks at it, and the most at one power."""
BATCH = 50
"""Particles whose densities are computed together."""
PARTS = 4
"""Parts of the particles that take turns to move."""
SHRINK = 10.0
"""Particles that coordinates without correlations count for in the normal, as a multiple of their number."""


class Normal(NamedTuple):
    """A normal distribution of all coordinates: middle (coordinate,) and the inverse of the covariance (coordinate,
    coordinate)."""

    middle: np.ndarray
    precision: np.ndarray


class Particles(NamedTuple):
    """Places (particle, coordinate), the logs of likelihood and volume there, posterior over prior, (particle,), and
    the number of the first particle that each descends from, (particle,)."""

    place: np.ndarray
    level: np.ndarray
    family: np.ndarray

    def of(self, kept: np.ndarray) -> Particles:
        """Those at some places (particle,)."""
        return Particles(self.place[kept], self.level[kept], self.family[kept])

    def replaced(self, where: np.ndarray, by: Particles) -> Particles:
        """These, with others at some places (particle,)."""
        found = Particles(*(values.copy() for values in self))
        for values, new in zip(found, by, strict=True):
            values[where] = new
        return found

    def features(self) -> np.ndarray:
        """All that particles should forget, (particle, coordinate + 1): where they are and how likely that is."""
        return np.column_stack([self.place, self.level])


Level = Callable[[np.ndarray], np.ndarray]
"""From places (particle, coordinate) to the logs of posterior over prior, (particle,)."""


class MeansSampler:
    """One task's means and prior, to be sampled with all reports or without some; compiled once for all of that."""

    def __init__(self, data: MeansData, prior: Prior) -> None:
        self.n_reports = len(data.report_arm)
        density = Density(data, prior, pseudo_problems())
        self.n = density.n

        def level(place: Array, seen: Array) -> tuple[Array, dict[str, Array]]:
            log_p, params = density.at(place, seen)
            return log_p + 0.5 * place @ place, params

        self._batch = jax.jit(jax.vmap(level, (0, None)))

    def _evaluated(self, places: np.ndarray, seen: np.ndarray) -> list[tuple[Array, dict[str, Array]]]:
        """Levels and parameters at places (particle, coordinate), batch by batch: so they are compiled but once, for
        any number of particles. The last batch is filled up."""
        full = np.concatenate([places, np.broadcast_to(places[-1], (-len(places) % BATCH, self.n))])
        return [self._batch(part, seen) for part in full.reshape(-1, BATCH, self.n)]

    def run(self, sampling: Sampling, without: int | None = None) -> Draws:
        """As many islands as `sampling` has chains, of as many particles as it has samples; its `warmup` says nothing
        here. `without` is the place of a report that is left out."""
        started, rng = time.perf_counter(), np.random.default_rng(sampling.seed)
        shape, seen = (sampling.chains, sampling.samples), (np.arange(self.n_reports) != without).astype(float)

        def level(places: np.ndarray) -> np.ndarray:
            return np.concatenate([found for found, _ in self._evaluated(places, seen)])[: len(places)]

        place = rng.standard_normal((shape[0] * shape[1], self.n))
        particles = Particles(place, level(place), np.arange(len(place)))
        power, forgetting = 0.0, Forgetting(0.0, 0, 0.0)
        with progress_bar(100, sampling.progress) as show:
            while power < 1.0:
                earlier = max(forgetting.correlation, forgetting.earlier)
                particles, power = _next_power(particles, power, shape, rng)
                particles, alike, moves = _forget(particles, power, level, rng, show)
                forgetting = Forgetting(alike, moves, earlier)
        params = [found for _, found in self._evaluated(particles.place, seen)]
        flat = {name: np.concatenate([part[name] for part in params])[: len(place)] for name in params[0]}
        drawn = {name: values.reshape(*shape, *values.shape[1:]) for name, values in flat.items()}
        log_p = particles.level - 0.5 * np.square(particles.place).sum(axis=1)
        stats = {"lp": log_p.reshape(shape), "family": particles.family.reshape(shape)}
        return Draws(drawn, stats, time.perf_counter() - started, forgetting)


def run_means(data: MeansData, prior: Prior, sampling: Sampling) -> Draws:
    """Fit one task's means: see `MeansSampler.run`."""
    return MeansSampler(data, prior).run(sampling)


def _next_power(
    particles: Particles, before: float, shape: tuple[int, int], rng: np.random.Generator
) -> tuple[Particles, float]:
    """The largest power that leaves every island's weights worth enough, and the particles resampled for it."""
    level = particles.level.reshape(shape)

    def worth(gain: float) -> float:
        weight = _weights(gain * level)
        return float((1.0 / np.square(weight).sum(axis=1)).min()) / shape[1]

    low, high = 0.0, 1.0 - before
    if worth(high) < WORTH:
        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if worth(middle) > WORTH else (low, middle)
        gain, power = low, before + low
    else:
        gain, power = high, 1.0
    kept = resampled(_weights(gain * level), rng)
    return particles.of(kept), power


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


def _fitted(place: np.ndarray) -> Normal:
    """A normal with the moments of particles at (particle, coordinate), its correlations smaller if they are few."""
    share, covariance = len(place) / (len(place) + SHRINK * place.shape[1]), np.cov(place.T)
    shrunk = share * covariance + (1.0 - share) * np.diag(np.diag(covariance))
    return Normal(place.mean(axis=0), np.linalg.inv(shrunk))


def _forget(
    particles: Particles, power: float, level: Level, rng: np.random.Generator, show: Show
) -> tuple[Particles, float, int]:
    """Move all particles until nothing tells where they were; what correlation is left, and after how many moves."""
    begun, moves, alike = particles.features(), 0, 1.0
    enough = FORGOTTEN_LAST if power == 1.0 else FORGOTTEN
    while not alike <= enough and moves < MOST_MOVES:
        show(int(99 * power), f"power {power:.3g}, {moves} moves, correlation {alike:.2f}")
        for part in np.array_split(rng.permutation(len(particles.place)), PARTS):
            normal, moved = _fitted(np.delete(particles.place, part, axis=0)), particles.of(part)
            for _ in range(MOVES):
                moved = _moved(moved, power, normal, level, rng)
            particles = particles.replaced(part, moved)
        moves, alike = moves + MOVES, float(np.max(correlation(begun, particles.features())))
    return particles, alike, moves


def _moved(particles: Particles, power: float, normal: Normal, level: Level, rng: np.random.Generator) -> Particles:
    """Particles after one Metropolis step each, which draws some coordinates, the same for all, anew from the normal
    given the others, and leaves the prior times exp(level) to this power as it is."""
    place, (middle, precision) = particles.place, normal
    some = rng.permutation(place.shape[1])[: rng.integers(1, place.shape[1] + 1)]
    root = np.linalg.cholesky(precision[np.ix_(some, some)])
    # Off the conditional mean, in standard deviations: precision_some (x - middle) is root root^T times that offset.
    here = np.linalg.solve(root, precision[some] @ (place - middle).T)
    there = rng.standard_normal((len(some), len(place)))
    proposed = place.copy()
    proposed[:, some] += np.linalg.solve(root.T, there - here).T
    its = level(proposed)

    def log_ratio(place: np.ndarray, level: np.ndarray, off: np.ndarray) -> np.ndarray:
        """The posterior at this power over the conditional normal."""
        return power * level - 0.5 * np.square(place).sum(axis=1) + 0.5 * np.square(off).sum(axis=0)

    gain = log_ratio(proposed, its, there) - log_ratio(place, particles.level, here)
    accepted = np.log(rng.random(len(place))) < gain
    return Particles(
        np.where(accepted[:, None], proposed, place), np.where(accepted, its, particles.level), particles.family
    )
