"""A fitted task as arrays of draws: what every estimand starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tslaw.errors import TslawError
from tslaw.fit import surface
from tslaw.fit.cache_terms import Cuts, cache_terms, kinds_in, kinds_of, site_names
from tslaw.fit.model import POPULATION
from tslaw.fit.over_draws import each_draw, over_draws
from tslaw.memory import Accounting, kv_bytes_per_token, n_params, weight_bytes
from tslaw.policy import FULL, KVPolicy
from tslaw.shape import ModelShape

PROBLEM_EFFECTS = ("difficulty", "length")
CONTROL = "random"
"""The evictor that nobody would run: what choosing tokens is compared with."""
MODEL_EFFECTS = ("model_effect", "quantization_effect")


def marked(task: str, approximate: bool) -> str:
    """The name of a task, with a mark if what is said of it is approximate."""
    return f"{task} (approximate)" if approximate else task


class FamilyArm(NamedTuple):
    """A model at a weight bit width that was measured; bytes of weights and of KV cache a kept token."""

    position: int
    model: str
    weight_bits: float
    weight: float
    kv_per_token: float
    policy: KVPolicy = FULL

    def cache_bytes(self, budgets: np.ndarray) -> np.ndarray:
        """Bytes of one generation's KV cache at `budgets` (budget,): (budget,). Thinking tokens only, as the paper
        counts."""
        kept = budgets if self.policy.retain is None else np.minimum(budgets, self.policy.retain)
        return np.asarray(kept * self.kv_per_token)

    def memory(self, budgets: np.ndarray, batch: float) -> np.ndarray:
        """Bytes of one generation at `budgets` (budget,), weights shared by `batch` of them: (budget,)."""
        return self.weight / batch + self.cache_bytes(budgets)

    def acts(self, budgets: np.ndarray) -> np.ndarray:
        """At which of `budgets` (budget,) the cache is what the policy says: up to what an evicting one keeps it is a
        full cache still."""
        return np.asarray(budgets > (self.policy.retain or 0))


@dataclass(frozen=True)
class Posterior:
    """Draws of one task, chains joined: `params` maps names to (draw,), (draw, problem), (draw, arm), (draw, model,
    problem) or (draw, arm, problem) arrays; where compressed caches were fitted, `kv_misfit` (draw, model, kind),
    `kv_own` (draw, arm) and `kv_cut` (draw, arm, budget).

    `policies` (arm,) are the arms' KV policies; empty where all caches are full. `wrong_spread` (problem,): see
    `vote_model`.
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
    policies: tuple[KVPolicy, ...] = ()
    approximate: bool = False

    @property
    def cache_kinds(self) -> tuple[str, ...]:
        """The kinds of KV compression that were fitted."""
        return kinds_in(self.policies)

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
        names = (*POPULATION, *PROBLEM_EFFECTS, *site_names(self.cache_kinds))
        return {k: jnp.asarray(self.params[k]) for k in names}

    def log_size(self, model: str) -> float:
        """x of a model of the family."""
        return float(np.log(n_params(self.shapes[model]) / self.reference_size))

    @property
    def log_size_range(self) -> tuple[float, float]:
        """x of the smallest model and of the largest."""
        sizes = [self.log_size(model) for model in self.shapes]
        return min(sizes), max(sizes)

    def family_arms(self, accounting: Accounting, compressed: bool = False) -> list[FamilyArm]:
        """The measured arms with a full KV cache, with `compressed` all of them, ordered by weight bytes."""
        policies = self.policies or (FULL,) * len(self.arms)
        arms = [
            FamilyArm(
                i,
                m,
                float(b),
                weight_bytes(self.shapes[m], float(b), accounting),
                kv_bytes_per_token(self.shapes[m], policy),
                policy,
            )
            for i, (m, b, policy) in enumerate(zip(self.models, self.weight_bits, policies, strict=True))
            if compressed or policy == FULL
        ]
        return sorted(arms, key=lambda a: a.weight)

    def contenders(self, accounting: Accounting) -> list[FamilyArm]:
        """The measured arms that somebody may want to run, compressed caches too: random eviction is a control."""
        return [arm for arm in self.family_arms(accounting, compressed=True) if arm.policy.evictor != CONTROL]

    def arm_draws(self, arm: FamilyArm) -> dict[str, Any]:
        """Everything about a measured arm, as JAX arrays with the draw first: the population, the arm's misfit
        and its model's traits (draw,), `effect` and `own_length` (draw, problem), and where its KV cache is compressed
        the terms of that as `cache` and `cuts`."""
        model = list(self.shapes).index(arm.model)
        own, quantized = (jnp.asarray(self.params[name][:, model]) for name in MODEL_EFFECTS)
        share = surface.weight_bit_shape(jnp.asarray(arm.weight_bits), jnp.asarray(self.params["kappa_w"]))
        draws = self.population_draws()
        if arm.policy != FULL:
            misfits = dict(zip(self.cache_kinds, jnp.asarray(self.params["kv_misfit"][:, model]).T, strict=True))
            of_cache = jnp.asarray(self.params["kv_own"][:, arm.position])
            draws |= self.cache_draws(arm.policy, self.log_size(arm.model), misfits, of_cache)
            draws |= cut_draws(self.budgets, self.params["kv_cut"][:, arm.position])
        return draws | {
            "misfit": jnp.asarray(self.params["misfit"][:, arm.position]),
            "effect": own + share[:, None] * quantized,
            "own_length": jnp.asarray(self.params["own_length"][:, arm.position]),
            **{name: jnp.asarray(self.params[name][:, model]) for name in surface.TRAITS},
        }

    def cache_draws(
        self, policy: KVPolicy, x: float, misfits: Mapping[str, Array], own: Array | float = 0.0
    ) -> dict[str, Any]:
        """What a KV policy costs a model of log size `x` with these misfits by kind and what is this cache's `own`,
        (draw,) each, as `cache`.

        Raises
        ------
        TslawError : a kind of compression that was not fitted.
        """
        if absent := [kind for kind in kinds_of(policy) if kind not in self.cache_kinds]:
            raise TslawError(
                f"What {' and '.join(absent)} KV caches cost was not fitted.",
                where=f"task {self.task}, KV policy {policy}",
                expected=f"a policy made of {', '.join(self.cache_kinds)}" if self.cache_kinds else "the policy full",
                fix="fit measurements of such caches: tslaw fit FULL.nc COMPRESSED.nc --compressed-kv --out FIT.nc",
            )
        draws = {name: jnp.asarray(self.params[name]) for name in ("mu0", *site_names(self.cache_kinds))}
        terms = cache_terms(draws, policy, jnp.asarray(x), misfits, jnp.asarray(own))
        return {"cache": jax.tree.map(lambda term: jnp.broadcast_to(term, (self.n_draws,)), terms)}

    def arm_accuracy(self, arm: FamilyArm, budgets: np.ndarray) -> np.ndarray:
        """Accuracy of a measured arm, with its own misfit, effects and lengths: (draw, budget)."""
        x, bits = jnp.asarray(self.log_size(arm.model)), jnp.asarray(arm.weight_bits)
        at = jnp.asarray(budgets, float)
        return np.asarray(over_draws(lambda draws: _arm_accuracy(draws, x, bits, at), self.arm_draws(arm)))

    def accuracy(
        self,
        x: float,
        weight_bits: float,
        budgets: np.ndarray,
        misfit: np.ndarray,
        traits: surface.Traits = surface.ON_TREND,
        cache: Mapping[str, Any] | None = None,
    ) -> np.ndarray:
        """Mean accuracy over the task's problems of a model of log size `x` that nobody ran.

        Parameters
        ----------
        budgets : (budget,) tokens. misfit : (draw,) logits added to the ability.
        traits : (draw,) each; by default the model is on the trend.
        cache : what its KV cache costs, from `cache_draws` and `cut_draws`; nothing by default.

        Returns
        -------
        (draw, budget)
        """
        own = {"misfit": misfit, **dict(zip(surface.TRAITS, traits, strict=True))}
        draws = self.population_draws() | {k: jnp.broadcast_to(jnp.asarray(v), self.n_draws) for k, v in own.items()}
        draws |= cache or {}
        at = jnp.asarray(budgets, float)
        return np.asarray(over_draws(lambda some: _accuracy(some, float(x), float(weight_bits), at), draws))


