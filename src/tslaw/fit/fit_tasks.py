"""Fit datasets: what `tslaw fit` does, without the command line."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

import tslaw
from tslaw.errors import TslawError
from tslaw.fit.diagnostics import describe_approximate, diagnose
from tslaw.fit.fit_file import TaskFit, join_tasks
from tslaw.fit.infer import Sampling, run_nuts
from tslaw.fit.means_data import MeansData
from tslaw.fit.means_file import MeansFit, fit_means
from tslaw.fit.model import Prior
from tslaw.fit.nuts import Checkpoint
from tslaw.fit.predictive import predictive_accuracy
from tslaw.fit.quick import Quick, run_quick
from tslaw.fit.unfinished import checkpoint_beside

if TYPE_CHECKING:
    import xarray as xr

    from tslaw.fit.borrow import Borrowing
    from tslaw.fit.data import TaskData

PACKAGES = ("jax", "numpyro", "optax", "numpy", "xarray", "arviz-base", "arviz-stats")


def fit_task(
    data: TaskData, sampling: Sampling, prior: Prior | None = None, checkpoint: Checkpoint | None = None
) -> TaskFit:
    """Sample one task's posterior, check it, and replicate the measurement from it."""
    draws = run_nuts(data, prior or Prior(), sampling, checkpoint)
    diagnosis, pareto_k = diagnose(draws, data)
    return TaskFit(data, draws, predictive_accuracy(draws, data, sampling.seed), diagnosis, pareto_k)


def fit_quickly(data: TaskData, quick: Quick, prior: Prior | None = None) -> TaskFit:
    """Approximate one task's posterior; the fit is marked so."""
    draws = run_quick(data, prior or Prior(), quick)
    diagnosis, pareto_k = describe_approximate(draws, data)
    return TaskFit(data, draws, predictive_accuracy(draws, data, quick.seed), diagnosis, pareto_k)


def fit_tasks(
    tasks: Sequence[TaskData | MeansData],
    sampling: Sampling | Quick,
    inputs: Sequence[Path] = (),
    prior: Prior | None = None,
    announce: Callable[[str], None] = lambda _: None,
    borrowed: Borrowing | None = None,
    keep: Path | None = None,
) -> xr.DataTree:
    """Fit every task by itself (tasks share no parameters) and join the results in one tree; see `fit_file`.

    `inputs` are the files the tasks came from: their hashes go into the provenance. `borrowed` replaces parts of the
    prior, task by task, by what an earlier fit says of them. Runs of NUTS are kept beside `keep` until the caller has
    saved the result (`unfinished.remove_unfinished`), and resumed from there; a `Quick` one is not kept.

    Raises
    ------
    TslawError : means are to be fitted quickly.
    """
    started, prior = time.perf_counter(), prior or Prior()
    # First of all: while the sampler runs the files may be moved or changed.
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in inputs}
    fits: list[TaskFit | MeansFit] = []
    for data in tasks:
        announce(data.describe())
        own = replace(prior, borrowed=borrowed.of(data)) if borrowed else prior
        if isinstance(sampling, Quick):
            fits.append(fit_quickly(_measured(data), sampling, own))
            continue
        if isinstance(data, MeansData):
            fits.append(fit_means(data, sampling, own))
            continue
        checkpoint = checkpoint_beside(keep, data.task, sampling, data, own) if keep else None
        if checkpoint and checkpoint.load() is not None:
            announce(f"going on from {checkpoint.path}")
        fits.append(fit_task(data, sampling, own, checkpoint))
    origin = provenance(hashes, sampling, prior, time.perf_counter() - started)
    if borrowed:
        origin["borrowed"] = borrowed.provenance(tasks)
    return join_tasks(fits, origin)


def _measured(data: TaskData | MeansData) -> TaskData:
    if isinstance(data, MeansData):
        raise TslawError(
            "Published means cannot be fitted quickly: their posteriors are far from normal.",
            where=data.task,
            expected="measured datasets (.nc)",
            fix="leave --quick out",
        )
    return data


def provenance(inputs: Mapping[str, str], sampling: Sampling | Quick, prior: Prior, seconds: float) -> dict[str, Any]:
    """Where a fit came from: inputs by name and hash, settings, versions, date."""
    method = "variational (approximate)" if isinstance(sampling, Quick) else "sampled"
    return {
        "inputs": dict(inputs),
        "sampling": {"method": method} | {k: v for k, v in asdict(sampling).items() if k != "progress"},
        "prior": asdict(prior),
        "device": jax.devices()[0].device_kind,
        "packages": {"tslaw": tslaw.__version__} | {name: version(name) for name in PACKAGES},
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "seconds": round(seconds, 1),
    }
