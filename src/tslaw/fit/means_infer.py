"""Posterior draws of a fit of published means, by elliptical slice sampling.

A handful of precise means says much of a few combinations of parameters and nothing of the rest: whether a model fails
because it cannot solve or because it has not finished is for the prior to say. Such a posterior is a thin bent sheet on
which a Hamiltonian sampler hardly moves. But given everything else the reports are nearly
linear in abilities, Theta = (theta0, alpha, delta_w, every model's misfits); so these are written as

    Theta = mode + root^-T xi

with mode and curvature root root^T of their posterior given the rest (Gauss and Newton's method), and what is sampled
is xi and the rest as the standard normal draws z that become the prior's. Slices along ellipses (Murray, Adams & MacKay
2010) turn a normal distribution into draws of the posterior: exactly, without tuning, and where the density ends. The
normal is the prior at first; after the warm-up it has the moments of what was drawn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import ndtri
from jax.scipy.stats import norm
from numpyro import handlers
from numpyro.distributions import biject_to
from scipy.special import ndtr as norm_cdf
from scipy.stats import beta as beta_quantile

from tslaw.fit import surface
from tslaw.fit.infer import Draws, Sampling
from tslaw.fit.means_data import MeansData
from tslaw.fit.means_model import Moments, Reports, moments, report_error, reports
from tslaw.fit.model import OF_UNIT, Prior, logit_unit, sample_population
from tslaw.fit.pseudo_problems import pseudo_problems

SOLVED_FOR = ("theta0", "alpha", "delta_w")
PROBIT, NEAREST = 0.346, (0.01, 0.99)
"""(16 sqrt(3) / 15 pi)^2, by which normal spread flattens a sigmoid, and shares solved that are told from 0 and 1."""
NEWTON_STEPS, FARTHEST = 3, 3.0
"""Steps to the mode, none of which moves any arm's ability by more than so many logits."""
THIN = 40
"""Moves between two draws that are kept, and in one iteration of the warm-up."""
WIDER = 1.2
"""The fitted normal's standard deviations, over those of what was drawn."""
STARTS, MOMENT_DRAWS = 512, 4096
FURTHEST, N_QUANTILES = 6.0, 1201
"""Standard deviations that tabulated quantiles reach, and how many there are."""
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
    sites = population_sites(prior, data)
    target = posterior_density(data, prior, pseudo_problems(), sites)
    n = len(sites) + 2 * len(data.shapes)
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


def population_sites(prior: Prior, data: MeansData) -> dict[str, Any]:
    """The prior's distributions by the names of the sites that they are drawn for."""
    with handlers.seed(rng_seed=0), handlers.trace() as trace:
        sample_population(prior, data.budgets, data.chance)
    return {name: site["fn"] for name, site in trace.items() if site["type"] == "sample"}


def quantile(fn: Any) -> Callable[[Array], Array]:
    """The function that makes a standard normal draw one of `fn`: what it is at the same quantile."""
    if isinstance(fn, dist.HalfNormal):
        return lambda z: fn.scale * ndtri(0.5 + 0.5 * norm.cdf(z))
    to, grid = biject_to(fn.support), np.linspace(-FURTHEST, FURTHEST, N_QUANTILES)
    if isinstance(fn, dist.Beta):
        a, b, below = float(fn.concentration1), float(fn.concentration0), norm_cdf(-np.abs(grid))
        # The upper half from above, where 1 - probability is still exact.
        low, high = beta_quantile.ppf(below, a, b), beta_quantile.isf(below, a, b)
        logit = np.where(grid < 0, np.log(low) - np.log1p(-low), np.log(high) - np.log1p(-high))
        return lambda z: to(jnp.interp(z, grid, logit))
    # All others are normal distributions that were transformed.
    base = fn.base_dist if isinstance(fn, dist.TransformedDistribution) else fn
    return lambda z: to(base.loc + base.scale * z)


