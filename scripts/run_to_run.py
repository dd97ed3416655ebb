"""How much accuracy moves from run to run, beside what sampling alone explains: two datasets of the same arms.

    python scripts/run_to_run.py measurements/ladder-math.nc measurements/repeat/ladder-math.nc

Both hold the same problems. Differences of accuracy between the runs are set beside the standard error that
independent samples of every problem would give (binomial within problems, the problems fixed). A ratio of 1 means that
nothing but sampling differs; budgets of one trajectory are not independent, so a single arm's ratio scatters widely.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from tslaw.dataset import open_dataset
from tslaw.errors import TslawError
from tslaw.votes import pass_at_1


def same_problems(first: Any, second: Any) -> None:
    """Raise TslawError unless the two datasets ask the same questions at the same budgets."""
    for name in ("problem", "budget"):
        if not np.array_equal(first[name].values, second[name].values):
            raise TslawError(f"The two datasets differ in their {name}s.", expected="two runs of one task")


def compare(first: Any, second: Any, arm: str) -> tuple[np.ndarray, np.ndarray]:
    """Difference of accuracy and its standard error from sampling alone, each (budget,)."""
    runs = [ds["correct"].values[list(ds["arm"].values.astype(str)).index(arm)] for ds in (first, second)]
    means = [pass_at_1(run) for run in runs]
    variances = [p * (1 - p) / (run.shape[-1] - 1) for p, run in zip(means, runs, strict=True)]
    standard_error = np.sqrt(sum(v.sum(axis=-1) for v in variances)) / means[0].shape[-1]
    return means[1].mean(axis=-1) - means[0].mean(axis=-1), standard_error


def main(paths: list[str]) -> int:
    if len(paths) != 2:
        print(__doc__)
        return 2
    first, second = (open_dataset(Path(path)) for path in paths)
    same_problems(first, second)
    print("| arm | task | largest difference | standard error there | rms difference / standard error |")
    print("| --- | --- | --- | --- | --- |")
    for arm in second["arm"].values.astype(str):
        difference, error = compare(first, second, arm)
        k = int(np.abs(difference).argmax())
        ratio = np.sqrt((difference**2).mean() / (error**2).mean())
        print(f"| {arm} | {first.attrs['task']} | {difference[k]:+.4f} at T = {first['budget'].values[k]} "
              f"| {error[k]:.4f} | {ratio:.2f} |")  # fmt: skip
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except TslawError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
