"""How a fit of published means is checked: replicated means, LOO by report, and the same gate as every other fit."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from tslaw.fit.diagnostics import EFFECTS, Diagnosis, judge
from tslaw.fit.infer import Draws
from tslaw.fit.means_data import MeansData
from tslaw.fit.means_left_out import draws_moments, kept_draws
from tslaw.fit.means_loo import Refit, leave_reports_out
from tslaw.fit.means_model import report_error
from tslaw.fit.model import POPULATION
from tslaw.fit.predictive import PREDICTIVE_DRAWS


def replicated_means(draws: Draws, data: MeansData, points: np.ndarray, seed: int) -> np.ndarray:
    """What a repeat with as many answers would report: (chain, kept draw, arm, budget), NaN where nothing was."""
    kept, shape = kept_draws(draws.posterior, PREDICTIVE_DRAWS)
    mean, within, _ = draws_moments(kept, data, points)
    error = np.asarray(report_error(jnp.asarray(within), data.report_answers))
    noise = np.random.default_rng(seed).standard_normal(mean.shape)
    drawn, answers = np.clip(mean + error * noise, 0.0, 1.0), data.report_answers
    right, total = np.zeros((2, len(mean), len(data.arms), len(data.budgets)))
    for r, (arm, budget) in enumerate(zip(data.report_arm, data.report_budget, strict=True)):
        total[:, arm, budget] += answers[r]
        right[:, arm, budget] += drawn[:, r] * answers[r]
    with np.errstate(invalid="ignore"):
        return (right / total).reshape(*shape, len(data.arms), len(data.budgets))


def check_means(
    draws: Draws, data: MeansData, points: np.ndarray, refit: Refit | None = None
) -> tuple[Diagnosis, np.ndarray]:
    """The diagnosis, and the worst Pareto k of the reports of every arm and budget: (arm, budget), NaN without any.

    `refit` fits the task without a report, where LOO cannot be had from the draws.
    """
    loo, refitted = leave_reports_out(draws, data, points, refit)
    diagnosis, k = judge(draws, data.task, loo, POPULATION, EFFECTS), np.asarray(loo.pareto_k.values, float)
    table = np.full((len(data.arms), len(data.budgets)), np.nan)
    for arm, budget, value in zip(data.report_arm, data.report_budget, k, strict=True):
        table[arm, budget] = np.fmax(table[arm, budget], value)
    return replace(diagnosis, refitted=int(refitted.sum())), table
