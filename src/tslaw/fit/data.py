"""From measured datasets to what the likelihood needs: distinct (arm, problem, pattern) rows with counts, one set a
task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tslaw.errors import TslawError
from tslaw.fit.cache_terms import kinds_in
from tslaw.fit.vote_model import wrong_spread
from tslaw.policy import FULL, KVPolicy, parse_kv_policy

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
    3. `budgets` rises strictly; `log_size` and `weight_bits` have shape (arm,).
    4. `wrong_spread` (problem,) says how many ways its wrong answers go (`vote_model`); the likelihood does not see it.
    5. `policies` (arm,) are the arms' KV policies, at least one of them full; empty where all caches are full.
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
    policies: tuple[KVPolicy, ...] = ()

    @property
    def kv_policies(self) -> tuple[KVPolicy, ...]:
        """The KV policy of every arm."""
        return self.policies or (FULL,) * len(self.arms)

    @property
    def cache_kinds(self) -> tuple[str, ...]:
        """The kinds of KV compression that any arm has, in alphabetical order; empty where all caches are full."""
        return kinds_in(self.policies)

    def arm_policies(self) -> list[tuple[str, KVPolicy]]:
        """Every arm's name with its KV policy."""
        return list(zip(self.arms, self.kv_policies, strict=True))

    def full_cache(self) -> np.ndarray:
        """Which arms have an uncompressed cache: (arm,) booleans."""
        return np.array([policy == FULL for policy in self.kv_policies])

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

    def never_solved(self) -> np.ndarray:
        """How many trajectories seem never to have been solved: (arm, problem).

        They were right at no budget; more by how often an unsolved one is right by guessing, and never more than were
        wrong at their largest budget.
        """
        probes, right = (self.patterns >= 0).sum(axis=1), (self.patterns == 1).any(axis=1)
        hits, total = self.solved_counts()
        never = np.zeros_like(total)
        unseen = np.where(right, 0.0, (1.0 - self.chance) ** -probes)[self.row_pattern]
        np.add.at(never, (self.row_arm, self.row_problem), unseen * self.row_count)
        return np.minimum(never, total - hits)

    def solved_share(self) -> np.ndarray:
        """The share of each problem's trajectories that were right at their largest budget, all arms with a full cache
        together: (problem,)."""
        full = self.full_cache()
        right, total = (counts[full] for counts in self.solved_counts())
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


def task_data(dataset: xr.Dataset, compressed: bool = False) -> TaskData:
    """Reduce one validated measurement dataset to rows: of its arms with a full KV cache, or with `compressed` of all.

    Raises
    ------
    TslawError : nothing measured, or without `compressed` no arm with a full KV cache.
    """
    from tslaw.memory import ModelShape

    kept = compressed | (dataset["kv_kind"].values.astype(str) == "full")
    left_out = tuple(dataset["arm"].values.astype(str)[~kept])
    ds = dataset.isel(arm=np.flatnonzero(kept))
    if ds.sizes["arm"] == 0:
        raise no_full_cache(str(dataset.attrs["task"]))
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
        policies=tuple(map(parse_kv_policy, ds["kv_policy"].values.astype(str))) if compressed else (),
    )


def no_full_cache(task: str) -> TslawError:
    """What a task without any arm that has a full KV cache is refused with."""
    return TslawError(
        "No arm with an uncompressed KV cache to fit.",
        where=f"task {task}",
        expected="at least one arm with kv_policy 'full'",
        fix="give the file that holds the full caches of the same task too, and say --compressed-kv",
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


def tasks_data(datasets: Sequence[xr.Dataset], compressed: bool = False) -> list[TaskData]:
    """One `TaskData` a task, all with the same reference size (the geometric mean of the sizes seen anywhere).

    With `compressed` arms with compressed KV caches are kept, and files of one task are joined (`join`): compressed and
    full caches are usually measured in different runs.

    Raises
    ------
    TslawError : datasets of different families; two of one task without `compressed`, or that cannot be joined; a task
    without any full KV cache.
    """
    from tslaw.fit.join import join_measured

    parts = [task_data(ds, compressed) for ds in datasets]
    families = sorted({d.family for d in parts})
    if len(families) > 1:
        raise TslawError(
            f"These datasets belong to different families: {', '.join(families)}.",
            expected="files of one family",
            fix="fit each family by itself",
        )
    names = [d.task for d in parts]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice and not compressed:
        raise TslawError(
            f"More than one file holds the task {', '.join(twice)}.",
            expected="one file a task",
            fix="merge them with tslaw.dataset.merge, or leave one out",
        )
    together = [[k for k, name in enumerate(names) if name == task] for task in dict.fromkeys(names)]
    sizes = np.concatenate([np.unique(d.log_size + np.log(d.reference_size)) for d in parts])
    reference = float(np.exp(np.mean(np.unique(np.round(sizes, 12)))))
    same = [d.with_reference_size(reference) for d in parts]
    found = [join_measured([same[k] for k in ks], [datasets[k] for k in ks]) for ks in together]
    for data in found:
        if not data.full_cache().any():
            raise no_full_cache(data.task)
    return found
