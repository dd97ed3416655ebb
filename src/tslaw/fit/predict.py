"""Accuracy of a size, bit width and budget that nobody ran, with the uncertainty of what is that model's own."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from tslaw.errors import TslawError
from tslaw.fit.cache_terms import evicts, kinds_of
from tslaw.fit.posterior import Posterior, cut_draws
from tslaw.fit.surface import TRAITS, Traits, weight_bit_shape
from tslaw.policy import FULL, KVPolicy

MAX_EXTRAPOLATION = 64.0


class Unseen(NamedTuple):
    """What models nobody ran may have of their own, a draw each: the misfits of the model and of its quantization, in
    logits, (draw,), and its traits."""

    misfit: np.ndarray
    quantization_misfit: np.ndarray
    traits: Traits


def draw_unseen(posterior: Posterior, rng: np.random.Generator) -> Unseen:
    """One unseen model for every posterior draw: all that is its own is Normal(0, that draw's standard deviation)."""
    spreads = ("sd_misfit", "sd_misfit_w", *TRAITS.values())
    misfit, of_quantization, *traits = (
        posterior.params[name] * rng.standard_normal(posterior.n_draws) for name in spreads
    )
    return Unseen(misfit, of_quantization, Traits(*traits))


def predict_accuracy(
    posterior: Posterior,
    n_params: float,
    weight_bits: float,
    token_budgets: np.ndarray,
    seed: int = 0,
    policy: KVPolicy = FULL,
) -> np.ndarray:
    """Posterior predictive mean accuracy of a new model of the family over the task's problems.

    Every draw gets the misfits and traits of a model nobody has seen: see `draw_unseen`.

    Parameters
    ----------
    n_params : parameters of the model. token_budgets : (budget,). policy : of its KV cache, any number of bits or kept
    tokens of the kinds that were fitted.

    Returns
    -------
    (draw, budget)

    Raises
    ------
    TslawError : a size more than a factor of 64 away from the family's reference size, bits outside 2 to 16,
    budgets below 1, a KV policy of a kind that was not fitted.
    """
    if not posterior.reference_size / MAX_EXTRAPOLATION <= n_params <= posterior.reference_size * MAX_EXTRAPOLATION:
        raise TslawError(
            f"{n_params:.3g} parameters are too far from what was measured.",
            where="--params",
            expected=f"within a factor of {MAX_EXTRAPOLATION:.0f} of {posterior.reference_size:.3g}",
        )
    if not 2 <= weight_bits <= 16:
        raise TslawError(
            f"{weight_bits:g} bits a weight make no sense here.", where="--weight-bits", expected="2 to 16"
        )
    if (np.asarray(token_budgets) < 1).any():
        raise TslawError("A token budget must be at least 1.", where="--token-budget")
    rng = np.random.default_rng(seed)
    unseen = draw_unseen(posterior, rng)
    kappa = jnp.asarray(posterior.params["kappa_w"])
    share = np.asarray(weight_bit_shape(jnp.asarray(weight_bits), kappa))
    misfit = unseen.misfit + share * unseen.quantization_misfit
    x = float(np.log(n_params / posterior.reference_size))
    cache = unseen_cache(posterior, policy, x, np.asarray(token_budgets, float), rng)
    return posterior.accuracy(x, weight_bits, token_budgets, misfit, unseen.traits, cache)


def unseen_cache(
    posterior: Posterior, policy: KVPolicy, x: float, token_budgets: np.ndarray, rng: np.random.Generator
) -> dict[str, Any] | None:
    """What a KV policy costs a model of log size `x` nobody has seen, whose misfits are drawn, and the slips at
    `token_budgets` (budget,); None for a full cache.

    Raises
    ------
    TslawError : a kind of compression that was not fitted.
    """
    if policy == FULL:
        return None
    none = np.zeros(posterior.n_draws)
    of_kind, of_cache = (posterior.params.get(name, none) for name in ("sd_kv", "sd_kv_own"))
    own = jnp.asarray(of_cache * rng.standard_normal(posterior.n_draws))
    misfits = {kind: jnp.asarray(of_kind * rng.standard_normal(posterior.n_draws)) for kind in kinds_of(policy)}
    cuts = np.array([evicts(policy, budget) for budget in token_budgets])
    slips = posterior.params.get("sd_kv_cut", none)[:, None] * rng.standard_normal((posterior.n_draws, len(cuts)))
    order = np.argsort(token_budgets)
    return posterior.cache_draws(policy, x, misfits, own) | cut_draws(token_budgets[order], (cuts * slips)[:, order])
