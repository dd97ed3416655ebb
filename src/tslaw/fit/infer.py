"""From data to posterior draws: a MAP start by optax, its Laplace approximation, then NUTS by NumPyro."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import optax
from jax import Array
from jax.flatten_util import ravel_pytree
from numpyro.infer.util import constrain_fn, potential_energy, unconstrain_fn

from tslaw.fit import surface
from tslaw.fit.cache_prior import CACHE_SCALES, CUT_LEVEL, LEVEL, OWN_LEVEL, cache_sites, cache_start
from tslaw.fit.data import TaskData
from tslaw.fit.lengths import draw_lengths
from tslaw.fit.model import POPULATION, SAMPLED, Prior, groups, informative, sample_parameters, task_model
from tslaw.fit.nuts import Chains, Checkpoint, sample_chains
from tslaw.fit.particles import Forgetting

MAP_SCALES = {
    "sd_difficulty": 3.0,
    "sd_misfit_rel": 0.09,
    "sd_misfit_w_rel": 0.09,
    "sd_effect_rel": 0.6,
    "sd_effect_w_rel": 0.3,
    "sd_mu": 0.1,
    "sd_late": 0.3,
    "sd_relapse": 0.3,
    "sd_slip": 0.3,
} | CACHE_SCALES
"""The joint mode of a hierarchical model is degenerate (all scales zero), so the MAP start is taken at these scales."""


HESSIAN_STEP = 1e-3

OF_MODELS = ("model_ability", "quantized_ability", *(f"{name}_level" for name in surface.TRAITS))
"""Sites with one number a model."""

OF_PROBLEMS = ("easiness", "logit", "quantized_logit")
"""Sites with a number for every problem, the last two for every model."""

DENSE = tuple(sorted({*SAMPLED, *OF_MODELS}))
"""Sites with a dense metric, in any data: few and strongly correlated. The problems' effects are many and hardly so."""

AUXILIARY = (
    *OF_MODELS,
    LEVEL,
    OWN_LEVEL,
    CUT_LEVEL,
    *sorted(set(SAMPLED) - set(POPULATION)),
    "logit",
    "quantized_logit",
    "easiness",
    "trajectories",
)
"""Sampled sites that the derived ones say again in the surface's own terms; they are not kept."""

Energy = Callable[[Array], tuple[Array, Array]]
"""From a vector of unconstrained sites (parameter,) to the potential energy and its gradient (parameter,)."""


@dataclass(frozen=True)
class Sampling:
    """How NUTS is run. Draws are kept from `samples` iterations of each of `chains` chains, after `warmup` ones."""

    chains: int = 4
    warmup: int = 500
    samples: int = 800
    seed: int = 0
    target_accept: float = 0.9
    map_steps: int = 400
    progress: bool = field(default_factory=lambda: sys.stderr.isatty())


@dataclass(frozen=True)
class Draws:
    """Posterior draws of one task: `posterior` and `sample_stats` map names to (chain, draw, ...) arrays.

    `forgetting` says of particles how far moves made them draws; draws of chains have none.
    """

    posterior: dict[str, np.ndarray]
    sample_stats: dict[str, np.ndarray]
    seconds: float
    forgetting: Forgetting | None = None


def prepare_jax(chains: int) -> None:
    """Double precision, and `chains` chains side by side on a CPU; has to come before the first JAX computation."""
    numpyro.set_host_device_count(chains)
    numpyro.enable_x64()
    # A GPU would multiply single precision with 10 bits of mantissa, too few for a likelihood.
    jax.config.update("jax_default_matmul_precision", "highest")


def rough_start(data: TaskData, prior: Prior) -> dict[str, Array]:
    """Where Adam begins: every sampled site, problems as easy as their accuracy over all arms at the largest
    budgets says."""
    share = np.clip(data.solved_share(), 0.02, 0.98)
    middle = float(np.log(data.budgets).mean())
    n_models = len(set(data.models))
    native, low = groups(data, prior)
    scalars = {
        "theta0_rel": 0.0,
        "alpha_rel": 0.3,
        "bend": 0.0,
        "delta_w_rel": 0.15,
        "kappa_w": 0.6,
        "gamma_w": 0.0,
        "mu0": middle,
        "mu1": 0.0,
        "mu2": 0.0,
    }
    scalars |= {
        "sigma_len_excess": 0.3,
        "late0": -2.0,
        "late1": 0.0,
        "late2": 0.0,
        "late3": 0.0,
        "late_delay": 1.0,
        "rho": 0.0,
        "sd_length": 0.5,
        "own_length_share": 0.1,
        "own_length_spread": 0.5,
        "guess": data.chance + 0.01,
        "slip0": -3.0,
        "slip1": 0.0,
        "relapse0": -3.0,
        "relapse1": 0.0,
        "relapse2": 0.0,
        "relapse_power": 0.7,
        "kept": 0.2,
    } | {name: scale for name, scale in MAP_SCALES.items() if name not in CACHE_SCALES}
    effects = {
        "easiness": np.log(share / (1.0 - share)) / np.where(informative(data), 1.0, MAP_SCALES["sd_difficulty"]),
        **{name: np.zeros(n_models) for name in OF_MODELS},
        "logit": native.effect * native.logit,
        "quantized_logit": low.effect * low.logit,
    }
    return {k: jnp.asarray(v, float) for k, v in (scalars | effects | cache_start(data)).items()}


