"""Does compression advance the frontier? Simulations where it does, where it does nothing, and a slow reference."""

from __future__ import annotations

import numpy as np
import pytest
from simulated_kv import draws, study, thinking_helps

from reference import kv_frontier_reference as slow
from tslaw.kvstudy.advance import advance, best_within, judged_best, memory_grid
from tslaw.kvstudy.bootstrap import folds, problem_weights, split


def harmless(model: str, policy: str, budget: int) -> float:
    """Rounding costs nothing, eviction nearly everything."""
    return thinking_helps(model, budget) if "quantized" in policy or policy == "full" else 0.03


def useless(model: str, policy: str, budget: int) -> float:
    """A compressed cache is no better than a full one that thinks for half as long: its memory bought nothing."""
    if policy == "full":
        return thinking_helps(model, budget)
    return thinking_helps(model, max(budget // 2, 32)) if policy == "quantized:8" and budget > 32 else 0.03


def test_compression_that_wins_is_seen_to_win() -> None:
    found = advance(study(harmless), *draws(), batch=16)
    assert (found.area > 0).mean() > 0.99
    middle = found.gain[:, 10:40]
    assert ((middle > 0).mean(axis=0) > 0.9).mean() > 0.8
    names, taken = found.policies(study(harmless).policy)
    shares = dict(zip(names.tolist(), taken.mean(axis=(1, 2)), strict=True))
    assert shares["quantized:4"] > 0.6
    assert "rkv:32" not in shares


def test_compression_that_does_nothing_is_not_seen_to_win() -> None:
    """Chosen and judged on the same problems it would: twelve studies, on average and one by one."""
    areas, naive, sure = [], [], 0
    for seed in range(12):
        found = advance(study(useless, seed), *draws(100, seed=seed), batch=16)
        areas.append(found.area.mean())
        naive.append(found.naive_area.mean())
        sure += (found.area > 0).mean() > 0.95
    assert np.mean(naive) > 0.004
    assert np.mean(areas) < 0.001
    assert sure <= 1


def test_nothing_allowed_is_no_gain_at_all() -> None:
    table = study(harmless)
    found = advance(table, *draws(20), allowed=np.full(len(table), False))
    assert not found.gain.any()
    assert not found.naive_gain.any()
    assert set(table.policy[found.chosen].ravel()) == {"full"}


def test_an_evicting_policy_that_has_not_acted_yet_is_not_compression() -> None:
    table = study(harmless)
    early = (table.policy == "rkv:64") & (table.budget <= 64)
    assert not table.saves[early].any()
    assert table.saves[(table.policy == "rkv:64") & (table.budget > 64)].all()


def test_frontier_against_the_slow_reference() -> None:
    rng = np.random.default_rng(3)
    rows = rng.integers(0, 9, (40, 12)) / 8
    cost = rng.integers(1, 30, 40).astype(float)  # with ties
    memory = np.geomspace(cost.min(), 40, 9)
    weights, parts = problem_weights(6, 12, rng), folds(6, 12, rng, 4)
    chosen = best_within(cost, weights @ rows.T, memory)
    together = judged_best(rows, cost, memory, weights, parts)
    for d in range(6):
        for m, limit in enumerate(memory):
            assert chosen[d, m] == slow.best(cost, rows, weights[d], limit)
            assert together[d, m] == pytest.approx(slow.judged(cost, rows, weights[d], parts[d], limit))


def test_memory_below_every_option_is_refused() -> None:
    with pytest.raises(ValueError, match="below every option"):
        best_within(np.array([2.0, 3.0]), np.zeros((1, 2)), np.array([1.0]))


def test_the_memory_grid_spans_the_full_caches() -> None:
    table = study(harmless)
    cost = table.memory(4)[table.full]
    grid = memory_grid(table, 4)
    assert grid[0] == cost.min()
    assert grid[-1] == cost.max()
    assert (np.diff(grid) > 0).all()


def test_every_problem_judges_once_and_never_what_it_chose() -> None:
    weights, partition = draws(30)
    total = np.zeros_like(weights)
    for choosing, judging in split(weights, partition):
        assert not ((choosing > 0) & (judging > 0)).any()
        total += judging
    assert np.allclose(total, weights)


def test_intervals_of_a_difference_cover_as_often_as_they_say() -> None:
    """Rows weighted whole: 90% intervals of paired differences, also with 8 samples, cover about 90%."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        hard = rng.normal(0, 1.5, 64)
        rates = 1 / (1 + np.exp(-np.stack([hard, hard + 0.5 + rng.normal(0, 0.5, 64)])))
        rows = rng.binomial(8, rates) / 8
        low, high = np.quantile(problem_weights(400, 64, rng) @ (rows[1] - rows[0]), (0.05, 0.95))
        covered.append(low <= TRUE_DIFFERENCE <= high)
    assert 0.84 < np.mean(covered) < 0.95


def _true_difference() -> float:
    rng = np.random.default_rng(1)
    hard = rng.normal(0, 1.5, 400_000)
    other = hard + 0.5 + rng.normal(0, 0.5, 400_000)
    return float((1 / (1 + np.exp(-other)) - 1 / (1 + np.exp(-hard))).mean())


TRUE_DIFFERENCE = _true_difference()
