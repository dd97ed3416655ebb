"""Differences at equal thinking, where nothing is chosen and so nothing is too good to be true: eviction against random
eviction of as many tokens, and rounded caches against full ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tslaw.kvstudy.configurations import Configurations


@dataclass(frozen=True)
class Cell:
    """A difference of accuracy, problem by problem: its labels and `row` (problem,)."""

    policy: str
    model: str
    kept: int
    region: str
    row: np.ndarray


def draws_of(cells: list[Cell], weights: np.ndarray) -> np.ndarray:
    """Accuracy differences of every cell: (draw, cell), from weights (draw, problem)."""
    return np.asarray(weights @ np.stack([cell.row for cell in cells]).T)


def region_of(budget: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Where budgets lie beside the first eviction, an array of texts: "" before it, "early" up to twice, "late" beyond.

    `first` is the number of tokens at which the policy first evicts: a budget of at least that many thinking tokens is
    beyond it however short the prompt.
    """
    return np.where(budget < first, "", np.where(budget < 2 * first, "early", "late"))


def against_random(configurations: Configurations, buffer: int, evicting: tuple[str, ...]) -> list[Cell]:
    """Each evictor minus random eviction of as many tokens, by model, kept tokens and region past the first eviction.

    Weight precisions and the budgets of a region are averaged; both sides have the same ones.
    """
    region = region_of(configurations.budget, configurations.retain + buffer)
    cells = []
    for model in _in_order(configurations.model):
        for kept in np.unique(configurations.retain[configurations.kind == "random"]):
            for name in ("early", "late"):
                here = (configurations.model == model) & (configurations.retain == kept) & (region == name)
                control = _mean_row(configurations, here & (configurations.kind == "random"))
                for kind in evicting:
                    row = _mean_row(configurations, here & (configurations.kind == kind))
                    if row is not None and control is not None:
                        cells.append(Cell(kind, model, int(kept), name, row - control))
    return cells


def rounding_cost(configurations: Configurations, least_budget: int) -> list[Cell]:
    """Rounded caches minus full ones at the same budgets of at least `least_budget` tokens, by model and cache bits.

    Weight precisions and budgets are averaged. `kept` is 0 and `region` empty.
    """
    enough = configurations.budget >= least_budget
    cells = []
    for model in _in_order(configurations.model):
        here = (configurations.model == model) & enough
        full = _mean_row(configurations, here & configurations.full)
        for policy in _in_order(configurations.policy[configurations.kind == "quantized"]):
            rounded = _mean_row(configurations, here & (configurations.policy == policy))
            if full is not None and rounded is not None:
                cells.append(Cell(policy, model, 0, "", rounded - full))
    return cells


def _mean_row(configurations: Configurations, mask: np.ndarray) -> np.ndarray | None:
    """Mean accuracy of some configurations on every problem (problem,); None for none."""
    return configurations.rows[mask].mean(axis=0) if mask.any() else None


def _in_order(labels: np.ndarray) -> list[str]:
    return list(dict.fromkeys(str(label) for label in labels))
