"""Where eviction stops beating rounding: simulations with a known threshold, and with none inside the sizes."""

from __future__ import annotations

import numpy as np
import pytest
from simulated_kv import SIZES, draws, study, thinking_helps

from tslaw.kvstudy.kinds import KindContrast, kind_contrasts, slope, threshold


def evicting_wins_below(size: float):
    """R-KV is harmless below an effective size and hurts above it; rounding always costs a little."""

    def truth(model: str, policy: str, budget: int) -> float:
        clean = thinking_helps(model, budget)
        if policy.startswith("quantized"):
            return clean - 0.06
        if policy.startswith("rkv"):
            return clean if SIZES[model] < size else clean - 0.3 + 0.05 * (budget <= 64)
        return clean

    return truth


def test_a_threshold_between_two_models_is_found_there() -> None:
    found = kind_contrasts(study(evicting_wins_below(1e6), samples=32), *draws())
    assert [c.model for c in found] == list(SIZES)
    wins = np.array([(c.difference.mean(axis=1) > 0).mean() for c in found])
    assert (wins[:2] > 0.95).all()
    assert (wins[2:] < 0.05).all()
    where = threshold(found)
    assert SIZES["b"] < where.hdi[0] <= where.median <= where.hdi[1] < SIZES["c"]
    assert (slope(found) < 0).mean() > 0.95


@pytest.mark.parametrize(("size", "side"), [(0.0, -np.inf), (1e9, np.inf)])
def test_a_threshold_outside_the_sizes_is_censored_not_clipped(size: float, side: float) -> None:
    where = threshold(kind_contrasts(study(evicting_wins_below(size), samples=32), *draws()))
    assert where.median == side
    assert (where.p_below, where.p_above)[int(side > 0)] > 0.95


def test_equal_memory_is_equal_memory() -> None:
    """At the memory of 32 tokens a 4-bit cache holds 128: its longer budgets are out, and so is rkv:64."""

    def truth(model: str, policy: str, budget: int) -> float:
        if policy == "quantized:4":
            return 0.9 if budget > 128 else 0.5
        return 0.95 if policy == "rkv:64" and budget > 64 else 0.2

    found = kind_contrasts(study(truth, problems=400, spread=0.0), *draws(100, 400))
    assert list(found[0].kept) == [32, 64]
    assert found[0].difference.mean(axis=0) == pytest.approx([0.2 - 0.5, 0.95 - 0.9], abs=0.03)


def test_slope_is_that_of_a_line() -> None:
    sizes = [1.0, 2.0, 4.0, 8.0]
    line = [
        KindContrast("m", 16, size, np.array([32]), np.array([[0.1 - 0.03 * k], [0.0]])) for k, size in enumerate(sizes)
    ]
    assert slope(line) == pytest.approx([-0.03, 0.0])
    assert threshold(line, 32).p_below == 0.5
