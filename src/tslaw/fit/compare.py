"""Several surfaces fitted to the same data, compared by LOO and by what they say a repeat would have shown.

LOO leaves out what one model did on one problem (`tslaw.fit.loo`), for every surface alike. Differences and their
standard errors are sums over the pairs left out (Vehtari, Gelman & Gabry 2017), stacking weights (Yao et al. 2018) are
ArviZ's.
"""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import arviz_stats
import numpy as np

from tslaw.errors import TslawError
from tslaw.fit.data import TaskData
from tslaw.fit.diagnostics import Diagnosis, LeftOut, judge, leave_pairs_out
from tslaw.fit.infer import Draws, Sampling
from tslaw.fit.nuts import Checkpoint
from tslaw.fit.predictive import trajectories
from tslaw.fit.surfaces.protocol import Surface
from tslaw.fit.unfinished import checkpoint_beside, remove_unfinished

INTERVAL = (0.05, 0.95)


@dataclass(frozen=True)
class Replicas:
    """What was measured, and what replicated measurements show: `accuracy` (arm, budget), and the share of trajectories
    `lost` from one budget to the next, right and then wrong (arm, budget - 1); replicas have the draw first."""

    measured_accuracy: np.ndarray
    measured_lost: np.ndarray
    accuracy: np.ndarray
    lost: np.ndarray


@dataclass(frozen=True)
class SurfaceFit:
    """One surface fitted to one task."""

    surface: Surface
    data: TaskData
    diagnosis: Diagnosis
    left_out: LeftOut
    replicas: Replicas
    seconds: float


def coverage(measured: np.ndarray, replicas: np.ndarray) -> float:
    """The share of measured cells inside the 90% intervals of their `replicas` (draw, ...). Cells that are NaN do not
    count; NaN when all are."""
    low, high = np.quantile(replicas, INTERVAL, axis=0)
    inside = ((low <= measured) & (measured <= high))[~np.isnan(measured)]
    return float(inside.mean()) if inside.size else np.nan


def rms_misfit(measured: np.ndarray, replicas: np.ndarray) -> float:
    """Root mean square, over cells, of the replicas' mean minus what was measured; NaN as for `coverage`."""
    gap = (replicas.mean(axis=0) - measured)[~np.isnan(measured)]
    return float(np.sqrt(np.mean(gap**2))) if gap.size else np.nan


def replicas_of(surface: Surface, draws: Draws, data: TaskData, seed: int) -> Replicas:
    """Replicate the measurement by `surface`, and look at the replicas as at the data."""
    each, n_arms = trajectories(data), len(data.arms)
    pattern = np.repeat(data.row_pattern, data.row_count)
    seen = [(each.accuracy(r, n_arms), each.lost(r, n_arms)) for r in surface.replicate(draws, data, seed)]
    accuracy, lost = (np.array(values) for values in zip(*seen, strict=True))
    right = data.patterns[pattern]
    return Replicas(each.accuracy(right, n_arms), each.lost(right, n_arms), accuracy, lost)


