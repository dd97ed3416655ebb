"""The KV caches of measured arms: the terms of `cache_terms` for the arms of one task's data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from tslaw.fit import surface
from tslaw.fit.cache_terms import (
    ROUNDING,
    CacheTerms,
    Evicted,
    eviction_clock,
    eviction_terms,
    kinds_of,
    rounding_terms,
)
from tslaw.fit.data import TaskData

Params = Mapping[str, Array]


class Evicting(NamedTuple):
    """The arms with an evicted cache, by place (evicting,), and their terms, (evicting,) each."""

    arm: np.ndarray
    terms: Evicted


def kind_misfit(params: Params, data: TaskData, kind: str, arm: np.ndarray) -> Array:
    """What the models of arms (place,) have of their own in one kind of compression: (place,)."""
    return params["kv_misfit"][data.model_index()[arm], data.cache_kinds.index(kind)]


def arms_of(data: TaskData, kind: str) -> np.ndarray:
    """The arms with this kind of compression, hybrids among them: (place,)."""
    return np.array([i for i, policy in enumerate(data.kv_policies) if kind in kinds_of(policy)], int)


def slips(params: Params, data: TaskData, traits: surface.Traits) -> Array:
    """The slip rate of every arm, whose models have these traits, at every budget: (arm, budget)."""
    own = jnp.asarray(traits.slip)[:, None] + (params["kv_cut"] if data.cache_kinds else 0.0)
    rates = surface.slip_rate(params, jnp.asarray(data.log_size)[:, None], own)
    return jnp.broadcast_to(rates, (len(data.arms), len(data.budgets)))


def rounding(params: Params, data: TaskData) -> CacheTerms:
    """What rounding costs every arm, (arm,) each; 0 for those whose cache is not rounded."""
    nothing = jnp.zeros(len(data.arms))
    if ROUNDING not in data.cache_kinds:
        return CacheTerms(nothing, nothing, None)
    arm = arms_of(data, ROUNDING)
    bits = jnp.asarray([float(data.kv_policies[i].bits) for i in arm])
    misfit = kind_misfit(params, data, ROUNDING, arm) + params["kv_own"][arm]
    found = rounding_terms(params, jnp.asarray(data.log_size[arm]), bits, misfit)
    return CacheTerms(nothing.at[arm].set(found.ability), nothing.at[arm].set(found.loss), None)


def eviction(params: Params, data: TaskData) -> Evicting | None:
    """The arms whose cache is evicted, evictor by evictor; None without any."""
    places, terms = [], []
    for evictor in (kind for kind in data.cache_kinds if kind != ROUNDING):
        arm = arms_of(data, evictor)
        retain = jnp.asarray([float(data.kv_policies[i].retain or 0) for i in arm])
        x, misfit = jnp.asarray(data.log_size[arm]), kind_misfit(params, data, evictor, arm)
        found = eviction_terms(params, evictor, x, retain, misfit, params["kv_own"][arm])
        places.append(arm)
        terms.append([jnp.broadcast_to(term, arm.shape) for term in found])
    if not places:
        return None
    return Evicting(np.concatenate(places), Evicted(*(jnp.concatenate(each) for each in zip(*terms, strict=True))))


def finished(params: Params, data: TaskData, mean_log_length: Array, late: Array) -> Array:
    """F of every arm, (arm, place, budget), for mean log lengths and late shares (arm, place); that of an arm with an
    evicted cache does not reach 1."""
    log_budgets = jnp.log(data.budgets)
    found = surface.finished_by(params, log_budgets, mean_log_length[..., None], late[..., None])
    if (evicting := eviction(params, data)) is None:
        return found
    arm, terms = evicting
    each = Evicted(*(term[:, None, None] for term in terms))
    lost = surface.finished_by(params, log_budgets, mean_log_length[arm, :, None], late[arm, :, None], each)
    return found.at[arm].set(lost)


def losses(params: Params, data: TaskData, slack: Array, log_budgets: np.ndarray) -> Array:
    """How much the arms' caches have lost, (arm, budget), as multiples of e, at log budgets (budget,) that lie `slack`
    (arm, budget) beyond the arms' typical lengths."""
    found = rounding(params, data).loss[:, None] * surface.clock(params, slack)
    if (evicting := eviction(params, data)) is None:
        return found
    arm, terms = evicting
    time = eviction_clock(jnp.asarray(log_budgets) - terms.log_kept[:, None], terms.power[:, None])
    return found.at[arm].add(terms.loss[:, None] * time)
