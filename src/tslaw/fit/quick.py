"""A quick look at a posterior: a normal distribution fitted to it by stochastic variational inference, no sampling.

The normal is over all unconstrained parameters z = (p, e): p what is dense in NUTS too (`infer.dense_sites`, the
population and every model's own), e the problems' effects, many and nearly independent given p. Hence the arrow

    p = m_p + L a           e = m_e + B a + s b           a, b ~ Normal(0, 1)

with L lower triangular, B dense, s one number an effect: what each parameter says of every effect is kept, only what
effects say of each other given p is not. It begins as the Laplace approximation at the MAP start and is moved by Adam
towards the least Kullback-Leibler divergence from the posterior. The gradient is the one by which the MAP start was
found: compiling another takes longer than a thousand steps.

A normal has no skew and no second mode, and the divergence favours distributions that are too narrow. Nothing here
checks the result as R-hat checks a sampler: such a fit is marked as approximate wherever it is stored or asked.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.flatten_util import ravel_pytree

from tslaw.fit.data import TaskData
from tslaw.fit.infer import Draws, Energy, dense_sites, laplace, places, posterior_of
from tslaw.fit.model import Prior
from tslaw.fit.nuts import Show, progress_bar

CHECK_PAIRS = 16
"""Antithetic pairs of draws by which rounds are compared."""


@dataclass(frozen=True)
class Quick:
    """How the approximation is made: `steps` of Adam in `rounds`, on the mean over `pairs` antithetic pairs of draws;
    `samples` independent draws are kept."""

    steps: int = 1500
    rounds: int = 2
    pairs: int = 2
    samples: int = 800
    seed: int = 0
    map_steps: int = 400
    step_size: float = 0.02
    progress: bool = field(default_factory=lambda: sys.stderr.isatty())


class Arrow(NamedTuple):
    """A normal distribution of (p, e) with a Cholesky factor that is zero among effects.

    middle : (p + e,). lower : (p, p), of which the part below the diagonal counts. log_scale : (p + e,), logs of the
    diagonal. coupling : (e, p).
    """

    middle: Array
    lower: Array
    log_scale: Array
    coupling: Array

    @property
    def root(self) -> Array:
        """The Cholesky factor of p: (p, p)."""
        return jnp.tril(self.lower, -1) + jnp.diag(jnp.exp(self.log_scale[: len(self.lower)]))

    def place(self, normal: Array) -> Array:
        """(p + e,) from as many standard normal draws."""
        n = len(self.lower)
        a, b = normal[:n], normal[n:]
        effects = self.coupling @ a + jnp.exp(self.log_scale[n:]) * b
        return self.middle + jnp.concatenate([self.root @ a, effects])

    def normal(self, place: Array) -> Array:
        """The inverse of `place`."""
        n, off = len(self.lower), place - self.middle
        a = jax.scipy.linalg.solve_triangular(self.root, off[:n], lower=True)
        return jnp.concatenate([a, (off[n:] - self.coupling @ a) / jnp.exp(self.log_scale[n:])])

    def of(self, inner: Arrow) -> Arrow:
        """The distribution of `place` of draws from `inner`."""
        n = len(self.lower)
        root, own = inner.root, jnp.exp(self.log_scale[n:])[:, None]
        coupling = self.coupling @ root + own * inner.coupling
        return Arrow(self.place(inner.middle), self.root @ root, self.log_scale + inner.log_scale, coupling)

    def log_density(self, place: Array) -> Array:
        """Up to a constant."""
        z = self.normal(place)
        return -0.5 * z @ z - jnp.sum(self.log_scale)


def standard(n_dense: int, n_effects: int) -> Arrow:
    """The standard normal distribution as an arrow."""
    n = n_dense + n_effects
    return Arrow(jnp.zeros(n), jnp.zeros((n_dense, n_dense)), jnp.zeros(n), jnp.zeros((n_effects, n_dense)))


def nearest_arrow(middle: np.ndarray, covariance: np.ndarray, n_dense: int) -> Arrow:
    """The arrow with this `covariance` (p + e, p + e), except among the effects given the first `n_dense`."""
    root = np.linalg.cholesky(covariance[:n_dense, :n_dense])
    coupling = np.linalg.solve(root, covariance[:n_dense, n_dense:]).T
    # What is left of an effect's variance is positive but for rounding.
    own = np.diag(covariance)[n_dense:]
    left = np.maximum(own - (coupling**2).sum(axis=1), 1e-6 * own)
    log_scale = np.concatenate([np.log(np.diag(root)), 0.5 * np.log(left)])
    return Arrow(*(jnp.asarray(part) for part in (middle, root, log_scale, coupling)))


def fit_arrow(energy: Energy, start: Arrow, quick: Quick, show: Show = lambda _, __: None) -> Arrow:
    """The normal that is nearest to exp(-energy), looked for from `start`.

    Every round begins anew in the coordinates in which what the last one found is the standard normal: Adam's steps,
    alike in all directions, need them. A round that leads away is not followed, and the next one takes smaller steps.
    """
    arrow, step_size = start, quick.step_size
    checks = _antithetic(np.random.default_rng([quick.seed, 0]), CHECK_PAIRS, len(start.middle))
    bounds = np.linspace(0, quick.steps, quick.rounds + 1).astype(int)
    level = divergence(energy, arrow, checks)
    for k, (first, last) in enumerate(itertools.pairwise(bounds.tolist()), start=1):
        rng, text = np.random.default_rng([quick.seed, k]), f"divergence {level:.0f} and a constant"
        this = replace(quick, steps=last - first, step_size=step_size)
        found = arrow.of(_one_round(energy, arrow, this, rng, _beginning(show, first, text)))
        after = divergence(energy, found, checks)
        if after < level:
            arrow, level = found, after
        else:
            step_size /= 2.0
    show(quick.steps, f"divergence {level:.0f} and a constant; drawing")
    return arrow


def _beginning(show: Show, first: int, text: str) -> Callable[[int], None]:
    """Shows how many steps of a round are done."""
    return lambda k: show(first + k, text)


def divergence(energy: Energy, arrow: Arrow, normal: np.ndarray) -> float:
    """Kullback and Leibler's, from `arrow` to exp(-energy), up to a constant, by standard normal draws (draw, p + e);
    infinite when it is not known."""
    level = np.mean([float(energy(place)[0]) for place in jax.vmap(arrow.place)(jnp.asarray(normal))])
    return float(level - arrow.log_scale.sum()) if np.isfinite(level) else np.inf


def _antithetic(rng: np.random.Generator, pairs: int, n: int) -> np.ndarray:
    half = rng.standard_normal((pairs, n))
    return np.concatenate([half, -half])


def _one_round(
    energy: Energy, start: Arrow, quick: Quick, rng: np.random.Generator, tell: Callable[[int], None]
) -> Arrow:
    """What makes `start` the nearest normal, when it is of the standard one.

    The gradient is the path's alone (Roeder, Wu & Duvenaud 2017): where the approximation is exact it has no noise.
    """
    n_dense, n = len(start.lower), len(start.middle)
    schedule = optax.cosine_decay_schedule(quick.step_size, quick.steps, alpha=0.01)
    optimiser = optax.chain(optax.clip_by_global_norm(1e3), optax.adam(schedule))

    @jax.jit
    def drawn(arrow: Arrow, normal: Array) -> Array:
        return jax.vmap(lambda each: start.place(arrow.place(each)))(normal)

    @jax.jit
    def moved(arrow: Arrow, moments: optax.OptState, normal: Array, slopes: Array) -> tuple[Arrow, optax.OptState]:
        fixed = arrow

        def distance(arrow: Arrow) -> Array:
            inner = jax.vmap(arrow.place)(normal)
            # The energy, linear about the draws: what its gradient there says is all that is known of it.
            linear = jnp.sum(slopes * jax.vmap(start.place)(inner), axis=1)
            return jnp.mean(linear + jax.vmap(fixed.log_density)(inner))

        updates, moments = optimiser.update(jax.grad(distance)(arrow), moments, arrow)
        return optax.apply_updates(arrow, updates), moments

    arrow = standard(n_dense, n - n_dense)
    moments = optimiser.init(arrow)
    for k in range(quick.steps):
        tell(k)
        normal = jnp.asarray(_antithetic(rng, quick.pairs, n))
        # A draw so far out that its density is zero does not say where to go.
        slopes = [jnp.nan_to_num(energy(place)[1], posinf=0.0, neginf=0.0) for place in drawn(arrow, normal)]
        arrow, moments = moved(arrow, moments, normal, jnp.stack(slopes))
    return arrow


def run_quick(data: TaskData, prior: Prior, quick: Quick) -> Draws:
    """Approximate one task's posterior; the draws are of one chain, and independent."""
    started = time.perf_counter()
    mode, covariance, energy = laplace(data, prior, quick.map_steps)
    flat, unravel = ravel_pytree(mode)
    dense = dense_sites(data)
    together, effects = places(mode, dense), places(mode, tuple(sorted(set(mode) - set(dense))))
    order = np.concatenate([together, effects])
    back = np.argsort(order)

    def in_order(place: Array) -> tuple[Array, Array]:
        level, slope = energy(place[back])
        return level, slope[order]

    begin = nearest_arrow(np.asarray(flat)[order], covariance[np.ix_(order, order)], len(together))
    with progress_bar(quick.steps, quick.progress) as show:
        nearest = fit_arrow(in_order, begin, quick, show)
    normal = jax.random.normal(jax.random.PRNGKey(quick.seed + 2), (quick.samples, len(flat)))
    drawn = jax.vmap(nearest.place)(normal)[:, back]
    level = np.array([-float(energy(each)[0]) for each in drawn])
    z = {name: np.asarray(values)[None] for name, values in jax.vmap(unravel)(drawn).items()}
    return Draws(posterior_of(z, data, prior, quick.seed), {"lp": level[None]}, time.perf_counter() - started)
