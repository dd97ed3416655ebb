"""Selection against random eviction, and rounded against full caches, on simulated differences."""

from __future__ import annotations

import numpy as np
import pytest
from simulated_kv import SIZES, draws, study, thinking_helps

from tslaw.kvstudy.control import against_random, draws_of, region_of, rounding_cost


def truth(model: str, policy: str, budget: int) -> float:
    """R-KV of 64 tokens is 0.2 better than random, R-KV of 32 is random; 4 bits cost 0.1."""
    base = thinking_helps(model, budget)
    if policy.startswith("random") or policy == "rkv:32":
        return base / 2
    return base / 2 + 0.2 if policy == "rkv:64" else base - 0.09 * (policy == "quantized:4")


def test_a_selector_that_is_better_and_one_that_is_random() -> None:
    table = study(truth, samples=32, spread=0.3)
    cells = against_random(table, 32, ("rkv",))
    found = draws_of(cells, draws()[0])
    better = np.array([cell.kept == 64 for cell in cells])
    assert ((found > 0).mean(axis=0)[better] > 0.99).all()
    assert found[:, better].mean() == pytest.approx(0.2, abs=0.03)
    assert found[:, ~better].mean() == pytest.approx(0.0, abs=0.01)
    assert 0.02 < (found[:, ~better].mean(axis=1) > 0).mean() < 0.98


def test_cells_lie_past_the_first_eviction() -> None:
    cells = against_random(study(truth), 32, ("rkv",))
    assert {(c.kept, c.region) for c in cells} == {(32, "early"), (32, "late"), (64, "early"), (64, "late")}
    assert len(cells) == 4 * len(SIZES)
    assert list(region_of(np.array([63, 64, 127, 128]), np.full(4, 64))) == ["", "early", "early", "late"]


def test_what_rounding_costs() -> None:
    cells = rounding_cost(study(truth, samples=32, spread=0.0), 64)
    found = draws_of(cells, draws()[0]).mean(axis=0)
    four = np.array([cell.policy == "quantized:4" for cell in cells])
    assert found[four] == pytest.approx(-0.09, abs=0.04)
    assert found[~four] == pytest.approx(0.0, abs=0.04)
