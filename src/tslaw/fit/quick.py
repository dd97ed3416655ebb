"""A quick look at a posterior: a normal distribution fitted to it by stochastic variational inference, no sampling.

The normal is over all unconstrained parameters, as an arrow (`arrow`): what every problem has of its own are its
easiness and the models' effects on it (`infer.OF_PROBLEMS`), and all else is shared, the population and every model's
own. All is kept but what effects on different problems say of each other given the shared ones, which is
nothing. It begins as the Laplace approximation at the MAP start and is moved by Adam towards the least Kullback-Leibler
divergence from the posterior. The gradient is the one by which the MAP start was found: compiling another takes longer
than a thousand steps.

A normal has no skew and no second mode, and the divergence favours distributions that are too narrow. Nothing here
checks the result as R-hat checks a sampler: such a fit is marked as approximate wherever it is stored or asked.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.flatten_util import ravel_pytree

from tslaw.fit.arrow import Arrow, laplace_arrow, standard
from tslaw.fit.data import TaskData
from tslaw.fit.infer import OF_PROBLEMS, Draws, Energy, map_mode, places, posterior_of
from tslaw.fit.model import Prior
from tslaw.fit.nuts import Show, progress_bar
from tslaw.fit.over_draws import cores

CHECK_PAIRS = 16
"""Antithetic pairs of draws by which it is told whether steps led anywhere."""
ATTEMPTS = 3
"""How often steps are taken, each time half as long, until they lead nearer."""


@dataclass(frozen=True)
class Quick:
    """How the approximation is made: `rounds` of `steps` of Adam, each from what the one before found, on the mean over
    `pairs` antithetic pairs of draws; `samples` independent draws are kept.

    One round is enough from where the MAP start of the shipped tasks leads (docs/quick.md), and two from worse ones.
    """

    rounds: int = 1
    steps: int = 800
    pairs: int = 2
    samples: int = 800
    seed: int = 0
    map_steps: int = 400
    step_size: float = 0.015
    progress: bool = field(default_factory=lambda: sys.stderr.isatty())


def fit_arrow(energy: Energy, start: Arrow, quick: Quick, show: Show = lambda _, __: None) -> Arrow:
    """The normal that is nearest to exp(-energy), looked for from `start`, in the coordinates in which that is the
    standard normal: Adam's steps, alike in all directions, need them.

    Steps that lead away are not followed, and smaller ones taken; after the last of them the start is what there is,
    which is said. A start whose coordinates are far from those takes more rounds.
    """
    checks = _antithetic(np.random.default_rng([quick.seed, 0]), CHECK_PAIRS, len(start.middle))
    here, level = start, divergence(energy, start, checks)
    for turn in range(quick.rounds):
        found, after = _nearer(energy, here, level, checks, replace(quick, seed=quick.seed + turn), show)
        if found is None:
            what = "the Laplace approximation" if turn == 0 else "what the round before found"
            show(quick.steps, f"no steps led nearer to the posterior: {what} is what there is; drawing")
            break
        here, level = found, after
        show(quick.steps, f"divergence {level:.0f} and a constant; drawing")
    return here


def _nearer(
    energy: Energy, start: Arrow, level: float, checks: np.ndarray, quick: Quick, show: Show
) -> tuple[Arrow | None, float]:
    """What a round of steps found, and its divergence; None when none of the attempts led nearer than `level`."""
    for k in range(1, ATTEMPTS + 1):
        this = replace(quick, step_size=quick.step_size / 2 ** (k - 1))
        text = f"divergence {level:.0f} and a constant to begin with"
        found = start.of(_steps(energy, start, this, np.random.default_rng([quick.seed, k]), _telling(show, text)))
        after = divergence(energy, found, checks)
        if after < level:
            return found, after
    return None, level


def _telling(show: Show, text: str) -> Callable[[int], None]:
    return lambda done: show(done, text)


def divergence(energy: Energy, arrow: Arrow, normal: np.ndarray) -> float:
    """Kullback and Leibler's, from `arrow` to exp(-energy), up to a constant, by standard normal draws (draw, p + e);
    infinite when it is not known."""
    with ThreadPoolExecutor(cores()) as pool:
        level = np.mean([float(of[0]) for of in pool.map(energy, jax.vmap(arrow.place)(jnp.asarray(normal)))])
    return float(level - arrow.log_scale.sum()) if np.isfinite(level) else np.inf


def _antithetic(rng: np.random.Generator, pairs: int, n: int) -> np.ndarray:
    half = rng.standard_normal((pairs, n))
    return np.concatenate([half, -half])


def _steps(energy: Energy, start: Arrow, quick: Quick, rng: np.random.Generator, tell: Callable[[int], None]) -> Arrow:
    """What makes `start` the nearest normal, when it is of the standard one.

    The gradient is the path's alone (Roeder, Wu & Duvenaud 2017): where the approximation is exact it has no noise.
    """
    n = len(start.middle)
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

    arrow = standard(len(start.lower), *start.within.shape[:2])
    moments = optimiser.init(arrow)
    with ThreadPoolExecutor(cores()) as pool:
        for k in range(quick.steps):
            tell(k)
            normal = jnp.asarray(_antithetic(rng, quick.pairs, n))
            slopes = jnp.stack([slope for _, slope in pool.map(energy, drawn(arrow, normal))])
            # A draw so far out that its density is zero does not say where to go.
            arrow, moments = moved(arrow, moments, normal, jnp.nan_to_num(slopes, posinf=0.0, neginf=0.0))
    return arrow


def run_quick(data: TaskData, prior: Prior, quick: Quick) -> Draws:
    """Approximate one task's posterior; the draws are of one chain, and independent."""
    started = time.perf_counter()
    mode, energy = map_mode(data, prior, quick.map_steps)
    flat, unravel = ravel_pytree(mode)
    shared = places(mode, tuple(sorted(set(mode) - set(OF_PROBLEMS))))
    each = effects_by_problem(mode, data)
    order = np.concatenate([shared, each.ravel()])
    back = np.argsort(order)

    def in_order(place: Array) -> tuple[Array, Array]:
        level, slope = energy(place[back])
        return level, slope[order]

    def slope(place: np.ndarray) -> np.ndarray:
        return np.asarray(in_order(jnp.asarray(place))[1])

    begin = laplace_arrow(np.asarray(flat)[order], slope, len(shared), each.shape[1])
    with progress_bar(quick.steps, quick.progress) as show:
        nearest = fit_arrow(in_order, begin, quick, show)
    normal = jax.random.normal(jax.random.PRNGKey(quick.seed + 2), (quick.samples, len(flat)))
    drawn = jax.vmap(nearest.place)(normal)[:, back]
    level = np.array([-float(energy(each)[0]) for each in drawn])
    z = {name: np.asarray(values)[None] for name, values in jax.vmap(unravel)(drawn).items()}
    return Draws(posterior_of(z, data, prior, quick.seed), {"lp": level[None]}, time.perf_counter() - started)


def effects_by_problem(mode: dict[str, Array], data: TaskData) -> np.ndarray:
    """Where the effects on every problem stand in the vector that `ravel_pytree` makes of `mode`: (problem, effect)."""
    return np.concatenate([places(mode, (name,)).reshape(-1, len(data.problems)) for name in OF_PROBLEMS]).T