def dense_sites(data: TaskData) -> tuple[str, ...]:
    """The sites with a dense metric of a fit to these data."""
    return tuple(sorted({*DENSE, *cache_sites(data)} - {CUT_LEVEL}))


def flat_energy(data: TaskData, prior: Prior, start: dict[str, Array]) -> Energy:
    """The potential energy and its gradient over all unconstrained sites in one vector, in the order of `ravel_pytree`.

    Compiled once for all that happens outside of NUTS: compiling takes longer than anything it computes there.
    """
    _, unravel = ravel_pytree(start)
    return jax.jit(jax.value_and_grad(lambda z: potential_energy(task_model, (data, prior), {}, unravel(z))))


def by_site(energy: Energy, start: dict[str, Array]) -> Callable[[dict[str, Array]], tuple[Array, dict[str, Array]]]:
    """The same energy and gradient of positions and as positions, in the structure of `start`."""
    _, unravel = ravel_pytree(start)

    def of_sites(z: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        level, slope = energy(ravel_pytree(z)[0])
        return level, unravel(slope)

    return of_sites


def map_start(
    start: dict[str, Array], gradient: Callable[[Array], Array], steps: int, fixed: Collection[str]
) -> dict[str, Array]:
    """The most probable unconstrained parameters with the `fixed` ones as they are, by Adam with a cosine schedule."""
    flat, unravel = ravel_pytree(start)
    free, _ = ravel_pytree({k: jnp.full_like(v, k not in fixed) for k, v in start.items()})
    optimiser = optax.chain(
        optax.clip_by_global_norm(1e3), optax.adam(optax.cosine_decay_schedule(0.05, steps, alpha=0.02))
    )

    @jax.jit
    def step(z: Array, state: optax.OptState, slope: Array) -> tuple[Array, optax.OptState]:
        updates, state = optimiser.update(slope * free, state, z)
        return optax.apply_updates(z, updates), state

    state = optimiser.init(flat)
    for _ in range(steps):
        flat, state = step(flat, state, gradient(flat))
    return unravel(flat)


def laplace_covariance(start: dict[str, Array], gradient: Callable[[Array], Array]) -> np.ndarray:
    """Covariance of the Laplace approximation at `start`, (parameter, parameter), in the order of `ravel_pytree`.

    The Hessian is taken by differences, over a step far above the single precision of the likelihood. The start is a
    mode only at fixed scales, so curvatures below 1 (or negative) are taken to be 1.
    """
    flat = np.asarray(ravel_pytree(start)[0])
    here = np.asarray(gradient(jnp.asarray(flat)))
    steps = HESSIAN_STEP * np.eye(len(flat), dtype=flat.dtype)
    slopes = [np.asarray(gradient(jnp.asarray(flat + step))) - here for step in steps]
    hessian = np.stack(slopes) / HESSIAN_STEP
    curvature, axes = np.linalg.eigh(0.5 * (hessian + hessian.T))
    return (axes / np.maximum(curvature, 1.0)) @ axes.T


def places(start: dict[str, Array], names: tuple[str, ...]) -> np.ndarray:
    """Where sites stand in the vector that `ravel_pytree` makes of `start`, site after site."""
    flat, unravel = ravel_pytree(start)
    index = unravel(jnp.arange(len(flat), dtype=float))
    return np.concatenate([np.ravel(index[name]) for name in names]).astype(int)


def starting_mass(
    start: dict[str, Array], covariance: np.ndarray, dense: tuple[str, ...]
) -> dict[tuple[str, ...], Array]:
    """The inverse mass matrix to begin with: dense in the sites `dense`, diagonal in the others.

    With unit masses instead, nine tenths of all gradients went into the first hundred iterations of the warm-up.
    """
    together, effects = places(start, dense), tuple(sorted(set(start) - set(dense)))
    mass = {dense: jnp.asarray(covariance[np.ix_(together, together)])}
    if effects:
        mass[effects] = jnp.asarray(np.diag(covariance)[places(start, effects)])
    return mass


def chain_starts(start: dict[str, Array], covariance: np.ndarray, chains: int, seed: int) -> dict[str, Array]:
    """Unconstrained starts of the chains: draws of the Laplace approximation, so that R-hat can see disagreement."""
    flat, unravel = ravel_pytree(start)
    normal = np.random.default_rng(seed + 1).standard_normal((chains, len(flat)))
    return jax.vmap(unravel)(flat + jnp.asarray(normal @ np.linalg.cholesky(covariance).T, flat.dtype))


def effects_of_arms(posterior: dict[str, np.ndarray], data: TaskData) -> np.ndarray:
    """c of every arm: (chain, draw, arm, problem)."""
    kappa = jnp.asarray(posterior["kappa_w"])[..., None]
    quantized = surface.weight_bit_shape(jnp.asarray(data.weight_bits), kappa)
    effect, effect_w = (jnp.asarray(posterior[name]) for name in ("model_effect", "quantization_effect"))
    return np.asarray(surface.own_effect(effect, effect_w, quantized, data.model_index()))


def constrained(z: dict[str, np.ndarray], data: TaskData, prior: Prior) -> dict[str, np.ndarray]:
    """Unconstrained draws as what they stand for, derived sites included: (chain, draw, ...) arrays."""
    arguments: dict[str, Any] = {"return_deterministic": True, "batch_ndims": 2}
    found = jax.jit(lambda each: constrain_fn(sample_parameters, (data, prior), {}, each, **arguments))(z)
    return {k: np.asarray(v) for k, v in found.items() if k not in AUXILIARY}


class Laplace(NamedTuple):
    """A normal approximation over all unconstrained sites: its mode, its covariance (parameter, parameter) in the order
    of `ravel_pytree`, and the `energy` that it approximates, from such vectors to the potential and its gradient."""

    mode: dict[str, Array]
    covariance: np.ndarray
    energy: Energy


def map_mode(data: TaskData, prior: Prior, map_steps: int) -> tuple[dict[str, Array], Energy]:
    """The MAP of one task at fixed scales, and the energy by which it was found."""
    rough = unconstrain_fn(sample_parameters, (data, prior), {}, rough_start(data, prior))
    energy = flat_energy(data, prior, rough)
    return map_start(rough, lambda z: energy(z)[1], map_steps, MAP_SCALES), energy


def laplace(data: TaskData, prior: Prior, map_steps: int) -> Laplace:
    """Where one task's inference starts: the MAP at fixed scales, and the curvature there."""
    mode, energy = map_mode(data, prior, map_steps)
    return Laplace(mode, laplace_covariance(mode, lambda z: energy(z)[1]), energy)


def launch(data: TaskData, prior: Prior, map_steps: int, checkpoint: Checkpoint | None) -> Laplace:
    """Where chains begin: `laplace`, but for a run that `checkpoint` kept. That one goes on where it was, and any mode
    and covariance of the right shape will do."""
    if checkpoint is None or not checkpoint.exists():
        return laplace(data, prior, map_steps)
    rough = unconstrain_fn(sample_parameters, (data, prior), {}, rough_start(data, prior))
    return Laplace(rough, np.eye(len(ravel_pytree(rough)[0])), flat_energy(data, prior, rough))


def posterior_of(z: dict[str, np.ndarray], data: TaskData, prior: Prior, seed: int) -> dict[str, np.ndarray]:
    """Everything that is kept of unconstrained draws, with lengths drawn given them: (chain, draw, ...) arrays."""
    posterior = constrained(z, data, prior)
    effect = effects_of_arms(posterior, data)
    return posterior | draw_lengths({**posterior, "effect": effect}, data, seed + 3)._asdict()


def run_nuts(data: TaskData, prior: Prior, sampling: Sampling, checkpoint: Checkpoint | None = None) -> Draws:
    """Fit one task. An unfinished run is kept in `checkpoint`, and resumed from there."""
    started = time.perf_counter()
    start, covariance, energy = launch(data, prior, sampling.map_steps, checkpoint)
    dense = dense_sites(data)
    chains = sample_chains(
        lambda z: potential_energy(task_model, (data, prior), {}, z),
        chain_starts(start, covariance, sampling.chains, sampling.seed),
        starting_mass(start, covariance, dense),
        dense,
        sampling,
        checkpoint,
        by_site(energy, start),
    )
    posterior = posterior_of(chains.z, data, prior, sampling.seed)
    return Draws(posterior, sampler_statistics(chains), time.perf_counter() - started)


def sampler_statistics(chains: Chains) -> dict[str, np.ndarray]:
    """What the sampler says of itself, under ArviZ's names."""
    names = {"num_steps": "n_steps", "accept_prob": "acceptance_rate", "potential_energy": "lp"}
    return {names.get(k, k): (-v if k == "potential_energy" else v) for k, v in chains.stats.items()}
