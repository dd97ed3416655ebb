"""From measured datasets to what the likelihood needs: distinct (arm, problem, pattern) rows with counts, one set a
task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tslaw.errors import TslawError
from tslaw.fit.vote_model import wrong_spread

if TYPE_CHECKING:
    import xarray as xr

    from tslaw.memory import ModelShape

CELLS = ("arm", "budget", "problem", "sample")


@dataclass(frozen=True)
class TaskData:
    """Everything one task's fit needs, free of xarray.

    Invariants
    ----------
    1. `row_arm`, `row_problem`, `row_pattern`, `row_count` have shape (row,); counts are >= 1.
    2. `patterns` has shape (pattern, budget) with 1 right, 0 wrong, -2 not measured; every row has at least one
    measured probe.
    3. `budgets` rises strictly; `log_size` and `weight_bits` have shape (arm,); only arms with a full KV cache
    are kept.
    4. `wrong_spread` (problem,) says how many ways its wrong answers go (`vote_model`); the likelihood does not see it.
    """

    task: str
    family: str
    chance: float
    arms: tuple[str, ...]
    models: tuple[str, ...]
    log_size: np.ndarray
    weight_bits: np.ndarray
    reference_size: float
    budgets: np.ndarray
    problems: tuple[str, ...]
    patterns: np.ndarray
    row_arm: np.ndarray
    row_problem: np.ndarray
    row_pattern: np.ndarray
    row_count: np.ndarray
    shapes: dict[str, ModelShape]
    wrong_spread: np.ndarray
    left_out: tuple[str, ...] = ()

    def with_reference_size(self, reference_size: float) -> TaskData:
        """The same data with sizes expressed relative to another reference."""
        shift = np.log(self.reference_size) - np.log(reference_size)
        return replace(self, reference_size=reference_size, log_size=self.log_size + shift)

    def model_index(self) -> np.ndarray:
        """Which of the models, in the order in which they first appear, each arm is: (arm,)."""
        names = list(dict.fromkeys(self.models))
        return np.array([names.index(model) for model in self.models])

    def model_log_size(self) -> np.ndarray:
        """x of every model, in the same order: (model,)."""
        return self.log_size[np.unique(self.model_index(), return_index=True)[1]]

    def accuracy(self) -> tuple[np.ndarray, np.ndarray]:
        """Measured accuracy and number of measured probes, each (arm, budget); accuracy is NaN where nothing
        was measured."""
        n_arms, n_budgets = len(self.arms), len(self.budgets)
        seen = self.patterns[self.row_pattern] >= 0
        right = self.patterns[self.row_pattern] == 1
        total, correct = np.zeros((n_arms, n_budgets)), np.zeros((n_arms, n_budgets))
        np.add.at(total, self.row_arm, seen * self.row_count[:, None])
        np.add.at(correct, self.row_arm, right * self.row_count[:, None])
        with np.errstate(invalid="ignore", divide="ignore"):
            return correct / total, total

    def solved_counts(self) -> tuple[np.ndarray, np.ndarray]:
        """How many trajectories were right at their largest budget, and how many there are: (arm, problem) each."""
        measured = self.patterns >= 0
        last = measured.shape[1] - 1 - np.argmax(measured[:, ::-1], axis=1)
        right = (self.patterns[np.arange(len(self.patterns)), last] == 1)[self.row_pattern]
        hits = np.zeros((len(self.arms), len(self.problems)))
        np.add.at(hits, (self.row_arm, self.row_problem), right * self.row_count)
        return hits, self.trajectories()

    def solved_share(self) -> np.ndarray:
        """The share of each problem's trajectories that were right at their largest budget, all arms together:
        (problem,)."""
        right, total = self.solved_counts()
        return right.sum(axis=0) / np.maximum(total.sum(axis=0), 1.0)

    def describe(self) -> str:
        """One line for the log."""
        return (
            f"{self.task}: {len(self.arms)} arms, {len(self.problems)} problems, {len(self.budgets)} budgets, "
            f"{int(self.row_count.sum())} trajectories in {len(self.row_count)} distinct rows"
        )

    def caveats(self) -> tuple[str, ...]:
        """What a fit of these data cannot say: nothing that its intervals would not show."""
        return ()

    def trajectories(self) -> np.ndarray:
        """Number of trajectories for each (arm, problem)."""
        n = np.zeros((len(self.arms), len(self.problems)))
        np.add.at(n, (self.row_arm, self.row_problem), self.row_count)
        return n


def task_data(dataset: xr.Dataset) -> TaskData:
    """Reduce one validated measurement dataset to rows.

    Raises
    ------
    TslawError : no arm with a full KV cache, or nothing measured.
    """
    from tslaw.memory import ModelShape

    is_full = dataset["kv_kind"].values.astype(str) == "full"
    left_out = tuple(dataset["arm"].values.astype(str)[~is_full])
    ds = dataset.isel(arm=np.flatnonzero(is_full))
    if ds.sizes["arm"] == 0:
        raise TslawError(
            "No arm with an uncompressed KV cache to fit.",
            where=f"task {dataset.attrs['task']}",
            expected="at least one arm with kv_policy 'full'",
        )
    correct = ds["correct"].transpose("arm", "problem", "sample", "budget").values
    shared = bool(int(ds.attrs["shared_trajectories"]))
    patterns, arm, problem, pattern, count = distinct_rows(correct, shared)
    if len(count) == 0:
        raise TslawError("Nothing has been measured in this dataset.", where=f"task {ds.attrs['task']}")
    n_params = ds["n_params"].values.astype(float)
    reference = float(np.exp(np.mean(np.log(np.unique(n_params)))))
    shapes = {name: ModelShape(**shape) for name, shape in json.loads(ds.attrs["model_shapes"]).items()}
    models = tuple(ds["model"].values.astype(str))
    return TaskData(
        task=str(ds.attrs["task"]),
        family=str(ds.attrs["family"]),
        chance=float(ds.attrs["task_chance"]),
        arms=tuple(ds["arm"].values.astype(str)),
        models=models,
        log_size=np.log(n_params / reference),
        weight_bits=ds["weight_bits"].values.astype(float),
        reference_size=reference,
        budgets=ds["budget"].values.astype(float),
        problems=tuple(ds["problem"].values.astype(str)),
        patterns=patterns,
        row_arm=arm,
        row_problem=problem,
        row_pattern=pattern,
        row_count=count,
        shapes={m: shapes[m] for m in dict.fromkeys(models)},
        wrong_spread=wrong_spread(*(ds[n].transpose(*CELLS).values for n in ("answer", "correct"))),
        left_out=left_out,
    )


def distinct_rows(correct: np.ndarray, shared: bool) -> tuple[np.ndarray, ...]:
    """Distinct (arm, problem, pattern) rows and how often each occurs.

    Parameters
    ----------
    correct : (arm, problem, sample, budget) of 1, 0 or -2 (not measured).
    shared : whether one trajectory served all budgets; otherwise every probe is a trajectory of its own.

    Returns
    -------
    patterns (pattern, budget), and arm, problem, pattern, count, each (row,).
    """
    n_arms, n_problems, n_samples, n_budgets = correct.shape
    arm, problem, _ = np.meshgrid(np.arange(n_arms), np.arange(n_problems), np.arange(n_samples), indexing="ij")
    flat, arm, problem = correct.reshape(-1, n_budgets).astype(np.int8), arm.ravel(), problem.ravel()
    if not shared:
        single = np.full((len(flat), n_budgets, n_budgets), -2, np.int8)
        k = np.arange(n_budgets)
        single[:, k, k] = flat
        flat, arm, problem = single.reshape(-1, n_budgets), np.repeat(arm, n_budgets), np.repeat(problem, n_budgets)
    measured = (flat >= 0).any(axis=1)
    patterns, pattern = np.unique(flat[measured], axis=0, return_inverse=True)
    keys = np.stack([arm[measured], problem[measured], pattern.reshape(-1)], axis=1)
    rows, count = np.unique(keys, axis=0, return_counts=True)
    return patterns, rows[:, 0], rows[:, 1], rows[:, 2], count


def tasks_data(datasets: Sequence[xr.Dataset]) -> list[TaskData]:
    """One `TaskData` a dataset, all with the same reference size (the geometric mean of the sizes seen anywhere).

    Raises
    ------
    TslawError : two datasets of one task (merge them first), or datasets of different families.
    """
    found = [task_data(ds) for ds in datasets]
    families = sorted({d.family for d in found})
    if len(families) > 1:
        raise TslawError(
            f"These datasets belong to different families: {', '.join(families)}.",
            expected="files of one family",
            fix="fit each family by itself",
        )
    names = [d.task for d in found]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise TslawError(
            f"More than one file holds the task {', '.join(twice)}.",
            expected="one file a task",
            fix="merge them with tslaw.dataset.merge, or leave one out",
        )
    sizes = np.concatenate([np.unique(d.log_size + np.log(d.reference_size)) for d in found])
    reference = float(np.exp(np.mean(np.unique(np.round(sizes, 12)))))
    return [d.with_reference_size(reference) for d in found]
