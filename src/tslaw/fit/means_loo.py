"""Leaving out one reported mean: by importance where that can be trusted, and by fitting without it where it cannot.

Six to ten means decide a fit together, so the posterior without one of them is often too far away for its draws to be
reweighed (Pareto k > 0.7), however many there are. Fitting without it is exact (Vehtari, Gelman & Gabry 2017, section
3.3), and a fit of means takes a minute. Such a fit is believed if its draws are good for the one mean that is asked
of them (`trusted`); otherwise the report keeps the Pareto k it had.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import arviz_stats
import numpy as np

from tslaw.fit.diagnostics import BAD_PARETO, RHAT_EFFECT, loo_of, with_points
from tslaw.fit.infer import Draws
from tslaw.fit.means_data import MeansData
from tslaw.fit.means_left_out import left_out_reports

LOO_DRAWS = 1024
LEAST_WORTH = 25.0
"""Draws of a fit without a report that the mean of its density is worth, for a standard error of a fifth of it."""

Refit = Callable[[int], Draws]
"""From the place of a report to draws of the fit without it."""


class ReportsLeftOut(NamedTuple):
    """LOO by report: ArviZ's `ELPDData`, whose Pareto k is 0 where a fit without the report replaced the importance
    sampling, and `refitted` (report,), where that is."""

    loo: Any
    refitted: np.ndarray


def leave_reports_out(draws: Draws, data: MeansData, points: np.ndarray, refit: Refit | None) -> ReportsLeftOut:
    """LOO of every report; with `refit`, those that importance sampling cannot say are fitted without."""
    chains, n = draws.posterior["alpha"].shape
    step = max(1, chains * n // LOO_DRAWS)
    few = {name: values[:, ::step] for name, values in draws.posterior.items()}
    loo = loo_of(few, left_out_reports(few, data, points))
    k = np.asarray(loo.pareto_k.values, float)
    refitted = np.zeros(len(k), bool)
    if refit is None:
        return ReportsLeftOut(loo, refitted)
    exact = np.array(loo.elpd_i.values, float)
    for report in np.flatnonzero(~(k <= BAD_PARETO)):
        found = refit(int(report))
        log_density = left_out_reports(found.posterior, data, points)[:, :, report]
        if trusted(found, log_density):
            exact[report], refitted[report] = log_mean(log_density), True
    k = np.where(refitted, 0.0, np.asarray(loo.pareto_k.values, float))
    return ReportsLeftOut(with_points(loo, exact, k), refitted)


def trusted(draws: Draws, log_density: np.ndarray) -> bool:
    """Whether the mean of a report's density, its logarithms (chain, draw), over draws of the fit without it is known.

    The draws are worth enough in it, are no copies, and chains agree: at an R-hat of 1.05 the means of four are apart
    so far that the error of their mean is sqrt((1.05^2 - 1) / 4), a sixth, of the standard deviation of draws. The
    R-hat of 1.01 that parameters of a whole fit must have is one that short chains often exceed when nothing is wrong.
    """
    forgotten = draws.forgetting is None or draws.forgetting.enough
    agree = bool(float(arviz_stats.rhat(log_density)) <= RHAT_EFFECT)
    return forgotten and agree and worth(log_density) >= LEAST_WORTH


def log_mean(log_values: np.ndarray) -> float:
    """The logarithm of the mean of values that are given by theirs, of any shape."""
    most = log_values.max()
    return float(most + np.log(np.exp(log_values - most).mean()))


def worth(log_values: np.ndarray) -> float:
    """How many equal ones values of any shape, given by their logarithms, are worth in their mean."""
    value = np.exp(log_values - log_values.max())
    return float(value.sum() ** 2 / np.square(value).sum())
