"""What a compressed KV cache costs: the surface's terms for rounding, for eviction, and for both (hybrids add up).

Compression does two things to a trajectory. Solutions are found less often, and what was solved is lost: for good, as
the working that would find it again is gone too. Both are as large as a scale says, which changes with size and is a
model's own besides (`misfit`: `kv_misfit`, one number for each model and kind of compression). What one cache costs one
model is its own too (`own`: `kv_own`, an arm each, in both kinds for a hybrid):

    rounding to b_kv bits    scale = s_kv(b_kv) exp(-gamma_kv x + misfit + own)
        ability falls by delta_kv scale logits, and the solved is lost at the rate exp(loss_kv) scale on the clock on
        which relapses happen
    an evictor that keeps R  scale = exp(-gamma_evict x + misfit)
        a solution that would come after t > r tokens comes with the chance (r / t)^(found scale), where
        r = L exp(onset + reach x - own) (R / L)^worth and L = exp(mu0) is a typical length; the solved is lost at
        the rate exp(loss) scale on a clock that starts at r and runs as the `power` says: as ln(t / r) or as t / r

`found`, `loss`, `power`, `onset` and `worth` are one number an evictor each. r is fitted because R counts the prompt
too, and eviction waits for a buffer to fill; because evictors differ in what twice as many tokens are worth; and
because models differ in how long they manage with what is left, which is not how much they lose from then on. A model
that solves a problem within r tokens does so as with a full cache: eviction costs long thinking. Solutions that come
late are lost by the same rule, so no chance of solving depends on a problem's length.

Where a budget cuts in a text, an evicted cache may or may not hold what the answer needs, and does again at the next
budget: that is no loss, but a slip. Beyond R tokens every budget of every arm adds its own number to the logit of the
slip rate (`kv_cut`), between budgets what lies between. Everything here is a pure function of arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import ndtr

from tslaw.policy import KVPolicy

NATIVE_BITS, REFERENCE_BITS = 16.0, 2.0
ROUNDING = "quantized"
"""The kind of compression that is not an evictor's name."""
EVICTOR_TERMS = ("found", "loss", "power", "onset", "worth")
"""Parameters that every evictor has of its own, by the names in front of its."""
ONSET_WIDTH = 0.2
"""Log tokens over which eviction sets in: prompts differ in length, and so does what is left for thinking."""
LARGEST_EXPONENT = 80.0
"""No power of e beyond this is taken: it would be multiplied by zero, and must be finite for that."""


class Evicted(NamedTuple):
    """An evicted cache: `log_kept` ln r; `exponent` how much rarer later solutions come; `loss` the rate at which the
    solved is lost on the clock of `eviction_clock`, of that `power`."""

    log_kept: Array
    exponent: Array
    loss: Array
    power: Array


class Cuts(NamedTuple):
    """What is added to the logit of the slip rate, `logit`, at log budgets `log_budget`, (..., budget) both."""

    log_budget: Array
    logit: Array

    def at(self, budgets: Array) -> Array:
        """Of one draw at other budgets (budget,): between its own what lies between, beyond them as at the last."""
        return jnp.interp(jnp.log(budgets), self.log_budget, self.logit)


class CacheTerms(NamedTuple):
    """What an arm's cache costs: logits of ability, the rate at which the solved is lost by rounding, and `evicted`
    (None where nothing is)."""

    ability: Array
    loss: Array
    evicted: Evicted | None


def kinds_of(policy: KVPolicy) -> tuple[str, ...]:
    """The kinds of compression a policy is made of: none for a full cache, two for a hybrid."""
    evictor = (policy.evictor,) if policy.evictor else ()
    return evictor + ((ROUNDING,) if policy.bits != NATIVE_BITS else ())


def evicts(policy: KVPolicy, budget: float) -> bool:
    """Whether a policy has evicted something by `budget` tokens."""
    return policy.evictor is not None and budget > (policy.retain or 0)


def kinds_in(policies: Sequence[KVPolicy]) -> tuple[str, ...]:
    """All kinds that occur, in alphabetical order: the last axis of `kv_misfit`."""
    return tuple(sorted({kind for policy in policies for kind in kinds_of(policy)}))


