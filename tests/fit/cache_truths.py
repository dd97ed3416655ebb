"""Known truths of a surface with compressed caches, and arms that have them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from simulated import Truth, draw_truth, qwen3_shapes

from tslaw.fit.cache_terms import evicts
from tslaw.fit.data import TaskData
from tslaw.fit.simulate import task_without_data
from tslaw.policy import parse_kv_policy

MODELS = ("Qwen3-1.7B", "Qwen3-8B")
BUDGETS = (1000, 2000, 4000, 8000, 16000)
POLICIES = ("full", "quantized:4", "quantized:2", "rkv:2048", "streaming:2048", "rkv:2048+quantized:2")


def cache_template(
    n_problems: int,
    policies: Sequence[str] = POLICIES,
    bits: Sequence[float] = (16,),
    budgets: Sequence[int] = BUDGETS,
    models: Sequence[str] = MODELS,
) -> TaskData:
    """Arms with these caches, without trajectories; models' own order is that of the first policy."""
    shapes = qwen3_shapes()
    parsed = tuple(parse_kv_policy(policy) for policy in policies)
    return task_without_data({m: shapes[m] for m in models}, bits, budgets, n_problems, "qwen3", "simulated", parsed)


def cache_truth(seed: int, data: TaskData) -> Truth:
    """A surface as `draw_truth` makes it, with plain costs of rounding and of eviction."""
    rng = np.random.default_rng([seed, 4096])
    truth = draw_truth(seed, data)
    own = {
        "delta_kv": rng.uniform(1.0, 1.5),
        "kappa_kv": rng.uniform(0.8, 1.2),
        "gamma_kv": rng.normal(0.2, 0.1),
        "loss_kv": rng.normal(-2.0, 0.3),
        "gamma_evict": rng.normal(0.2, 0.1),
        "power_rkv": rng.uniform(0.6, 1.0),
        "power_streaming": rng.uniform(0.3, 0.6),
        "found_rkv": rng.uniform(0.5, 0.9),
        "found_streaming": rng.uniform(0.9, 1.4),
        "loss_rkv": rng.normal(-2.0, 0.2),
        "loss_streaming": rng.normal(-1.0, 0.2),
        "reach": rng.normal(0.1, 0.1),
        "onset_rkv": rng.normal(0.0, 0.2),
        "onset_streaming": rng.normal(0.0, 0.2),
        "worth_rkv": rng.uniform(0.7, 0.9),
        "worth_streaming": rng.uniform(1.0, 1.2),
        "sd_kv": 0.2,
        "sd_kv_own": 0.1,
        "sd_kv_cut": 0.5,
    }
    own["kv_misfit"] = own["sd_kv"] * rng.standard_normal((len(data.shapes), len(data.cache_kinds)))
    own["kv_own"] = own["sd_kv_own"] * rng.standard_normal(len(data.arms)) * ~data.full_cache()
    evicted = [[evicts(policy, budget) for budget in data.budgets] for policy in data.kv_policies]
    own["kv_cut"] = own["sd_kv_cut"] * rng.standard_normal((len(data.arms), len(data.budgets))) * evicted
    return truth | {name: np.asarray(value, float) for name, value in own.items()}
