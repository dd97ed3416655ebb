"""Fit datasets: what `tslaw fit` does, without the command line."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

import tslaw
from tslaw.fit.diagnostics import diagnose
from tslaw.fit.fit_file import TaskFit, join_tasks
from tslaw.fit.infer import Sampling, run_nuts
from tslaw.fit.model import Prior
from tslaw.fit.nuts import Checkpoint, fingerprint
from tslaw.fit.predictive import predictive_accuracy

if TYPE_CHECKING:
    import xarray as xr

    from tslaw.fit.data import TaskData

PACKAGES = ("jax", "numpyro", "optax", "numpy", "xarray", "arviz-base", "arviz-stats")


def fit_task(
    data: TaskData, sampling: Sampling, prior: Prior | None = None, checkpoint: Checkpoint | None = None
) -> TaskFit:
    """Sample one task's posterior, check it, and replicate the measurement from it."""
    draws = run_nuts(data, prior or Prior(), sampling, checkpoint)
    diagnosis, pareto_k = diagnose(draws, data)
    return TaskFit(data, draws, predictive_accuracy(draws, data, sampling.seed), diagnosis, pareto_k)


def fit_tasks(
    tasks: Sequence[TaskData],
    sampling: Sampling,
    inputs: Sequence[Path] = (),
    prior: Prior | None = None,
    announce: Callable[[str], None] = lambda _: None,
    checkpoints: Sequence[Checkpoint] = (),
) -> xr.DataTree:
    """Fit every task by itself (tasks share no parameters) and join the results in one tree; see `fit_file`.

    `inputs` are the files the tasks came from: their hashes go into the provenance. `checkpoints`, if given, one a
    task: where its run is kept until it is finished (`checkpoints_beside`); the caller removes them when all is saved.
    """
    started, prior = time.perf_counter(), prior or Prior()
    # First of all: while the sampler runs the files may be moved or changed.
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in inputs}
    fits = []
    for data, checkpoint in zip(tasks, checkpoints or repeat(None, len(tasks)), strict=True):
        announce(
            f"{data.task}: {len(data.arms)} arms, {len(data.problems)} problems, {len(data.budgets)} budgets, "
            f"{int(data.row_count.sum())} trajectories in {len(data.row_count)} distinct rows"
        )
        fits.append(fit_task(data, sampling, prior, checkpoint))
    return join_tasks(fits, provenance(hashes, sampling, prior, time.perf_counter() - started))


def checkpoints_beside(
    out: Path, tasks: Sequence[TaskData], sampling: Sampling, prior: Prior | None = None
) -> list[Checkpoint]:
    """Where the unfinished runs of the fit `out` are kept: OUT.TASK.unfinished.npz.

    A run is resumed by the same data, settings, prior and versions only.
    """
    settings = replace(sampling, progress=False)
    versions = [tslaw.__version__, version("jax"), version("numpyro")]
    keys = [fingerprint(data, settings, prior or Prior(), versions) for data in tasks]
    names = [f"{out.name}.{data.task}.unfinished.npz" for data in tasks]
    return [Checkpoint(out.with_name(name), key) for name, key in zip(names, keys, strict=True)]


def provenance(inputs: Mapping[str, str], sampling: Sampling, prior: Prior, seconds: float) -> dict[str, Any]:
    """Where a fit came from: inputs by name and hash, settings, versions, date."""
    return {
        "inputs": dict(inputs),
        "sampling": {k: v for k, v in asdict(sampling).items() if k != "progress"},
        "prior": asdict(prior),
        "device": jax.devices()[0].device_kind,
        "packages": {"tslaw": tslaw.__version__} | {name: version(name) for name in PACKAGES},
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "seconds": round(seconds, 1),
    }
