"""Accuracy of a size, bit width and budget that nobody ran, with the uncertainty of the arm's own misfit."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from tslaw.errors import TslawError
from tslaw.fit.posterior import Posterior
from tslaw.fit.surface import weight_bit_shape

MAX_EXTRAPOLATION = 64.0


def predict_accuracy(
    posterior: Posterior, n_params: float, weight_bits: float, token_budgets: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Posterior predictive mean accuracy of a new model of the family over the task's problems.

    A new arm has a misfit nobody has seen: every draw gets one, of its model from Normal(0, sd_misfit) and of its
    quantization from Normal(0, s(b) sd_misfit_w).

    Parameters
    ----------
    n_params : parameters of the model. token_budgets : (budget,).

    Returns
    -------
    (draw, budget)

    Raises
    ------
    TslawError : a size more than a factor of 64 away from the family's reference size, bits outside 2 to 16,
    budgets below 1.
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
    own, quantized = rng.standard_normal((2, posterior.n_draws))
    kappa = jnp.asarray(posterior.params["kappa_w"])
    share = np.asarray(weight_bit_shape(jnp.asarray(weight_bits), kappa))
    misfit = posterior.params["sd_misfit"] * own + share * posterior.params["sd_misfit_w"] * quantized
    return posterior.accuracy(float(np.log(n_params / posterior.reference_size)), weight_bits, token_budgets, misfit)
