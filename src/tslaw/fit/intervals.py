"""Summaries of draws: highest-density intervals, also where some draws are known only to lie outside the measured
range."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def hdi(draws: np.ndarray, probability: float = 0.9) -> tuple[float, float]:
    """The shortest interval that holds `probability` of the finite draws (draw,)."""
    ordered = np.sort(np.asarray(draws, float).ravel())
    n_inside = int(np.ceil(probability * len(ordered)))
    starts = np.arange(len(ordered) - n_inside + 1)
    best = int(np.argmin(ordered[starts + n_inside - 1] - ordered[starts]))
    return float(ordered[best]), float(ordered[best + n_inside - 1])


@dataclass(frozen=True)
class CensoredSummary:
    """A quantity whose draws may lie outside [low, high], where only the side is known.

    `median` and the ends of `hdi` are -inf or +inf where they fall on draws below or above the range: censoring is
    reported, never clipped. `p_below` and `p_above` are the posterior probabilities of either side.
    """

    median: float
    hdi: tuple[float, float]
    p_below: float
    p_above: float
    low: float
    high: float


def summarise_censored(draws: np.ndarray, low: float, high: float, probability: float = 0.9) -> CensoredSummary:
    """Summarise draws (draw,) in which -inf and +inf stand for 'below `low`' and 'above `high`'.

    The interval is the shortest one when censored draws are counted as lying on the boundary they passed.
    """
    draws = np.asarray(draws, float)
    if np.isnan(draws).any():
        raise ValueError("draws must not be NaN; use -inf and +inf for draws outside the range")
    first, last = hdi(np.clip(draws, low, high), probability)
    below, above = np.isneginf(draws).any(), np.isposinf(draws).any()
    # A draw that lies on a boundary itself belongs to the interval, so its far end must not pass it.
    if first <= low and below:
        first, last = -np.inf, -np.inf if last <= low and not (draws == low).any() else last
    if last >= high and above:
        first, last = np.inf if first >= high and not (draws == high).any() else first, np.inf
    median = float(np.quantile(draws, 0.5, method="inverted_cdf"))
    return CensoredSummary(
        median, (first, last), float(np.isneginf(draws).mean()), float(np.isposinf(draws).mean()), low, high
    )
