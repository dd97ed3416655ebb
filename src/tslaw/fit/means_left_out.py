"""What a reported mean is worth given the others and a draw: the densities that LOO by report weighs draws by."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tslaw.fit import surface
from tslaw.fit.means_data import MeansData
from tslaw.fit.means_model import Moments, report_error, report_moments
from tslaw.fit.model import POPULATION


def left_out_reports(posterior: dict[str, np.ndarray], data: MeansData, points: np.ndarray) -> np.ndarray:
    """Log-likelihood of every report given the others and a draw of the population: (chain, draw, report).

    Given its own misfit a report is known before it is seen, and no draw would stand for the others. So the misfits are
    integrated out: over their prior, with the surface taken to be linear in them around the draw, the reports of one
    draw are jointly normal, and what each is given the others is known (Rasmussen & Williams 2006, section 5.4.2).
    """
    kept, shape = kept_draws(posterior, posterior["alpha"].size)
    mean, within, slope = draws_moments(kept, data, points)
    error = np.asarray(report_error(jnp.asarray(within), data.report_answers))
    bits = jnp.asarray(data.weight_bits)
    quantized = np.asarray(surface.weight_bit_shape(bits, jnp.asarray(kept["kappa_w"])[:, None]))[:, data.report_arm]
    model = data.model_index()[data.report_arm]
    same = (model[:, None] == model[None, :]).astype(float)
    both = quantized[:, :, None] * quantized[:, None, :]
    prior = same * (kept["sd_misfit"][:, None, None] ** 2 + kept["sd_misfit_w"][:, None, None] ** 2 * both)
    # One report of a model is one arm's, and an arm has one misfit, however many reports.
    covariance = slope[:, :, None] * prior * slope[:, None, :]
    covariance[:, np.arange(len(model)), np.arange(len(model))] += error**2
    expected = mean - slope * kept["misfit"][:, data.report_arm]
    precision = np.linalg.inv(covariance)
    pull = np.einsum("drs,ds->dr", precision, data.report_accuracy - expected)
    own = np.diagonal(precision, axis1=1, axis2=2)
    each = -0.5 * pull**2 / own + 0.5 * np.log(own) - 0.5 * np.log(2.0 * np.pi)
    return each.reshape(*shape, len(model))


def kept_draws(posterior: dict[str, np.ndarray], most: int) -> tuple[dict[str, np.ndarray], tuple[int, int]]:
    """About `most` draws, chains joined, of what the surface needs; and how many a chain."""
    chains, n = posterior["alpha"].shape
    step = max(1, chains * n // most)
    names = (*POPULATION, "misfit")
    kept = {name: posterior[name][:, ::step] for name in names}
    shape = kept["alpha"].shape
    return {name: values.reshape(-1, *values.shape[2:]) for name, values in kept.items()}, (shape[0], shape[1])


def draws_moments(
    flat: dict[str, np.ndarray], data: MeansData, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P, V and how P changes with its arm's misfit, for every draw: (draw, report) each."""

    def one(params: dict[str, Array]) -> Moments:
        return report_moments(params, data, points)

    run = jax.jit(lambda f: jax.lax.map(one, f, batch_size=64))
    found = run({k: jnp.asarray(v) for k, v in flat.items()})
    return np.asarray(found.mean), np.asarray(found.within), np.asarray(found.slope)
