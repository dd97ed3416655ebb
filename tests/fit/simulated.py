"""Known truths, and data and posteriors made from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from measurements import ATTRS
from reference.surface_reference import Sizes, damage
from tslaw.calibrate.sbc import as_posterior
from tslaw.dataset import Arm, build_dataset
from tslaw.family import load_family
from tslaw.fit.data import TaskData, distinct_rows
from tslaw.fit.infer import Sampling
from tslaw.fit.posterior import Posterior
from tslaw.fit.simulate import task_without_data
from tslaw.memory import Accounting, kv_bytes_per_token, n_params, weight_bytes
from tslaw.shape import ModelShape

Truth = dict[str, Any]
SHORT = Sampling(chains=2, warmup=70, samples=60, seed=3, progress=False)
"""Enough for a posterior that can be asked questions, too little to pass the diagnostics."""

QWEN3_BUDGETS = (1000, 2000, 4000, 8000, 12000, 16000, 24000, 32000)


def qwen3_shapes() -> dict[str, ModelShape]:
    return {m.name: m.shape for m in load_family("qwen3").models}


def template(
    n_problems: int = 24,
    bits: Sequence[float] = (16, 8, 4),
    budgets: Sequence[int] = QWEN3_BUDGETS,
    models: Sequence[str] | None = None,
    task: str = "simulated",
) -> TaskData:
    """Arms and budgets without trajectories, to be filled by `tslaw.fit.simulate.simulate_task`."""
    shapes = qwen3_shapes()
    chosen = {m: shapes[m] for m in models or shapes}
    return task_without_data(chosen, bits, budgets, n_problems, "qwen3", task)


def draw_truth(seed: int, data: TaskData) -> Truth:
    """A surface shaped like the one of Qwen3 on AIME, somewhat different for every seed, with the effects of the arms
    and problems of `data`."""
    rng = np.random.default_rng([seed, 20251])
    truth: Truth = {
        "theta0": rng.normal(0.3, 0.3),
        "alpha": rng.normal(1.25, 0.15),
        "bend": np.random.default_rng([seed, 20252]).normal(0.0, 0.1),
        "delta_w": rng.uniform(0.5, 1.2),
        "kappa_w": rng.lognormal(np.log(0.6), 0.2),
        "gamma_w": rng.normal(0.3, 0.1),
        "mu0": rng.normal(9.0, 0.15),
        "mu1": rng.normal(-0.18, 0.05),
        "mu2": rng.normal(0.1, 0.05),
        "sigma_len": rng.uniform(0.4, 0.7),
        "late0": rng.normal(-3.2, 0.3),
        "late1": rng.normal(0.3, 0.1),
        "late2": rng.normal(0.0, 0.1),
        "late3": rng.uniform(0.0, 0.3),
        "late_delay": rng.lognormal(0.0, 0.2),
        "rho": rng.normal(0.15, 0.05),
        "sd_difficulty": rng.uniform(1.5, 2.5),
        "sd_length": rng.uniform(0.2, 0.4),
        "sd_misfit": rng.uniform(0.02, 0.15),
        "sd_misfit_w": rng.uniform(0.02, 0.1),
        "sd_effect": rng.uniform(0.3, 1.0),
        "sd_effect_w": rng.uniform(0.2, 0.6),
        "own_length_share": rng.uniform(0.05, 0.2),
        "own_length_spread": rng.uniform(0.2, 0.5),
        "guess": rng.beta(1.0, 209.0),
        "slip0": rng.normal(-3.2, 0.3),
        "slip1": rng.normal(-0.2, 0.1),
        "relapse0": rng.normal(-4.0, 0.3),
        "relapse1": rng.normal(0.0, 0.1),
        "relapse2": rng.uniform(0.0, 0.4),
        "relapse_power": rng.uniform(0.4, 0.8),
        "kept": rng.uniform(0.2, 0.6),
    }
    n_problems, model = len(data.problems), data.model_index()
    pairs = (model.max() + 1, n_problems)
    truth["difficulty"] = truth["sd_difficulty"] * rng.standard_normal(n_problems)
    truth["length"] = truth["sd_length"] * rng.standard_normal(n_problems)
    own, quantized = rng.standard_normal((2, pairs[0]))
    share = np.array([damage(truth, b) for b in data.weight_bits])
    truth["misfit"] = truth["sd_misfit"] * own[model] + share * truth["sd_misfit_w"] * quantized[model]
    truth["model_effect"] = truth["sd_effect"] * rng.standard_normal(pairs)
    truth["quantization_effect"] = truth["sd_effect_w"] * rng.standard_normal(pairs)
    has_own = rng.random((len(model), n_problems)) < truth["own_length_share"]
    truth["own_length"] = np.where(has_own, truth["own_length_spread"] * rng.standard_normal(has_own.shape), 0.0)
    for name, most in (("mu", 0.15), ("late", 0.5), ("relapse", 0.5), ("slip", 0.5)):
        truth[f"sd_{name}"] = rng.uniform(0.2, 1.0) * most
        truth[f"model_{name}"] = truth[f"sd_{name}"] * rng.standard_normal(pairs[0])
    return {name: np.asarray(value, float) for name, value in truth.items()}


def posterior_of(truths: Sequence[Truth], data: TaskData) -> Posterior:
    """A posterior whose draws are these truths."""
    return as_posterior({name: np.stack([t[name] for t in truths]) for name in truths[0]}, data)


def reference_sizes(data: TaskData, bits: float, accounting: Accounting = "checkpoint") -> Sizes:
    table = [(n_params(s), weight_bytes(s, bits, accounting), kv_bytes_per_token(s)) for s in data.shapes.values()]
    return Sizes([tuple(map(float, row)) for row in table], data.reference_size)


def correct_of(data: TaskData) -> np.ndarray:
    """Outcomes (arm, problem, sample, budget) of a task with equally many trajectories in every cell, in random order
    there: any of them may then be taken away."""
    order = np.argsort(data.row_arm * len(data.problems) + data.row_problem, kind="stable")
    one_each = np.repeat(data.patterns[data.row_pattern[order]], data.row_count[order], axis=0)
    correct = one_each.reshape(len(data.arms), len(data.problems), -1, len(data.budgets))
    shuffled = np.random.default_rng(len(data.row_count)).random(correct.shape[:3]).argsort(axis=2)
    return np.take_along_axis(correct, shuffled[..., None], axis=2)


def with_outcomes(data: TaskData, correct: np.ndarray, shared: bool) -> TaskData:
    """The task with other outcomes (arm, problem, sample, budget)."""
    patterns, arm, problem, pattern, count = distinct_rows(correct, shared)
    return replace(data, patterns=patterns, row_arm=arm, row_problem=problem, row_pattern=pattern, row_count=count)


def as_dataset(data: TaskData, **attrs: Any) -> Any:
    """The task as the measuring half would have stored it: one trajectory served all budgets."""
    correct = np.moveaxis(correct_of(data), -1, 1)
    arms = [
        Arm(data.shapes[m], b, weight_format="native" if b == 16 else "gptq-g128")
        for m, b in zip(data.models, data.weight_bits, strict=True)
    ]
    budgets = data.budgets.astype(int)
    codes = {
        "answer": np.where(correct >= 0, 1 - correct, -2),
        "correct": correct,
        "thinking_tokens": np.where(correct >= 0, budgets[:, None, None], -2),
        "probe_tokens": np.where(correct >= 0, 4, -2),
        "natural_length": np.full((len(arms), len(data.problems), correct.shape[-1]), -1),
    }
    described = ATTRS | {"family": data.family, "task": data.task, "task_chance": data.chance} | attrs
    levels = ["one"] * len(data.problems)
    return build_dataset(arms, budgets.tolist(), data.problems, levels, ("right", "wrong"), codes, described)
