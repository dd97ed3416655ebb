"""What particles are worth as draws, where that is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from tslaw.fit.particles import FORGOTTEN_LAST, Forgetting, bulk_and_tail_ess, correlation, family_ess, normal_scores


def test_correlation_is_that_of_normal_scores() -> None:
    """Whatever the distribution, and however far a few particles are from the others."""
    rng, r = np.random.default_rng(0), np.array([0.0, 0.3, 0.9])
    before, noise = rng.standard_normal((2, 20_000, 3))
    after = r * before + np.sqrt(1.0 - r**2) * noise
    assert correlation(before, after) == pytest.approx(r, abs=0.025)
    assert correlation(np.exp(5.0 * before), after**3) == pytest.approx(correlation(before, after))
    after[0] = 1e9
    assert correlation(before, after) == pytest.approx(r, abs=0.025)
    assert correlation(before, before) == pytest.approx(1.0)


def test_only_particles_that_are_known_to_have_forgotten_are_draws() -> None:
    assert Forgetting(FORGOTTEN_LAST, 10, 0.5).enough
    assert not Forgetting(FORGOTTEN_LAST + 0.01, 10, 0.5).enough
    assert not Forgetting(float("nan"), 10, 0.5).enough


@pytest.mark.parametrize("shared", [0.0, 0.25, 1.0])
def test_families_are_worth_what_their_members_share(shared: float) -> None:
    """n / (1 + (k - 1) r) for families of k members that correlate by r: n / k for copies, in whatever order."""
    rng, k, n = np.random.default_rng(1), 5, 20_000
    family = rng.permutation(np.repeat(np.arange(n // k), k))
    values = np.sqrt(shared) * rng.standard_normal(n // k)[family] + np.sqrt(1.0 - shared) * rng.standard_normal(n)
    expected = n / (1.0 + (k - 1) * shared)
    assert family_ess(values, family) == pytest.approx(expected, rel=0.08)
    bulk, tail = bulk_and_tail_ess(np.exp(values), family)
    assert bulk == pytest.approx(expected, rel=0.08)
    assert tail <= 1.15 * n
    if shared == 1.0:
        assert tail == pytest.approx(expected, rel=0.15)


def test_few_families_are_not_worth_more_than_they_are() -> None:
    """Of four islands that each descend from one particle the spread of four means is all that is known."""
    rng, found = np.random.default_rng(2), []
    for _ in range(400):
        of_island, family = rng.standard_normal(4), np.repeat(np.arange(4), 50)
        found.append(200.0 / family_ess(of_island[family] + 0.1 * rng.standard_normal(200), family))
    # One over a number of draws is what has an expectation that is known: here a mean is worth a little over four.
    assert np.median(found) > 30.0
    assert family_ess(rng.standard_normal(50), np.zeros(50, int)) == 0.0
    assert family_ess(np.ones(50), np.arange(50)) == 0.0


def test_normal_scores_are_the_normals_quantiles() -> None:
    values = np.random.default_rng(3).gamma(0.3, size=999)
    assert np.sort(normal_scores(values)) == pytest.approx(norm.ppf((np.arange(1, 1000) - 0.375) / 999.25))