def cut_draws(budgets: np.ndarray, logit: np.ndarray) -> dict[str, Any]:
    """What slips are more than usual at `budgets` (budget,), `logit` (draw, budget), as `cuts`."""
    return {"cuts": Cuts(jnp.broadcast_to(jnp.log(budgets), logit.shape), jnp.asarray(logit))}


def slip_at(draw: dict[str, Any], x: Array, own: Array | np.ndarray | float, budgets: Array) -> Array:
    """One draw's slip rate at every budget: (budget,)."""
    cuts = draw.get("cuts")
    more = jnp.zeros(budgets.shape) if cuts is None else cuts.at(budgets)
    return surface.slip_rate(draw, x, own + more)


def check_batch(batch: float) -> None:
    """Raise TslawError unless `batch` is a finite number of at least 1."""
    if not 1 <= batch < np.inf:
        raise TslawError(
            f"A batch of {batch:g} cannot share weights.", where="--batch", expected="a number of at least 1"
        )


def problem_accuracy(draw: dict[str, Any], x: Array, bits: Array, budgets: Array) -> Array:
    """One draw's chance of a right answer of a measured arm: (budget, problem). `draw`: see `Posterior.arm_draws`."""
    cache = draw.get("cache")
    theta = surface.ability(draw, x, bits) + draw["misfit"] - (0.0 if cache is None else cache.ability)
    q = jax.nn.sigmoid(theta - draw["difficulty"] + draw["effect"])
    traits = surface.Traits(*(draw[name] for name in surface.TRAITS))
    slack = jnp.log(budgets) - surface.log_length(draw, x, bits, traits.mu)
    longer = surface.problem_length(draw) + draw["own_length"]
    solved = q * surface.solved_by(draw, slack[:, None], longer, x, bits, traits=traits, cache=cache)
    return surface.accuracy(solved, draw["guess"], slip_at(draw, x, traits.slip, budgets)[:, None])


@jax.jit
def _arm_accuracy(draws: dict[str, Any], x: Array, bits: Array, budgets: Array) -> Array:
    return each_draw(lambda draw: problem_accuracy(draw, x, bits, budgets).mean(axis=-1), draws)


@jax.jit
def _accuracy(draws: dict[str, Any], x: Array, bits: Array, budgets: Array) -> Array:
    def one(draw: dict[str, Any]) -> Array:
        cache = draw.get("cache")
        lost = 0.0 if cache is None else cache.ability
        logit = surface.ability(draw, x, bits) + draw["misfit"] - lost - draw["difficulty"]
        q = surface.average_solve_probability(logit, surface.effect_spread(draw, bits))
        traits = surface.Traits(*(draw[name] for name in surface.TRAITS))
        slack = jnp.log(budgets) - surface.log_length(draw, x, bits, traits.mu)
        longer = surface.problem_length(draw)
        solved = surface.solved_by(draw, slack[:, None], longer, x, bits, own_lengths=True, traits=traits, cache=cache)
        return surface.accuracy(solved @ q / len(q), draw["guess"], slip_at(draw, x, traits.slip, budgets))

    return each_draw(one, draws)
