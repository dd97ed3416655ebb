"""Majority votes that a fit derives beside those that were measured: one table row for each number of voters.

    python scripts/check_votes.py fits/ladder-math.nc measurements/ladder-math.nc

Measured votes are the mean over all subsets of the samples. The fit's interval is the surface's alone; a measured vote
over 16 of 32 samples has an error of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tslaw.dataset import open_dataset
from tslaw.errors import TslawError
from tslaw.fit.findings import voted_accuracy
from tslaw.fit.fit_file import load_posterior, open_fit
from tslaw.votes import maj_at_g

VOTERS, DRAWS = (1, 4, 8, 16), 200


def main(paths: list[str]) -> int:
    if len(paths) != 2:
        print(__doc__)
        return 2
    ds = open_dataset(Path(paths[1]))
    posterior = load_posterior(open_fit(paths[0]), ds.attrs["task"]).thinned(DRAWS)
    names = ds["arm"].values.astype(str).tolist()
    derived, measured = [], []
    for arm in posterior.family_arms("checkpoint"):
        place = names.index(posterior.arms[arm.position])
        answer, correct = (ds[name].values[place] for name in ("answer", "correct"))
        derived.append(voted_accuracy(posterior, arm, posterior.budgets, VOTERS))
        measured.append([maj_at_g(answer, correct, g)[0].mean(axis=-1) for g in VOTERS])
    middle = np.median(derived, axis=2)
    low, high = np.quantile(derived, [0.05, 0.95], axis=2)
    seen = np.array(measured)
    print("| samples | mean difference | rms difference | largest | within the 90% interval |")
    print("| --- | --- | --- | --- | --- |")
    for k, g in enumerate(VOTERS):
        gap = (middle - seen)[:, k]
        inside = ((seen >= low) & (seen <= high))[:, k].mean()
        print(
            f"| {g} | {gap.mean():+.4f} | {np.sqrt((gap**2).mean()):.4f} | {np.abs(gap).max():.4f} | {inside:.0%} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except TslawError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
