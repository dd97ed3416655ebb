"""Highest-density intervals and summaries of censored draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tslaw.fit.intervals import hdi, summarise_censored

DRAWS = st.lists(st.floats(0, 10), min_size=1, max_size=40)
LOW, HIGH = 2.0, 8.0


@given(DRAWS, st.floats(0.05, 1.0))
def test_the_hdi_is_the_shortest_interval_with_enough_draws(draws, probability) -> None:
    low, high = hdi(np.array(draws), probability)
    ordered, need = sorted(draws), int(np.ceil(probability * len(draws)))
    assert sum(low <= d <= high for d in draws) >= need
    shortest = min(ordered[i + need - 1] - ordered[i] for i in range(len(ordered) - need + 1))
    assert high - low == pytest.approx(shortest)


@given(DRAWS)
@example([LOW - 1.0, LOW])
@example([HIGH, HIGH + 1.0])
def test_censored_draws_are_counted_and_never_clipped(draws) -> None:
    values = np.array([-np.inf if d < LOW else np.inf if d > HIGH else d for d in draws])
    s = summarise_censored(values, LOW, HIGH)
    assert s.p_below == np.mean(np.array(draws) < LOW)
    assert s.p_above == np.mean(np.array(draws) > HIGH)
    assert s.median in values
    assert (values <= s.median).mean() >= 0.5
    assert (values < s.median).mean() <= 0.5
    for end in s.hdi:
        assert np.isinf(end) or LOW <= end <= HIGH
    covered = (s.hdi[0] <= values) & (values <= s.hdi[1])
    assert covered.mean() >= 0.9 - 1e-9


def test_ends_are_infinite_only_where_draws_are_censored() -> None:
    inside = np.linspace(3, 5, 95)
    assert summarise_censored(inside, LOW, HIGH).hdi[1] <= 5
    mostly_above = summarise_censored(np.append(inside, np.full(900, np.inf)), LOW, HIGH)
    assert (mostly_above.median, mostly_above.hdi[1]) == (np.inf, np.inf)
    everywhere = summarise_censored(np.concatenate([np.full(50, -np.inf), inside, np.full(50, np.inf)]), LOW, HIGH)
    assert everywhere.hdi == (-np.inf, np.inf)
    assert 3 <= everywhere.median <= 5
    with pytest.raises(ValueError, match="NaN"):
        summarise_censored(np.array([1.0, np.nan]), LOW, HIGH)
