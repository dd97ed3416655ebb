"""Fit datasets: what `tslaw fit` does, without the command line."""

from __future__ import annotations

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
from tslaw.fit.infer import Draws, Sampling, run_nuts
from tslaw.fit.inputs import input_hashes
from tslaw.fit.means_data import MeansData
from tslaw.fit.means_file import MeansFit, fit_means
from tslaw.fit.model import Prior
from tslaw.fit.nuts import Checkpoint
from tslaw.fit.pooling import run_pooled
from tslaw.fit.predictive import predictive_accuracy
from tslaw.fit.quick import Quick, run_quick
from tslaw.fit.unfinished import checkpoint_beside

if TYPE_CHECKING:
    import xarray as xr

    from tslaw.fit.borrow import Borrowing
    from tslaw.fit.data import TaskData

POOLED = "pooled"
"""What the unfinished run of several tasks together is called."""
PACKAGES = ("jax", "numpyro", "optax", "numpy", "xarray", "arviz-base", "arviz-stats")


def fit_task(
    data: TaskData, sampling: Sampling, prior: Prior | None = None, checkpoint: Checkpoint | None = None
) -> TaskFit:
    """Sample one task's posterior, check it, and replicate the measurement from it."""
    return checked_fit(data, run_nuts(data, prior or Prior(), sampling, checkpoint), sampling.seed)


def checked_fit(data: TaskData, draws: Draws, seed: int) -> TaskFit:
    """One task's posterior draws with their diagnosis and replicated measurements."""
    diagnosis, pareto_k = diagnose(draws, data)
    return TaskFit(data, draws, predictive_accuracy(draws, data, seed), diagnosis, pareto_k)


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
    pool_width: float | None = None,
) -> xr.DataTree:
    """Fit every task and join the results in one tree; see `fit_file`.

    Tasks share no parameters, unless `pool_width` says how far they may differ (`pooling`). `inputs` are the files the
    tasks came from: their hashes go into the provenance. `borrowed` replaces parts of the prior, task by task, by what
    an earlier fit says of them. Runs of NUTS are kept beside `keep` until the caller has saved the result
    (`unfinished.remove_unfinished`), and resumed from there; a `Quick` one is not kept.

    Raises
    ------
    TslawError : means are to be fitted quickly or pooled, one task is to be pooled, or a quick look is.
    """
    started, prior = time.perf_counter(), prior or Prior()
    # First of all: while the sampler runs the files may be moved or changed.
    hashes = input_hashes(inputs)
    priors = [replace(prior, borrowed=borrowed.of(data)) if borrowed else prior for data in tasks]
    fits: list[TaskFit | MeansFit]
    if pool_width is None:
        fits = [_fit_alone(data, sampling, own, announce, keep) for data, own in zip(tasks, priors, strict=True)]
    else:
        fits = [*_fit_together(tasks, sampling, priors, announce, keep, pool_width)]
    origin = provenance(hashes, sampling, prior, time.perf_counter() - started)
    if borrowed:
        origin["borrowed"] = borrowed.provenance(tasks)
    if pool_width is not None:
        origin["pooled"] = {"width": pool_width, "tasks": [data.task for data in tasks]}
    return join_tasks(fits, origin)


def _fit_alone(
    data: TaskData | MeansData,
    sampling: Sampling | Quick,
    prior: Prior,
    announce: Callable[[str], None],
    keep: Path | None,
) -> TaskFit | MeansFit:
    announce(data.describe())
    if isinstance(sampling, Quick):
        return fit_quickly(_measured(data, "fitted quickly", "--quick"), sampling, prior)
    if isinstance(data, MeansData):
        return fit_means(data, sampling, prior)
    return fit_task(data, sampling, prior, _kept(keep, data.task, announce, sampling, data, prior))


def _fit_together(
    tasks: Sequence[TaskData | MeansData],
    sampling: Sampling | Quick,
    priors: Sequence[Prior],
    announce: Callable[[str], None],
    keep: Path | None,
    width: float,
) -> list[TaskFit]:
    measured = [_measured(data, "pooled", "--pool") for data in tasks]
    if isinstance(sampling, Quick):
        raise TslawError("A quick look fits tasks one by one.", where="--pool", fix="leave --pool or --quick out")
    if len(measured) < 2:
        raise TslawError("There is one task only.", where="--pool", expected="two or more tasks that share a family")
    for data in measured:
        announce(data.describe())
    checkpoint = _kept(keep, POOLED, announce, sampling, width, *measured, *priors)
    drawn = run_pooled(measured, priors, sampling, width, checkpoint)
    return [checked_fit(data, draws, sampling.seed) for data, draws in zip(measured, drawn, strict=True)]


def _kept(
    keep: Path | None, name: str, announce: Callable[[str], None], sampling: Sampling, *of: Any
) -> Checkpoint | None:
    """Where the run is kept, if it is; says so when it goes on."""
    checkpoint = checkpoint_beside(keep, name, sampling, *of) if keep else None
    if checkpoint and checkpoint.load() is not None:
        announce(f"going on from {checkpoint.path}")
    return checkpoint


def _measured(data: TaskData | MeansData, what: str, option: str) -> TaskData:
    if isinstance(data, MeansData):
        raise TslawError(
            f"Published means cannot be {what}: their posteriors are far from normal.",
            where=data.task,
            expected="measured datasets (.nc)",
            fix=f"leave {option} out",
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
