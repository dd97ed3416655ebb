"""Simulated studies: configurations whose true accuracies are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tslaw.kvstudy.bootstrap import folds, problem_weights
from tslaw.kvstudy.configurations import Configurations
from tslaw.policy import parse_kv_policy

BUDGETS = (32, 64, 128, 256, 512)
SIZES = {"a": 1e5, "b": 4e5, "c": 1.6e6, "d": 6.4e6}
BYTES_PER_TOKEN = 1024.0
POLICIES = ("full", "quantized:8", "quantized:4", "rkv:32", "rkv:64", "random:32", "random:64")

TrueAccuracy = Callable[[str, str, int], float]
"""Of a model, a policy and a thinking budget."""


def thinking_helps(model: str, budget: int) -> float:
    """Bigger models and longer thinking are better, everywhere by a visible amount."""
    return 0.1 + 0.12 * list(SIZES).index(model) + 0.08 * BUDGETS.index(budget)


def study(truth: TrueAccuracy, seed: int = 0, problems: int = 64, samples: int = 8, spread: float = 0.8):
    """Configurations measured on problems of differing difficulty: accuracies are logit-shifted by each problem."""
    rng = np.random.default_rng(seed)
    shift = rng.normal(0, spread, problems)
    columns: dict[str, list] = {name: [] for name in Configurations.__dataclass_fields__}
    for model, weight in SIZES.items():
        for name in POLICIES:
            policy = parse_kv_policy(name)
            for budget in BUDGETS:
                p = np.clip(truth(model, name, budget), 0.02, 0.98)
                rate = 1 / (1 + np.exp(-(np.log(p / (1 - p)) + shift)))
                kept = min(budget, policy.retain or budget)
                values = (model, 16.0, name, policy.kind, policy.bits, policy.retain or 0, budget, weight,
                          kept * BYTES_PER_TOKEN * policy.bits / 16, budget * BYTES_PER_TOKEN,
                          rng.binomial(samples, rate) / samples)  # fmt: skip
                for key, value in zip(columns, values, strict=True):
                    columns[key].append(value)
    return Configurations(**{key: np.array(column) for key, column in columns.items()})


def draws(n: int = 400, problems: int = 64, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Weights and partition of the problems, (draw, problem) each."""
    rng = np.random.default_rng(seed)
    return problem_weights(n, problems, rng), folds(n, problems, rng)
