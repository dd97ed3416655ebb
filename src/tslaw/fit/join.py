"""Several runs of one task as one: other arms, perhaps fewer problems and other budgets.

Compressed KV caches are usually measured on a part of what full caches were measured on. Unlike `dataset.merge`, which
wants the same cells of all, this takes the union of problems and of budgets; what a run lacks was not measured there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tslaw.dataset_merge import SAME_ATTRS
from tslaw.errors import TslawError
from tslaw.fit.data import TaskData

if TYPE_CHECKING:
    import xarray as xr

NOT_MEASURED = -2


def join_measured(parts: Sequence[TaskData], datasets: Sequence[xr.Dataset]) -> TaskData:
    """Join the data of one task; `datasets` are what they came from.

    Raises
    ------
    TslawError : runs that were sampled differently, an arm that occurs twice, or shapes that disagree.
    """
    for name in SAME_ATTRS:
        values = [ds.attrs[name] for ds in datasets]
        if any(value != values[0] for value in values):
            raise TslawError(
                f"Files with different {name} cannot be fitted together.",
                where=f"task {parts[0].task}: {', '.join(map(str, values))}",
                expected=f"the same {name} in all",
            )
    return joined(parts)


def joined(parts: Sequence[TaskData]) -> TaskData:
    """The same without a look at how they were sampled. One part alone comes back as it is."""
    if len(parts) == 1:
        return parts[0]
    arms = [arm for part in parts for arm in part.arms]
    if twice := sorted({arm for arm in arms if arms.count(arm) > 1}):
        raise TslawError(
            f"More than one file holds the arm {', '.join(twice)}.",
            where=f"task {parts[0].task}",
            expected="every arm in one file",
            fix="leave one of the files out",
        )
    shapes = _shapes(parts)
    budgets = np.unique(np.concatenate([part.budgets for part in parts]))
    problems = tuple(dict.fromkeys(name for part in parts for name in part.problems))
    patterns, row_pattern = _patterns(parts, budgets)
    starts = np.cumsum([0, *(len(part.arms) for part in parts[:-1])])
    place = {name: j for j, name in enumerate(problems)}
    spread = {n: w for part in parts[::-1] for n, w in zip(part.problems, part.wrong_spread, strict=True)}
    return replace(
        parts[0],
        arms=tuple(arms),
        models=tuple(model for part in parts for model in part.models),
        log_size=np.concatenate([part.log_size for part in parts]),
        weight_bits=np.concatenate([part.weight_bits for part in parts]),
        budgets=budgets,
        problems=problems,
        patterns=patterns,
        row_arm=np.concatenate([part.row_arm + start for part, start in zip(parts, starts, strict=True)]),
        row_problem=np.concatenate([np.array([place[n] for n in part.problems])[part.row_problem] for part in parts]),
        row_pattern=row_pattern,
        row_count=np.concatenate([part.row_count for part in parts]),
        shapes=shapes,
        wrong_spread=np.array([spread[name] for name in problems]),
        left_out=tuple(arm for part in parts for arm in part.left_out),
        policies=tuple(policy for part in parts for policy in part.kv_policies),
    )


def _shapes(parts: Sequence[TaskData]) -> dict:
    shapes: dict = {}
    for part in parts:
        for model, shape in part.shapes.items():
            if shapes.setdefault(model, shape) != shape:
                raise TslawError(
                    f"These files disagree about the shape of {model}.",
                    where=f"task {part.task}",
                    expected="runs of the same models",
                )
    return shapes


def _patterns(parts: Sequence[TaskData], budgets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All patterns on the union of the budgets, (pattern, budget), and every row's place among them (row,)."""
    wide = []
    for part in parts:
        spread = np.full((len(part.patterns), len(budgets)), NOT_MEASURED, np.int8)
        spread[:, np.searchsorted(budgets, part.budgets)] = part.patterns
        wide.append(spread[part.row_pattern])
    patterns, row_pattern = np.unique(np.concatenate(wide), axis=0, return_inverse=True)
    return patterns, row_pattern.reshape(-1)