def posterior_density(data: MeansData, prior: Prior, points: np.ndarray, sites: dict[str, Any]) -> Target:
    """The posterior over the coordinates (z, xi): see above."""
    solved_for = {name: sites[name + OF_UNIT] for name in SOLVED_FOR}
    free = {name: quantile(fn) for name, fn in sites.items() if name.removesuffix(OF_UNIT) not in SOLVED_FOR}
    unit = logit_unit(sites["sd_difficulty"].sample(jax.random.PRNGKey(1), (MOMENT_DRAWS,)))
    first = {name: unit * fn.sample(jax.random.PRNGKey(0), (MOMENT_DRAWS,)) for name, fn in solved_for.items()}
    n_models = len(data.shapes)
    # Roughly the prior of Theta; what it is matters for the speed alone.
    middle = jnp.concatenate([jnp.stack([d.mean() for d in first.values()]), jnp.zeros(2 * n_models)])
    spread = jnp.concatenate([jnp.stack([d.std() for d in first.values()]), jnp.ones(2 * n_models)])
    own = jnp.eye(n_models)[data.model_index()]
    x, bits = jnp.asarray(data.log_size), jnp.asarray(data.weight_bits)
    observed, points32 = jnp.asarray(data.report_accuracy), points.astype(np.float32)

    def rough_mode(parts: Reports, rows: Array) -> Array:
        """Where Newton's method begins: abilities that the reports would have, were problems normally spread."""
        share = (observed - parts.floor) / parts.height.mean(axis=-1)
        share = jnp.clip(share, *NEAREST)
        wider = jnp.sqrt(1.0 + PROBIT * parts.shift.var(axis=-1))
        ability = wider * (jnp.log(share) - jnp.log1p(-share))
        slope = share * (1.0 - share) / wider * (data.report_answers**0.5)
        return _solve(
            jnp.diag(spread**-2) + rows.T @ (slope[:, None] ** 2 * rows),
            rows.T @ (slope**2 * ability) + middle / spread**2,
        )

    def population(draw: dict[str, Array]) -> dict[str, Array]:
        rest = {name + OF_UNIT: jnp.ones(()) for name in SOLVED_FOR}  # replaced once they are solved for
        with handlers.seed(rng_seed=0), handlers.substitute(data=draw | rest):
            return sample_population(prior, data.budgets, data.chance)

    def density(place: Array) -> tuple[Array, dict[str, Array]]:
        draw = {name: of(z) for z, (name, of) in zip(place, free.items(), strict=False)}
        log_p = -0.5 * place[: len(free)] @ place[: len(free)]
        params = population(draw)
        quantized = surface.weight_bit_shape(bits, params["kappa_w"])[:, None]
        loss = quantized * jnp.exp(-params["gamma_w"] * x)[:, None]
        misfits = jnp.concatenate([params["sd_misfit"] * own, params["sd_misfit_w"] * quantized * own], axis=1)
        design = jnp.concatenate(
            [jnp.ones_like(loss), surface.bent(params["bend"], x)[:, None], -loss, misfits], axis=1
        )
        rows = design[data.report_arm]
        # Nearly all the time goes into these reports x problems, and single precision is enough for them.
        parts = reports({name: value.astype(jnp.float32) for name, value in params.items()}, data, points32)

        def at_abilities(ability: Array) -> Moments:
            found = moments(parts, ability.astype(jnp.float32))
            return Moments(*(value.astype(ability.dtype) for value in found))

        def curvature(theta: Array) -> tuple[Array, Array]:
            at = at_abilities(rows @ theta)
            error = report_error(at.within, data.report_answers)
            uphill = rows.T @ (at.slope * (observed - at.mean) / error**2) - (theta - middle) / spread**2
            return jnp.diag(spread**-2) + rows.T @ (((at.slope / error) ** 2)[:, None] * rows), uphill

        def newton(theta: Array) -> Array:
            step = _solve(*curvature(theta))
            return theta + step * jnp.minimum(1.0, FARTHEST / jnp.max(jnp.abs(design @ step)))

        mode = rough_mode(parts, rows)
        for _ in range(NEWTON_STEPS):
            mode = newton(mode)
        root = jnp.linalg.cholesky(curvature(mode)[0])
        theta = mode + jax.scipy.linalg.solve_triangular(root.T, place[len(free) :], lower=False)
        log_p -= jnp.sum(jnp.log(jnp.diag(root)))
        at = at_abilities(rows @ theta)
        error = report_error(at.within, data.report_answers)
        log_p += jnp.sum(-0.5 * ((observed - at.mean) / error) ** 2 - jnp.log(error)) - 0.5 * jnp.sum(theta[3:] ** 2)
        unit = logit_unit(params["sd_difficulty"])
        for (name, fn), value in zip(solved_for.items(), theta, strict=False):
            inside = fn.support(value)
            log_p += jnp.where(inside, fn.log_prob(jnp.where(inside, value / unit, 1.0)) - jnp.log(unit), -jnp.inf)
            params[name] = value
        params["misfit"] = misfits @ theta[3:]
        return jnp.where(jnp.isnan(log_p), -jnp.inf, log_p), params

    return density


def _solve(matrix: Array, vector: Array) -> Array:
    """The solution for a positive definite matrix."""
    return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(matrix), True), vector)


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
