"""Sizes left out of the fit, predicted, and compared with what was measured of them.

A held-out model's accuracy is predicted for every weight bit width and budget that was measured, with all that is not
known of it: the surface, its misfits and traits, its effects on each problem and its own lengths, and the chance in its
samples. Beside it stands a power law, fitted by least squares to the same cells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from tslaw.errors import TslawError
from tslaw.fit import surface
from tslaw.fit.data import TaskData
from tslaw.fit.posterior import Posterior, problem_accuracy
from tslaw.fit.predict import draw_unseen
from tslaw.memory import n_params

INTERVAL = (0.05, 0.95)
MOST_DRAWS = 500


@dataclass(frozen=True)
class HeldOut:
    """Cells of held-out models: `model` and `weight_bits` (arm,), `measured` (arm, budget), `predicted` (draw, arm,
    budget), `power_law` (arm, budget) by least squares."""

    model: tuple[str, ...]
    weight_bits: np.ndarray
    budgets: np.ndarray
    measured: np.ndarray
    predicted: np.ndarray
    power_law: np.ndarray

    @property
    def covered(self) -> np.ndarray:
        """Whether the 90% predictive interval holds what was measured: (arm, budget)."""
        low, high = np.quantile(self.predicted, INTERVAL, axis=0)
        return (low <= self.measured) & (self.measured <= high)

    @property
    def error(self) -> np.ndarray:
        """The posterior median minus what was measured: (arm, budget)."""
        return np.median(self.predicted, axis=0) - self.measured


def only(data: TaskData, arms: np.ndarray) -> TaskData:
    """The same task with the arms (arm,) marked True alone; sizes stay relative to the same reference."""
    kept, place = np.flatnonzero(arms), np.cumsum(arms) - 1
    rows = arms[data.row_arm]
    models = tuple(data.models[i] for i in kept)
    return replace(
        data,
        arms=tuple(data.arms[i] for i in kept),
        models=models,
        log_size=data.log_size[kept],
        weight_bits=data.weight_bits[kept],
        row_arm=place[data.row_arm[rows]],
        row_problem=data.row_problem[rows],
        row_pattern=data.row_pattern[rows],
        row_count=data.row_count[rows],
        shapes={m: data.shapes[m] for m in dict.fromkeys(models)},
    )


def by_size(data: TaskData) -> list[str]:
    """The task's models, smallest first."""
    return sorted(data.shapes, key=lambda m: n_params(data.shapes[m]))


def split(data: TaskData, left_out: list[str]) -> tuple[TaskData, TaskData]:
    """What is fitted and what is held out.

    Raises
    ------
    TslawError : an unknown model, or fewer than two sizes left to fit.
    """
    unknown = sorted(set(left_out) - set(data.shapes))
    if unknown:
        raise TslawError(f"Not in the data: {', '.join(unknown)}.", expected=f"some of {', '.join(by_size(data))}")
    if len(data.shapes) - len(set(left_out)) < 2:
        raise TslawError("Fewer than two sizes are left to fit.", where=f"without {', '.join(left_out)}")
    held = np.array([m in left_out for m in data.models])
    return only(data, ~held), only(data, held)


def predict_measured(posterior: Posterior, held: TaskData, seed: int = 0) -> np.ndarray:
    """What a measurement of the arms in `held` would show, by the posterior of the others: (draw, arm, budget).

    Every draw gets misfits, traits and effects for each model, shared by its bit widths, and lengths of its own for
    each arm;
    then as many right answers as were sampled.
    """
    few = posterior.thinned(MOST_DRAWS)
    rng, problems, n = np.random.default_rng(seed), few.params["difficulty"].shape[1], few.n_draws
    names = list(dict.fromkeys(held.models))
    p = few.params
    of_model = {m: (draw_unseen(few, rng), rng.standard_normal((2, n, problems))) for m in names}
    predicted = []
    for i, model in enumerate(held.models):
        bits = float(held.weight_bits[i])
        share = np.asarray(surface.weight_bit_shape(jnp.asarray(bits), jnp.asarray(p["kappa_w"])))
        unseen, effect = of_model[model]
        own = p["own_length_spread"][:, None] * rng.standard_normal((n, problems))
        draws = few.population_draws() | {
            "misfit": jnp.asarray(unseen.misfit + share * unseen.quantization_misfit),
            **{name: jnp.asarray(trait) for name, trait in zip(surface.TRAITS, unseen.traits, strict=True)},
            "effect": jnp.asarray(
                p["sd_effect"][:, None] * effect[0] + (share * p["sd_effect_w"])[:, None] * effect[1]
            ),
            "own_length": jnp.asarray(np.where(rng.random(own.shape) < p["own_length_share"][:, None], own, 0.0)),
        }
        x = jnp.asarray(held.log_size[i])
        chance = np.asarray(_by_problem(draws, x, jnp.asarray(bits), jnp.asarray(held.budgets)))
        samples = held.trajectories()[i].astype(int)
        right = rng.binomial(samples, np.clip(chance, 0.0, 1.0))
        predicted.append(right.sum(axis=-1) / samples.sum())
    return np.stack(predicted, axis=1)


@jax.jit
def _by_problem(draws: dict[str, jax.Array], x: jax.Array, bits: jax.Array, budgets: jax.Array) -> jax.Array:
    return jax.lax.map(lambda d: problem_accuracy(d, x, bits, budgets), draws, batch_size=32)


def power_law(data: TaskData, held: TaskData) -> np.ndarray:
    """Accuracy of the arms in `held` by the law that fits the cells of `data` best, by least squares: (arm, budget).

        accuracy = ceiling - a (N g_b)^-alpha - c T^-gamma,    within 0 and 1

    with g_16 = 1 and a factor g_b for every other bit width: what quantization takes from the size.
    """
    from scipy.optimize import least_squares

    widths = sorted(set(data.weight_bits) | set(held.weight_bits))[:-1]

    def law(parameters: np.ndarray, log_size: np.ndarray, bits: np.ndarray, budgets: np.ndarray) -> np.ndarray:
        ceiling, log_a, alpha, log_c, gamma, *log_g = parameters
        effective = log_size + sum(g * (bits == b) for b, g in zip(widths, log_g, strict=True))
        size = np.exp(log_a - np.exp(alpha) * effective)
        time = np.exp(log_c - np.exp(gamma) * np.log(budgets / budgets[0]))
        return np.clip(ceiling - size[:, None] - time[None, :], 0.0, 1.0)

    seen, _ = data.accuracy()
    start = np.array([1.0, -1.0, -1.0, -0.5, 0.0] + [-0.1] * len(widths))

    def residuals(parameters: np.ndarray) -> np.ndarray:
        return np.nan_to_num(law(parameters, data.log_size, data.weight_bits, data.budgets) - seen).ravel()

    best = least_squares(residuals, start, loss="linear", max_nfev=5000).x
    return law(best, held.log_size, held.weight_bits, held.budgets)


def held_out(posterior: Posterior, data: TaskData, held: TaskData, seed: int = 0) -> HeldOut:
    """Compare the predictions of a fit of `data` with the measurement in `held`."""
    return HeldOut(
        held.models,
        held.weight_bits,
        held.budgets,
        held.accuracy()[0],
        predict_measured(posterior, held, seed),
        power_law(data, held),
    )
