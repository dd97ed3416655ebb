"""Several surfaces fitted to the same data, compared by LOO and by what they say a repeat would have shown.

LOO leaves out what one model did on one problem (`tslaw.fit.loo`), for every surface alike. Differences, their standard
errors and the stacking weights (Yao et al. 2018) are ArviZ's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import arviz_stats
import numpy as np

from tslaw.errors import TslawError
from tslaw.fit.data import TaskData
from tslaw.fit.diagnostics import Diagnosis, LeftOut, judge, leave_pairs_out
from tslaw.fit.infer import Draws, Sampling
from tslaw.fit.surfaces.protocol import Surface

INTERVAL = (0.05, 0.95)


@dataclass(frozen=True)
class SurfaceFit:
    """One surface fitted to one task. `predictive` is (draw, arm, budget): accuracies of replicated measurements."""

    surface: Surface
    data: TaskData
    diagnosis: Diagnosis
    left_out: LeftOut
    predictive: np.ndarray
    seconds: float

    def coverage(self) -> float:
        """The share of measured accuracies inside their 90% predictive intervals."""
        observed, probes = self.data.accuracy()
        low, high = np.quantile(self.predictive, INTERVAL, axis=0)
        return float(((low <= observed) & (observed <= high))[probes > 0].mean())

    def rms_misfit(self) -> float:
        """Root mean square of predicted minus measured accuracy, over arms and budgets."""
        observed, probes = self.data.accuracy()
        gap = (self.predictive.mean(axis=0) - observed)[probes > 0]
        return float(np.sqrt(np.mean(gap**2)))


@dataclass(frozen=True)
class Row:
    """One line of the comparison, the best surface first.

    `elpd_diff` is how far its elpd lies below the best one's (0 or less), `elpd_diff_se` the standard error of that,
    `weight` its stacking weight, `bad_pareto_k` the share of (model, problem) pairs with Pareto k > 0.7, `coverage` the
    share of cells inside their 90% predictive intervals, `rms_misfit` in accuracy, `failures` what the sampler's
    diagnostics say.
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
        """Plain values for JSON."""
        return {
            "task": self.task,
            "problems": self.n_problems,
            "pairs": self.n_pairs,
            "surfaces": [asdict(row) for row in self.rows],
        }


def some_problems(data: TaskData, n: int | None, seed: int = 0) -> TaskData:
    """The data of `n` problems drawn at random, in their old order; all of them when `n` is None or not fewer.

    Raises
    ------
    TslawError : fewer than 2 problems.
    """
    if n is not None and n < 2:
        raise TslawError(f"{n} problems are too few to compare surfaces on.", where="--problems", expected="2 or more")
    if n is None or n >= len(data.problems):
        return data
    chosen = np.sort(np.random.default_rng(seed).choice(len(data.problems), n, replace=False))
    kept = np.isin(data.row_problem, chosen)
    patterns, row_pattern = np.unique(data.row_pattern[kept], return_inverse=True)
    return replace(
        data,
        problems=tuple(data.problems[j] for j in chosen),
        wrong_spread=data.wrong_spread[chosen],
        patterns=data.patterns[patterns],
        row_arm=data.row_arm[kept],
        row_problem=np.searchsorted(chosen, data.row_problem[kept]),
        row_pattern=row_pattern,
        row_count=data.row_count[kept],
    )


def fit_surface(surface: Surface, data: TaskData, sampling: Sampling) -> SurfaceFit:
    """Fit one surface and find out how well it predicts."""
    started = time.perf_counter()
    return assess(surface, data, surface.sample(data, sampling), sampling.seed, started)


def assess(surface: Surface, data: TaskData, draws: Draws, seed: int, started: float | None = None) -> SurfaceFit:
    """LOO, diagnostics and replicas of draws that exist already."""
    started = time.perf_counter() - draws.seconds if started is None else started
    left_out = leave_pairs_out(draws.posterior, data, surface.left_out_log_likelihood)
    scalars = [name for name, values in draws.posterior.items() if values.ndim == 2]
    diagnosis = judge(draws, data.task, left_out.loo, scalars, surface.effects)
    predictive = surface.replicate(draws, data, seed)
    predictive = predictive.reshape(-1, *predictive.shape[2:])
    return SurfaceFit(surface, data, diagnosis, left_out, predictive, time.perf_counter() - started)


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
    table = _arviz_table(by_name)
    rows = tuple(_row(by_name[str(name)], table.loc[name]) for name in table.index)
    ordered = tuple(by_name[row.surface] for row in rows)
    return Comparison(fits[0].data.task, len(fits[0].data.problems), int(first.sum()), rows, ordered)


def compare_surfaces(
    surfaces: Sequence[Surface],
    data: TaskData,
    sampling: Sampling,
    announce: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Fit every surface to `data` and compare them."""
    fits = []
    for surface in surfaces:
        announce(f"{data.task}: {surface.name} ({surface.title})")
        fits.append(fit_surface(surface, data, sampling))
    return compare(fits)


def _arviz_table(fits: dict[str, SurfaceFit]) -> Any:
    """ArviZ's comparison, a data frame with the best elpd first; a single surface is compared with nothing."""
    points = {name: fit.left_out.loo for name, fit in fits.items()}
    # Stacking exponentiates the points, and a pair of hundreds of trajectories underflows. Neither weights nor
    # differences change when the same is added to a point of every surface.
    top = np.max([loo.elpd_i.values for loo in points.values()], axis=0)
    return arviz_stats.compare({n: replace(loo, elpd_i=loo.elpd_i - top) for n, loo in points.items()})


def _row(fit: SurfaceFit, found: Any) -> Row:
    return Row(
        surface=fit.surface.name,
        title=fit.surface.title,
        elpd=float(found["elpd"]),
        elpd_se=float(found["se"]),
        elpd_diff=-float(found["elpd_diff"]),
        elpd_diff_se=float(found["dse"]),
        p_loo=float(found["p"]),
        bad_pareto_k=fit.diagnosis.bad_pareto_k,
        weight=float(found["weight"]),
        coverage=fit.coverage(),
        rms_misfit=fit.rms_misfit(),
        passed=fit.diagnosis.passed,
        failures=fit.diagnosis.failures,
        seconds=fit.seconds,
    )
