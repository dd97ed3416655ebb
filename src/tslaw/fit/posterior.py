"""A fitted task as arrays of draws: what every estimand starts from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tslaw.errors import TslawError
from tslaw.fit import surface
from tslaw.fit.model import POPULATION
from tslaw.memory import Accounting, kv_bytes_per_token, n_params, weight_bytes
from tslaw.shape import ModelShape

PROBLEM_EFFECTS = ("difficulty", "length")
MODEL_EFFECTS = ("model_effect", "quantization_effect")


def marked(task: str, approximate: bool) -> str:
    """The name of a task, with a mark if what is said of it is approximate."""
    return f"{task} (approximate)" if approximate else task


class FamilyArm(NamedTuple):
    """A model at a weight bit width that was measured; bytes of weights and of 16-bit KV cache a token."""

    position: int
    model: str
    weight_bits: float
    weight: float
    kv_per_token: float


@dataclass(frozen=True)
class Posterior:
    """Draws of one task, chains joined: `params` maps names to (draw,), (draw, problem), (draw, arm), (draw, model,
    problem) or (draw, arm, problem) arrays.

    `wrong_spread` (problem,): see `vote_model`.
    """

    family: str
    task: str
    params: dict[str, np.ndarray]
    arms: tuple[str, ...]
    models: tuple[str, ...]
    weight_bits: np.ndarray
    budgets: np.ndarray
    shapes: dict[str, ModelShape]
    reference_size: float
    wrong_spread: np.ndarray
    passed: bool
    approximate: bool = False

    @property
    def title(self) -> str:
        """The task's name, marked if the fit is approximate: for the head of every answer that people read."""
        return marked(self.task, self.approximate)

    @property
    def n_draws(self) -> int:
        """How many draws there are, all chains together."""
        return len(self.params["alpha"])

    def thinned(self, most: int) -> Posterior:
        """The same posterior with at most `most` draws, evenly spaced."""
        kept = np.unique(np.linspace(0, self.n_draws - 1, min(most, self.n_draws)).round().astype(int))
        return replace(self, params={name: values[kept] for name, values in self.params.items()})

    def population_draws(self) -> dict[str, Array]:
        """Everything but the arms' misfits, as JAX arrays with the draw first."""
        return {k: jnp.asarray(self.params[k]) for k in (*POPULATION, *PROBLEM_EFFECTS)}

    def log_size(self, model: str) -> float:
        """x of a model of the family."""
        return float(np.log(n_params(self.shapes[model]) / self.reference_size))

    @property
    def log_size_range(self) -> tuple[float, float]:
        """x of the smallest model and of the largest."""
        sizes = [self.log_size(model) for model in self.shapes]
        return min(sizes), max(sizes)

    def family_arms(self, accounting: Accounting) -> list[FamilyArm]:
        """The measured arms, ordered by weight bytes."""
        arms = [
            FamilyArm(
                i, m, float(b), weight_bytes(self.shapes[m], float(b), accounting), kv_bytes_per_token(self.shapes[m])
            )
            for i, (m, b) in enumerate(zip(self.models, self.weight_bits, strict=True))
        ]
        return sorted(arms, key=lambda a: a.weight)

    def arm_draws(self, arm: FamilyArm) -> dict[str, Array]:
        """Everything about a measured arm, as JAX arrays with the draw first: the population, the arm's misfit
        and its model's traits (draw,), and `effect` and `own_length` (draw, problem)."""
        model = list(self.shapes).index(arm.model)
        own, quantized = (jnp.asarray(self.params[name][:, model]) for name in MODEL_EFFECTS)
        share = surface.weight_bit_shape(jnp.asarray(arm.weight_bits), jnp.asarray(self.params["kappa_w"]))
        return self.population_draws() | {
            "misfit": jnp.asarray(self.params["misfit"][:, arm.position]),
            "effect": own + share[:, None] * quantized,
            "own_length": jnp.asarray(self.params["own_length"][:, arm.position]),
            **{name: jnp.asarray(self.params[name][:, model]) for name in surface.TRAITS},
        }

    def arm_accuracy(self, arm: FamilyArm, budgets: np.ndarray) -> np.ndarray:
        """Accuracy of a measured arm, with its own misfit, effects and lengths: (draw, budget)."""
        x, bits = jnp.asarray(self.log_size(arm.model)), jnp.asarray(arm.weight_bits)
        return np.asarray(_arm_accuracy(self.arm_draws(arm), x, bits, jnp.asarray(budgets, float)))

    def accuracy(
        self,
        x: float,
        weight_bits: float,
        budgets: np.ndarray,
        misfit: np.ndarray,
        traits: surface.Traits = surface.ON_TREND,
    ) -> np.ndarray:
        """Mean accuracy over the task's problems of a model of log size `x` that nobody ran.

        Parameters
        ----------
        budgets : (budget,) tokens. misfit : (draw,) logits added to the ability.
        traits : (draw,) each; by default the model is on the trend.

        Returns
        -------
        (draw, budget)
        """
        own = {"misfit": misfit, **dict(zip(surface.TRAITS, traits, strict=True))}
        draws = self.population_draws() | {k: jnp.broadcast_to(jnp.asarray(v), self.n_draws) for k, v in own.items()}
        return np.asarray(_accuracy(draws, float(x), float(weight_bits), jnp.asarray(budgets, float)))


def check_batch(batch: float) -> None:
    """Raise TslawError unless `batch` is a finite number of at least 1."""
    if not 1 <= batch < np.inf:
        raise TslawError(
            f"A batch of {batch:g} cannot share weights.", where="--batch", expected="a number of at least 1"
        )


def problem_accuracy(draw: dict[str, Array], x: Array, bits: Array, budgets: Array) -> Array:
    """One draw's chance of a right answer of a measured arm: (budget, problem). `draw`: see `Posterior.arm_draws`."""
    theta = surface.ability(draw, x, bits) + draw["misfit"]
    q = jax.nn.sigmoid(theta - draw["difficulty"] + draw["effect"])
    traits = surface.Traits(*(draw[name] for name in surface.TRAITS))
    slack = jnp.log(budgets) - surface.log_length(draw, x, bits, traits.mu)
    longer = surface.problem_length(draw) + draw["own_length"]
    solved = q * surface.solved_by(draw, slack[:, None], longer, x, bits, traits=traits)
    return surface.accuracy(solved, draw["guess"], surface.slip_rate(draw, x, traits.slip))


@jax.jit
def _arm_accuracy(draws: dict[str, Array], x: Array, bits: Array, budgets: Array) -> Array:
    return jax.lax.map(lambda d: problem_accuracy(d, x, bits, budgets).mean(axis=-1), draws, batch_size=64)


@jax.jit
def _accuracy(draws: dict[str, Array], x: Array, bits: Array, budgets: Array) -> Array:
    def one(draw: dict[str, Array]) -> Array:
        logit = surface.ability(draw, x, bits) + draw["misfit"] - draw["difficulty"]
        q = surface.average_solve_probability(logit, surface.effect_spread(draw, bits))
        traits = surface.Traits(*(draw[name] for name in surface.TRAITS))
        slack = jnp.log(budgets) - surface.log_length(draw, x, bits, traits.mu)
        longer = surface.problem_length(draw)
        solved = surface.solved_by(draw, slack[:, None], longer, x, bits, own_lengths=True, traits=traits)
        return surface.accuracy(solved @ q / len(q), draw["guess"], surface.slip_rate(draw, x, traits.slip))

    return jax.lax.map(one, draws, batch_size=64)
