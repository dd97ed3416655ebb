"""Everything the figures of one task need, read from a fit once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tslaw.errors import TslawError
from tslaw.fit.fit_file import load_posterior
from tslaw.fit.model import POPULATION

if TYPE_CHECKING:
    import xarray as xr

    from tslaw.fit.posterior import Posterior


@dataclass(frozen=True)
class TaskView:
    """One fitted task beside what was measured.

    `observed` and `probes` are (arm, budget), NaN or 0 probes where nothing was measured; `replicates` is (draw, arm,
    budget); `chains` maps population parameters to (chain, draw); `failures` says which diagnostics were not passed.
    Arms and budgets are those of `posterior`, in its order.
    """

    posterior: Posterior
    observed: np.ndarray
    probes: np.ndarray
    replicates: np.ndarray
    chains: dict[str, np.ndarray]
    failures: tuple[str, ...]


def task_view(tree: xr.DataTree, task: str) -> TaskView:
    """Read one task of a fit.

    Raises
    ------
    TslawError : the fit does not hold the task, or lacks a variable.
    """
    posterior = load_posterior(tree, task)
    pick = {"task": task, "arm": list(posterior.arms), "budget": posterior.budgets.astype(int)}
    try:
        measured = tree["observed_data"].dataset.sel(pick)
        replicates = tree["posterior_predictive"].dataset["accuracy"].sel(pick)
        draws = tree["posterior"].dataset.sel(task=task)
        chains = {n: draws[n].transpose("chain", "draw").values.astype(float) for n in POPULATION}
        failures = tuple(json.loads(tree.attrs["diagnostics"])[task]["failures"])
    except KeyError as error:
        raise TslawError(
            f"This fit lacks {error}.",
            expected="a fit written by tslaw fit",
            fix="fit again with this version of tslaw",
        ) from error
    return TaskView(
        posterior,
        measured["accuracy"].transpose("arm", "budget").values,
        measured["probes"].transpose("arm", "budget").values,
        replicates.stack(sample=("chain", "draw")).transpose("sample", "arm", "budget").values,
        chains,
        failures if not posterior.passed else (),
    )
