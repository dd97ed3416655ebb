"""Truths of the plain surface, and small data from either surface."""

from __future__ import annotations

from typing import Any

import numpy as np

from tslaw.fit.data import TaskData


def plain_truth(data: TaskData, seed: int) -> dict[str, Any]:
    """Parameters of the plain surface with the effects of the arms and problems of `data`."""
    rng = np.random.default_rng([seed, 77])
    truth: dict[str, Any] = {
        "theta0": rng.normal(2.0, 0.2),
        "alpha": rng.normal(1.5, 0.1),
        "delta_w": rng.uniform(0.7, 1.2),
        "kappa_w": 0.6,
        "rise": rng.uniform(2.5, 3.5),
        "power": rng.uniform(0.7, 0.9),
        "guess": 0.005,
        "sd_difficulty": 2.5,
        "sd_misfit": 0.1,
        "sd_effect": 1.0,
        "sd_trajectory": 2.0,
    }
    difficulty = truth["sd_difficulty"] * rng.standard_normal(len(data.problems))
    pairs = (data.model_index().max() + 1, len(data.problems))
    return truth | {
        "difficulty": difficulty - difficulty.mean(),
        "misfit": truth["sd_misfit"] * rng.standard_normal(len(data.arms)),
        "model_effect": truth["sd_effect"] * rng.standard_normal(pairs),
    }
