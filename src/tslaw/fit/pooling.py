"""Tasks fitted together: what size, bits and thinking do to accuracy is partly the same in all tasks of a family.

Alone or together, a task's population parameters have the same prior. Together they are tied between tasks by their
normal scores, z_t = Phi^-1(F_t(parameter of task t)) with F_t its prior there:

    z_t = sqrt(1 - width^2) common + width own_t,        common, own_t ~ Normal(0, 1)

a Gaussian copula, which for normal priors is the usual partial pooling (Gelman & Hill 2007, chapter 12) whose standard
deviation between tasks is `width` of the prior's. That is said and not learned: two or three tasks hardly tell how
widely tasks differ. A width of 1 ties nothing; the smaller it is, the more alike tasks are taken to be.

Not tied: what belongs to a task's problems or its way to answer (`NEVER` and `OF_THE_TASK` of `borrow`), and what
models have of their own. All tasks are sampled at once, so a draw of one belongs to a draw of the other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import erf, erfc, ndtri
from numpyro import handlers
from numpyro.infer.util import potential_energy
from scipy.linalg import block_diag

from tslaw.errors import TslawError
from tslaw.fit.borrow import NEVER, OF_THE_TASK
from tslaw.fit.data import TaskData
from tslaw.fit.infer import (
    Draws,
    Laplace,
    Sampling,
    by_site,
    chain_starts,
    dense_sites,
    launch,
    posterior_of,
    sampler_statistics,
    starting_mass,
)
from tslaw.fit.model import OF_UNIT, Prior, sample_parameters, task_model
from tslaw.fit.nuts import Checkpoint, sample_chains

WIDTH = 0.5
LEAST_WIDTH = 0.05
SMALLEST = 1e-300
"""A probability that still has a normal score."""

Positions = dict[str, Array]
Score = Callable[[Array], Array]
"""From the unconstrained value of a site to the normal score of its parameter."""


def correlation(width: float) -> float:
    """Of the scores of two tasks.

    Raises
    ------
    TslawError : a width below 0.05, where tasks would be all but one, or above 1.
    """
    if not LEAST_WIDTH <= width <= 1.0:
        raise TslawError(
            f"Tasks cannot be pooled with a width of {width:g}.",
            where="--pool-width",
            expected=f"{LEAST_WIDTH:g} (all but the same) to 1 (nothing shared)",
        )
    return 1.0 - width**2


def normal_score(fn: Any) -> Score:
    """The normal score under the prior `fn` of a site.

    Raises
    ------
    TypeError : a distribution that no tied parameter has.
    """
    base = fn.base_dist if isinstance(fn, dist.TransformedDistribution) else fn
    if isinstance(base, dist.Normal):  # normal in unconstrained coordinates
        return lambda z: (z - base.loc) / base.scale
    if isinstance(fn, dist.HalfNormal):

        def half_normal(z: Array) -> Array:
            standard = jnp.exp(z) / (fn.scale * math.sqrt(2.0))
            return _score(erf(standard), erfc(standard))

        return half_normal
    if isinstance(fn, dist.Beta) and float(fn.concentration1) == 1.0:

        def share(z: Array) -> Array:  # above x is (1 - x)^b
            log_above = -fn.concentration0 * jax.nn.softplus(z)
            return _score(-jnp.expm1(log_above), jnp.exp(log_above))

        return share
    raise TypeError(f"no normal score for {fn}")


def _score(below: Array, above: Array) -> Array:
    """From the probabilities on both sides, each exact where it is small."""
    lower = below < above
    score = ndtri(jnp.maximum(jnp.where(lower, below, above), SMALLEST))
    return jnp.where(lower, score, -score)


def tied_sites(data: TaskData, prior: Prior) -> dict[str, Score]:
    """The scores of what a task shares with others, by the names of the sampled sites."""
    with handlers.seed(rng_seed=0), handlers.trace() as trace:
        sample_parameters(data, prior)
    left_out = {*NEVER, *OF_THE_TASK}
    return {
        name: normal_score(site["fn"])
        for name, site in trace.items()
        if site["type"] == "sample" and not np.shape(site["value"]) and name.removesuffix(OF_UNIT) not in left_out
    }


def log_tie(scores: Array, width: float) -> Array:
    """Log density of one parameter's scores in the tasks, (task,), over what it would be were they independent."""
    n, r, own = scores.shape[0], correlation(width), width**2
    # Inverse and determinant of r + own on the diagonal, r elsewhere.
    squares = jnp.sum(scores**2) * (1.0 / own - 1.0) - jnp.sum(scores) ** 2 * r / (own * (own + n * r))
    return -0.5 * squares - 0.5 * ((n - 1) * math.log(own) + math.log(own + n * r))


