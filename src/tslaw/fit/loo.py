"""Leaving out what one model did on one problem: the log-likelihoods that LOO weighs posterior draws by.

A model's effects on a problem are known from its own trajectories on it alone. Given drawn effects, the weights of what
decided them would be too uneven to use; so they are integrated out, over the prior that the draw gives them, as the
lengths are (integrated importance sampling, Vehtari et al. 2016). The quadrature is Gauss and Hermite's, with nodes
where the posterior has each effect.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tslaw.fit import surface
from tslaw.fit.data import TaskData
from tslaw.fit.lengths import LengthGrid, RowTable, cells_by_length, length_grid, log_prior_length, row_table
from tslaw.fit.over_draws import over_draws

EFFECTS = {"model_effect": "sd_effect", "quantization_effect": "sd_effect_w"}
N_NODES = 6
WIDER, NARROWEST = 1.3, 0.2
"""Nodes are spread as the posterior's standard deviation times this, and at least as so many logits."""
MOST_DRAWS, FEW_DRAWS = 1000, 256
"""Draws that are weighed, and for a quick look. Pareto's k is estimated from the largest weights, so few draws make it
noisy: of the pairs of the shipped maths fit 9.2% have one above 0.7 by 256 draws, 6.9% by 1,400."""


def thinned(posterior: dict[str, np.ndarray], most: int = MOST_DRAWS) -> dict[str, np.ndarray]:
    """At most so many evenly spaced draws of all chains together, (chain, draw, ...) arrays."""
    chains, draws = next(iter(posterior.values())).shape[:2]
    step = -(-chains * draws // most)
    return {name: values[:, ::step] for name, values in posterior.items()}


def left_out_log_likelihood(posterior: dict[str, np.ndarray], data: TaskData) -> np.ndarray:
    """Log-likelihood of what every model did on every problem given all else: (chain, draw, model, problem).

    `posterior` maps names to (chain, draw, ...) arrays: the population's parameters and the effects. Pairs without data
    give 0.
    """
    grid, rows = length_grid(data.budgets), row_table(data)
    chains, draws = posterior["mu0"].shape
    middle = {n: jnp.asarray(posterior[n].mean(axis=(0, 1))) for n in EFFECTS}
    width = {n: jnp.asarray(np.maximum(WIDER * posterior[n].std(axis=(0, 1)), NARROWEST)) for n in EFFECTS}
    flat = {k: v.reshape(chains * draws, *v.shape[2:]) for k, v in posterior.items()}

    def one(params: dict[str, Array]) -> Array:
        return _given_the_others(params, data, grid, rows, middle, width)

    found = over_draws(jax.jit(lambda some: jax.lax.map(one, some)), flat)
    return np.asarray(found).reshape(chains, draws, *found.shape[1:])


def _given_the_others(
    params: dict[str, Array],
    data: TaskData,
    grid: LengthGrid,
    rows: RowTable,
    middle: dict[str, Array],
    width: dict[str, Array],
) -> Array:
    """One draw's (model, problem)."""
    model = data.model_index()
    quantized = surface.weight_bit_shape(jnp.asarray(data.weight_bits), params["kappa_w"])

    def by_model(effect: Array, effect_w: Array) -> Array:
        own = surface.own_effect(effect, effect_w, quantized, model)
        # Weights that are equal by rounding alone have no tail to smooth.
        cells = cells_by_length(params, data, grid, rows, own, params["mu0"].dtype)
        return jax.ops.segment_sum(jnp.swapaxes(cells, 0, 1), model, int(model.max()) + 1)

    drawn = by_model(params["model_effect"], params["quantization_effect"])
    places, weights = np.polynomial.hermite_e.hermegauss(N_NODES)
    nodes = jnp.asarray(np.stack(np.meshgrid(places, places, indexing="ij"), axis=-1).reshape(-1, 2))
    log_weights = jnp.asarray(np.log(np.outer(weights, weights).ravel() / (2.0 * np.pi)))

    def at(node: Array) -> Array:
        effects, gain = {}, jnp.zeros(())
        for z, (name, spread) in zip(node, EFFECTS.items(), strict=True):
            # Where the posterior has the effect, and no wider than this draw's prior is.
            scale = jnp.minimum(width[name], params[spread])
            effects[name] = (scale / width[name]) ** 2 * middle[name] + scale * z
            # prior density over that of the nodes, whose weights hold exp(-z^2 / 2)
            standard = effects[name] / params[spread]
            gain = gain + 0.5 * (z * z - standard * standard) + jnp.log(scale / params[spread])
        return by_model(effects["model_effect"], effects["quantization_effect"]) + gain[..., None]

    each = jax.lax.map(at, nodes)
    integrated = jax.nn.logsumexp(each + log_weights[:, None, None, None], axis=0)
    others = log_prior_length(params, grid) + drawn.sum(axis=0) - drawn
    together = jax.nn.logsumexp(others + integrated, axis=-1)
    return together - jax.nn.logsumexp(others, axis=-1)