def site_names(kinds: Sequence[str]) -> tuple[str, ...]:
    """The scalar parameters that a surface with these kinds of compression has besides the others."""
    evictors = [kind for kind in kinds if kind != ROUNDING]
    names = ["delta_kv", "kappa_kv", "gamma_kv", "loss_kv"] if ROUNDING in kinds else []
    names += ["gamma_evict", "reach"] if evictors else []
    names += [f"{term}_{evictor}" for evictor in evictors for term in EVICTOR_TERMS]
    names += ["sd_kv_cut"] if evictors else []
    return (*names, "sd_kv", "sd_kv_own") if names else ()


def kv_bit_shape(bits: Array, kappa_kv: Array) -> Array:
    """s_kv: how much of the damage of 2 bits a cache of `bits` does: 1 at 2 bits, 0 at 16, falling exponentially in
    between, so that 3 or 6 bits can be asked for. Shapes broadcast."""
    tail = jnp.exp(-kappa_kv * (NATIVE_BITS - REFERENCE_BITS))
    return (jnp.exp(-kappa_kv * (bits - REFERENCE_BITS)) - tail) / (1.0 - tail)


def rounding_terms(params: Mapping[str, Array], x: Array, bits: Array, misfit: Array) -> CacheTerms:
    """What a cache of `bits` costs a model of log size `x`; all broadcast."""
    scale = kv_bit_shape(bits, params["kappa_kv"]) * jnp.exp(misfit - params["gamma_kv"] * x)
    return CacheTerms(params["delta_kv"] * scale, jnp.exp(params["loss_kv"]) * scale, None)


def eviction_terms(
    params: Mapping[str, Array], evictor: str, x: Array, retain: Array, misfit: Array, own: Array
) -> Evicted:
    """What keeping `retain` tokens costs a model of log size `x`; all broadcast."""
    scale = jnp.exp(misfit - params["gamma_evict"] * x)
    onset = params[f"onset_{evictor}"] + params["reach"] * x - own
    return Evicted(
        params["mu0"] + onset + params[f"worth_{evictor}"] * (jnp.log(retain) - params["mu0"]),
        params[f"found_{evictor}"] * scale,
        jnp.exp(params[f"loss_{evictor}"]) * scale,
        params[f"power_{evictor}"],
    )


def cache_terms(
    params: Mapping[str, Array], policy: KVPolicy, x: Array, misfit: Mapping[str, Array], own: Array
) -> CacheTerms:
    """What a policy costs a model of log size `x` with these misfits, by kind, and what is this cache's `own`. `params`
    holds `mu0` besides `site_names`."""
    terms = CacheTerms(jnp.zeros(()), jnp.zeros(()), None)
    if policy.bits != NATIVE_BITS:
        terms = rounding_terms(params, x, jnp.asarray(float(policy.bits)), misfit[ROUNDING] + own)
    if policy.evictor is not None and policy.retain is not None:
        kept = jnp.asarray(float(policy.retain))
        evicted = eviction_terms(params, policy.evictor, x, kept, misfit[policy.evictor], own)
        terms = terms._replace(evicted=evicted)
    return terms


def found_by(slack: Array, kept_slack: Array, spread: Array, exponent: Array) -> Array:
    """The share of solutions, of log lengths Normal(0, `spread`), that are there by `slack` when one that takes longer
    than `kept_slack` comes with the chance exp(-exponent (length - kept_slack)) only; all broadcast.

    Up to `kept_slack` this is the normal distribution function; beyond it grows by the integral of its density times
    that chance, which is another normal's. Taken from the upper tails, as they are what is small where its factor is
    large.
    """
    moved = exponent * spread
    factor = jnp.exp(jnp.minimum(exponent * kept_slack + 0.5 * jnp.square(moved), LARGEST_EXPONENT))
    beyond = ndtr(-(kept_slack / spread + moved)) - ndtr(-(jnp.maximum(slack, kept_slack) / spread + moved))
    return ndtr(jnp.minimum(slack, kept_slack) / spread) + factor * beyond


def eviction_clock(log_over_kept: Array, power: Array) -> Array:
    """The time in which an evicted cache loses what was solved, at `log_over_kept` log tokens beyond r.

    ((T / r)^power - 1) / power from T = r on: the logarithm of T / r for small powers, T / r for a power of 1.
    """
    since = ONSET_WIDTH * jnp.logaddexp(log_over_kept / ONSET_WIDTH, 0.0)
    return jnp.expm1(power * since) / power