def tie(tasks: Sequence[TaskData], priors: Sequence[Prior], width: float) -> Callable[[Sequence[Positions]], Array]:
    """The function from all tasks' unconstrained positions to the log density that ties them."""
    scores = [tied_sites(data, prior) for data, prior in zip(tasks, priors, strict=True)]
    names = sorted({name for of in scores for name in of})

    def log_density(positions: Sequence[Positions]) -> Array:
        total = jnp.zeros(())
        for name in names:
            pairs = zip(scores, positions, strict=True)
            each = [of[name](position[name]) for of, position in pairs if name in of]
            total += log_tie(jnp.stack(each), width)
        return total

    return log_density


def joined(positions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Positions of all tasks in one, task after task in the order of names."""
    return {f"{i:03d}.{name}": value for i, of in enumerate(positions) for name, value in of.items()}


def parted(together: Mapping[str, Any], n_tasks: int) -> list[dict[str, Any]]:
    """The opposite of `joined`."""
    found: list[dict[str, Any]] = [{} for _ in range(n_tasks)]
    for key, value in together.items():
        task, _, name = key.partition(".")
        found[int(task)][name] = value
    return found


def energy_of_all(
    each: Sequence[Laplace], tied: Callable[[Sequence[Positions]], Array]
) -> Callable[[Positions], tuple[Array, Positions]]:
    """The potential energy of all tasks' positions and its gradient, from what is compiled for each of them."""
    alone, ties = [by_site(of.energy, of.mode) for of in each], jax.jit(jax.value_and_grad(tied))

    def energy(z: Positions) -> tuple[Array, Positions]:
        positions = parted(z, len(each))
        found, (log_tie, slopes) = [of(at) for of, at in zip(alone, positions, strict=True)], ties(positions)
        slope = joined([jax.tree.map(jnp.subtract, a, b) for (_, a), b in zip(found, slopes, strict=True)])
        return sum((level for level, _ in found), -log_tie), slope

    return energy


def run_pooled(
    tasks: Sequence[TaskData],
    priors: Sequence[Prior],
    sampling: Sampling,
    width: float = WIDTH,
    checkpoint: Checkpoint | None = None,
) -> list[Draws]:
    """Fit tasks together, by NUTS over the parameters of all; see `infer.run_nuts`. Every task's statistics of the
    sampler and seconds are those of the whole run.

    Raises
    ------
    TslawError : a width that makes no sense.
    """
    started, n = time.perf_counter(), len(tasks)
    correlation(width)
    tied = tie(tasks, priors, width)
    each = [launch(data, prior, sampling.map_steps, checkpoint) for data, prior in zip(tasks, priors, strict=True)]
    start, covariance = joined([of.mode for of in each]), block_diag(*(of.covariance for of in each))
    dense = tuple(sorted(joined([dict.fromkeys(dense_sites(data)) for data in tasks])))

    def potential(z: Positions) -> Array:
        positions = parted(z, n)
        alone = zip(tasks, priors, positions, strict=True)
        return sum((potential_energy(task_model, (d, p), {}, of) for d, p, of in alone), -tied(positions))

    starts = chain_starts(start, covariance, sampling.chains, sampling.seed)
    mass, energy = starting_mass(start, covariance, dense), energy_of_all(each, tied)
    chains = sample_chains(potential, starts, mass, dense, sampling, checkpoint, energy)
    stats, seconds = sampler_statistics(chains), time.perf_counter() - started
    drawn = zip(tasks, priors, parted(chains.z, n), strict=True)
    return [Draws(posterior_of(z, data, prior, sampling.seed), stats, seconds) for data, prior, z in drawn]
