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


class FamilyArm(NamedTuple):
    """A model at a weight bit width that was measured; bytes of weights and of 16-bit KV cache a token."""

    position: int
    model: str
    weight_bits: float
    weight: float
    kv_per_token: float


@dataclass(frozen=True)
class Posterior:
    """Draws of one task, chains joined: `params` maps names to (draw,), (draw, problem) or (draw, arm) arrays.

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

    def family_arms(self, accounting: Accounting) -> list[FamilyArm]:
        """The measured arms, ordered by weight bytes."""
        arms = [
            FamilyArm(
                i, m, float(b), weight_bytes(self.shapes[m], float(b), accounting), kv_bytes_per_token(self.shapes[m])
            )
            for i, (m, b) in enumerate(zip(self.models, self.weight_bits, strict=True))
        ]
        return sorted(arms, key=lambda a: a.weight)

    def arm_accuracy(self, arm: FamilyArm, budgets: np.ndarray) -> np.ndarray:
        """Accuracy of a measured arm, its misfit included: (draw, budget)."""
        return self.accuracy(self.log_size(arm.model), arm.weight_bits, budgets, self.params["misfit"][:, arm.position])

    def accuracy(self, x: float, weight_bits: float, budgets: np.ndarray, misfit: np.ndarray) -> np.ndarray:
        """Mean accuracy over the task's problems at log size `x`.

        Parameters
        ----------
        budgets : (budget,) tokens. misfit : (draw,) logits added to the ability.

        Returns
        -------
        (draw, budget)
        """
        draws = self.population_draws()
        return np.asarray(
            _accuracy(draws, jnp.asarray(misfit), float(x), float(weight_bits), jnp.asarray(budgets, float))
        )


def check_batch(batch: float) -> None:
    """Raise TslawError unless `batch` is a finite number of at least 1."""
    if not 1 <= batch < np.inf:
        raise TslawError(
            f"A batch of {batch:g} cannot share weights.", where="--batch", expected="a number of at least 1"
        )


@jax.jit
def _accuracy(draws: dict[str, Array], misfit: Array, x: Array, bits: Array, budgets: Array) -> Array:
    def one(draw: dict[str, Array], u: Array) -> Array:
        theta = surface.ability(draw, x, bits) + u
        present = ~jnp.isnan(draw["difficulty"])
        q = jnp.where(present, jax.nn.sigmoid(theta - draw["difficulty"]), 0.0)
        longer = jnp.where(present, surface.problem_length(draw), 0.0)
        slack = jnp.log(budgets) - surface.log_length(draw, x, bits)
        finished = surface.finished_by(draw, slack[:, None], longer)
        return surface.accuracy(finished @ q / present.sum(), draw["guess"], surface.slip_rate(draw, x))

    return jax.lax.map(lambda pair: one(*pair), (draws, misfit), batch_size=64)