@dataclass(frozen=True)
class Row:
    """One line of the comparison, the best surface first.

    `elpd_diff` is how far its elpd lies below the best one's (0 or less), `elpd_diff_se` the standard error of that,
    `weight` its stacking weight, `bad_pareto_k` the share of (model, problem) pairs with Pareto k > 0.7. `coverage` is
    the share of accuracies (arm, budget) inside their 90% predictive intervals, `rms_misfit` how far off their means
    are, `lost_coverage` and `lost_rms_misfit` the same of the shares of trajectories that are right at a budget and
    wrong at the next (NaN when no trajectory served two budgets). `failures` are what the sampler's diagnostics say.
    """

    surface: str
    title: str
    elpd: float
    elpd_se: float
    elpd_diff: float
    elpd_diff_se: float
    p_loo: float
    bad_pareto_k: float
    weight: float
    coverage: float
    rms_misfit: float
    lost_coverage: float
    lost_rms_misfit: float
    passed: bool
    failures: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """All surfaces on one task; `rows` and `fits` in the same order, the best elpd first."""

    task: str
    n_problems: int
    n_pairs: int
    rows: tuple[Row, ...]
    fits: tuple[SurfaceFit, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, null for what is NaN."""
        rows = [{k: None if v != v else v for k, v in asdict(row).items()} for row in self.rows]
        return {"task": self.task, "problems": self.n_problems, "pairs": self.n_pairs, "surfaces": rows}


def fit_surface(
    surface: Surface, data: TaskData, sampling: Sampling, checkpoint: Checkpoint | None = None
) -> SurfaceFit:
    """Fit one surface and find out how well it predicts; an unfinished run of NUTS is kept in `checkpoint`."""
    started = time.perf_counter()
    draws = surface.sample(data, sampling, checkpoint) if checkpoint else surface.sample(data, sampling)
    return assess(surface, data, draws, sampling.seed, started)


def run_name(task: str, surface: Surface) -> str:
    """What the unfinished run of a surface on a task is called."""
    return f"{task}.{surface.name}"


def checkpoint_of(surface: Surface, data: TaskData, sampling: Sampling, keep: Path | None) -> Checkpoint | None:
    """Where a surface's unfinished run is kept beside `keep`; it is resumed by the same code on the same data.

    None where nothing is to be kept, for a surface that takes no checkpoint, and for one that no file defines: whether
    it is still the same could not be told.
    """
    if keep is None or "checkpoint" not in inspect.signature(surface.sample).parameters:
        return None
    try:
        code = Path(inspect.getfile(type(surface))).read_bytes()
    except (OSError, TypeError):
        return None
    prior = getattr(surface, "prior", None)
    return checkpoint_beside(keep, run_name(data.task, surface), sampling, data, surface.name, prior, code)


def assess(surface: Surface, data: TaskData, draws: Draws, seed: int, started: float | None = None) -> SurfaceFit:
    """LOO, diagnostics and replicas of draws that exist already."""
    started = time.perf_counter() - draws.seconds if started is None else started
    left_out = leave_pairs_out(draws.posterior, data, surface.left_out_log_likelihood)
    scalars = [name for name, values in draws.posterior.items() if values.ndim == 2]
    diagnosis = judge(draws, data.task, left_out.loo, scalars, surface.effects)
    replicas = replicas_of(surface, draws, data, seed)
    return SurfaceFit(surface, data, diagnosis, left_out, replicas, time.perf_counter() - started)


def compare(fits: Sequence[SurfaceFit]) -> Comparison:
    """Order fits of the same data by their elpd.

    Raises
    ------
    TslawError : two surfaces of one name, or fits of different data.
    """
    names = [fit.surface.name for fit in fits]
    if len(set(names)) < len(names):
        raise TslawError(f"Two of these surfaces have the same name: {', '.join(names)}.", expected="a name for each")
    first = fits[0].left_out.measured
    if any(f.left_out.measured.shape != first.shape or (f.left_out.measured != first).any() for f in fits):
        raise TslawError("These surfaces were not fitted to the same data.", expected="the same models and problems")
    by_name = dict(zip(names, fits, strict=True))
    weights = stacking_weights(by_name)
    ordered = tuple(sorted(fits, key=lambda fit: -float(fit.left_out.loo.elpd)))
    rows = tuple(_row(fit, ordered[0], weights[fit.surface.name]) for fit in ordered)
    return Comparison(fits[0].data.task, len(fits[0].data.problems), int(first.sum()), rows, ordered)


def compare_surfaces(
    surfaces: Sequence[Surface],
    data: TaskData,
    sampling: Sampling,
    announce: Callable[[str], None] = lambda _: None,
    keep: Path | None = None,
) -> Comparison:
    """Fit every surface to `data` and compare them.

    Runs of NUTS are kept beside `keep` until the caller has saved the result (`remove_runs`), and resumed from there.
    """
    fits = []
    for surface in surfaces:
        announce(f"{data.task}: {surface.name} ({surface.title})")
        checkpoint = checkpoint_of(surface, data, sampling, keep)
        if checkpoint and checkpoint.load() is not None:
            announce(f"going on from {checkpoint.path}")
        fits.append(fit_surface(surface, data, sampling, checkpoint))
    return compare(fits)


def remove_runs(keep: Path, surfaces: Sequence[Surface], tasks: Sequence[TaskData]) -> None:
    """Remove what was kept of a comparison that has been saved."""
    remove_unfinished(keep, [run_name(data.task, surface) for data in tasks for surface in surfaces])


def stacking_weights(fits: dict[str, SurfaceFit]) -> dict[str, float]:
    """ArviZ's stacking weights; of a single surface, 1.

    Nothing else is taken from its table: ArviZ 1 rounds it, and counts differences the other way round than ArviZ 0.8.
    """
    points = {name: fit.left_out.loo for name, fit in fits.items()}
    # Stacking exponentiates the points, and a pair of hundreds of trajectories underflows. Neither weights nor
    # differences change when the same is added to a point of every surface.
    top = np.max([loo.elpd_i.values for loo in points.values()], axis=0)
    exact = {"round_to": "none"} if "round_to" in inspect.signature(arviz_stats.compare).parameters else {}
    with warnings.catch_warnings():  # ArviZ 0.8 uses what pandas 3.1 is going to take away
        warnings.filterwarnings("ignore", message="The inplace keyword", category=DeprecationWarning)
        table = arviz_stats.compare({n: replace(loo, elpd_i=loo.elpd_i - top) for n, loo in points.items()}, **exact)
    return {name: float(table.loc[name]["weight"]) for name in points}


def _row(fit: SurfaceFit, best: SurfaceFit, weight: float) -> Row:
    seen, loo = fit.replicas, fit.left_out.loo
    behind = np.ravel(loo.elpd_i.values - best.left_out.loo.elpd_i.values)
    return Row(
        surface=fit.surface.name,
        title=fit.surface.title,
        elpd=float(loo.elpd),
        elpd_se=float(loo.se),
        elpd_diff=float(behind.sum()),
        elpd_diff_se=float(np.sqrt(len(behind)) * behind.std()),
        p_loo=float(loo.p),
        bad_pareto_k=fit.diagnosis.bad_pareto_k,
        weight=weight,
        coverage=coverage(seen.measured_accuracy, seen.accuracy),
        rms_misfit=rms_misfit(seen.measured_accuracy, seen.accuracy),
        lost_coverage=coverage(seen.measured_lost, seen.lost),
        lost_rms_misfit=rms_misfit(seen.measured_lost, seen.lost),
        passed=fit.diagnosis.passed,
        failures=fit.diagnosis.failures,
        seconds=fit.seconds,
    )
