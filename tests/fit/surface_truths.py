"""Truths of the plain surface, and small data from either surface."""

from __future__ import annotations

from typing import Any

import numpy as np
from simulated import draw_truth, template

from tslaw.fit.data import TaskData

MODELS = ("Qwen3-1.7B", "Qwen3-4B", "Qwen3-14B")
BUDGETS = (1000, 2000, 4000, 8000, 16000, 32000)


def simulated_from(truth: str, n_problems: int, samples: int, seed: int, **arms: Any) -> TaskData:
    """Data from a known truth of the surface called `truth`; `arms` may say which bits, budgets and models."""
    from tslaw.fit.simulate import simulate_task
    from tslaw.fit.surfaces.plain import SURFACE as PLAIN

    empty = template(n_problems, **{"bits": (16, 8, 4), "budgets": BUDGETS, "models": MODELS} | arms)
    if truth == "plain":
        return PLAIN.simulate(empty, plain_truth(empty, seed), samples, seed)
    return simulate_task(empty, draw_truth(seed, empty), samples, seed)


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
