"""A part of a task's data: some of its arms, or some of its problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tslaw.errors import TslawError
from tslaw.fit.data import TaskData


def some_problems(data: TaskData, n: int | None, seed: int = 0) -> TaskData:
    """The data of `n` problems drawn at random, in their old order; all of them when `n` is None or not fewer.

    Where compressed KV caches were measured on some problems only, the draw is from those.

    Raises
    ------
    TslawError : fewer than 2 problems.
    """
    if n is not None and n < 2:
        raise TslawError(f"{n} problems are too few to compare surfaces on.", where="--problems", expected="2 or more")
    if n is None or n >= len(data.problems):
        return data
    compressed = data.trajectories()[~data.full_cache()].sum(axis=0) > 0
    candidates = np.flatnonzero(compressed | (not data.cache_kinds))
    chosen = np.sort(np.random.default_rng(seed).choice(candidates, min(n, len(candidates)), replace=False))
    kept = np.isin(data.row_problem, chosen)
    return replace(
        _rows(data, kept),
        problems=tuple(data.problems[j] for j in chosen),
        wrong_spread=data.wrong_spread[chosen],
        row_problem=np.searchsorted(chosen, data.row_problem[kept]),
    )


def some_arms(data: TaskData, weight_bits: Sequence[float] | None, models: Sequence[str] | None) -> TaskData:
    """The data of the arms with these weight bits and of these models; None for all. Budgets at which none of them was
    measured go too.

    Raises
    ------
    TslawError : bits or a model that no arm has, or nothing left with a full KV cache.
    """
    for what, wanted, there in (
        ("--weight-bits", weight_bits, sorted(set(data.weight_bits.tolist()))),
        ("--model", models, list(data.shapes)),
    ):
        if absent := [each for each in wanted or () if each not in there]:
            raise TslawError(
                f"No arm of the task {data.task} has {', '.join(map(str, absent))}.",
                where=what,
                expected=f"of {', '.join(map(str, there))}",
            )
    member = np.ones(len(data.arms), bool)
    member &= np.isin(data.weight_bits, weight_bits) if weight_bits else True
    member &= np.isin(data.models, models) if models else True
    if member.all():
        return data
    if not (member & data.full_cache()).any():
        raise TslawError(
            f"None of these arms of the task {data.task} has a full KV cache.",
            where="--weight-bits, --model",
            expected="at least one",
        )
    return arms_at(data, np.flatnonzero(member))


def arms_at(data: TaskData, arms: np.ndarray, all_budgets: bool = False) -> TaskData:
    """The data of the arms at these places (arm,), which rise, without budgets at which none of them was measured
    unless `all_budgets` are to stay."""
    part = _rows(data, np.isin(data.row_arm, arms))
    measured = (part.patterns >= 0).any(axis=0) | all_budgets
    models = tuple(data.models[i] for i in arms)
    return replace(
        part,
        arms=tuple(data.arms[i] for i in arms),
        models=models,
        shapes={name: shape for name, shape in data.shapes.items() if name in models},
        log_size=data.log_size[arms],
        weight_bits=data.weight_bits[arms],
        policies=tuple(data.policies[i] for i in arms) if data.policies else (),
        row_arm=np.searchsorted(arms, part.row_arm),
        budgets=data.budgets[measured],
        patterns=part.patterns[:, measured],
    )


def _rows(data: TaskData, kept: np.ndarray) -> TaskData:
    """The data of some rows, by a mask (row,), and the patterns that these showed."""
    patterns, row_pattern = np.unique(data.row_pattern[kept], return_inverse=True)
    return replace(
        data,
        patterns=data.patterns[patterns],
        row_arm=data.row_arm[kept],
        row_problem=data.row_problem[kept],
        row_pattern=row_pattern,
        row_count=data.row_count[kept],
    )
