"""What particles are worth as draws, once they were resampled and moved.

Particles that were resampled are copies of few, and become draws as moves make them forget. R-hat and the usual
effective sample size do not see copies: in no order do they follow each other, as a chain's draws do, and of islands,
which do show them, there are few. Two things do:

* how much particles still correlate with where they were before the last moves (`Forgetting`), and
* how much descendants of one first particle, a family, still have in common (`family_ess`): families, unlike their
  members, are independent, so from their sums follows the variance of any mean, with everything that was lost at any
  power (Chan & Lai 2013; Lee & Whiteley 2018).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

FORGOTTEN_LAST = 0.25
"""The largest correlation with where they were before the last moves that particles may have: two copies of one then
correlate by its square, a sixteenth."""


class Forgetting(NamedTuple):
    """The largest correlation that is left after the `moves` at the last power, and after those at any power before."""

    correlation: float
    moves: int
    earlier: float

    @property
    def enough(self) -> bool:
        """Whether particles may be taken for draws."""
        return self.correlation <= FORGOTTEN_LAST


def normal_scores(values: np.ndarray) -> np.ndarray:
    """Values (particle, ...) made normal by their ranks, so that none is far from the others."""
    return ndtri((rankdata(values, axis=0) - 0.375) / (len(values) + 0.25))


def correlation(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Of every column's normal scores over the particles: (particle, column) twice to (column,).

    Without anything in common it is about 1 / sqrt(particles), and the largest of fifty columns more than twice that.
    """
    a, b = (scores - scores.mean(axis=0) for scores in (normal_scores(before), normal_scores(after)))
    with np.errstate(invalid="ignore"):  # NaN where all are the same
        return (a * b).sum(axis=0) / np.sqrt(np.square(a).sum(axis=0) * np.square(b).sum(axis=0))


def family_ess(values: np.ndarray, family: np.ndarray) -> float:
    """How many independent draws the mean of values (particle,) is worth, whose families (particle,) are independent.

    0 where all are of one family, which says nothing of its spread.
    """
    off, (_, place, size) = values - values.mean(), np.unique(family, return_inverse=True, return_counts=True)
    shared = np.square(np.bincount(place, off)).sum()
    # Sums around the families' own mean spread less than around the true one, the less the fewer they are.
    free = 1.0 - np.square(size / len(values)).sum()
    return float(free * len(values) * np.square(off).sum() / shared) if shared > 0.0 else 0.0


def bulk_and_tail_ess(values: np.ndarray, family: np.ndarray) -> tuple[float, float]:
    """`family_ess` of the middle and of the tails, as Vehtari et al. (2021) define them for chains: of the normal
    scores, and of lying below the 5% or the 95% quantile, whichever is less."""
    below = [(values <= edge).astype(float) for edge in np.quantile(values, [0.05, 0.95])]
    return family_ess(normal_scores(values), family), min(family_ess(part, family) for part in below)
