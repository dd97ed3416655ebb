"""Did the sampler work? R-hat, ESS, divergences and LOO by ArviZ, and the gate that a fit has to pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import arviz_base
import arviz_stats
import numpy as np

from tslaw.fit.cache_terms import site_names
from tslaw.fit.data import TaskData
from tslaw.fit.infer import Draws
from tslaw.fit.loo import FEW_DRAWS, MOST_DRAWS, left_out_log_likelihood, thinned
from tslaw.fit.loo_matching import match_pairs
from tslaw.fit.model import POPULATION
from tslaw.fit.particles import FORGOTTEN_LAST, bulk_and_tail_ess
from tslaw.fit.surface import TRAITS

if TYPE_CHECKING:
    import xarray as xr

EFFECTS = (
    *("difficulty", "length", "misfit", "model_effect", "quantization_effect"),
    *("kv_misfit", "kv_own", "kv_cut"),
    *TRAITS,
)
"""The effects of problems, arms and models whose R-hat is looked at."""

MAX_RHAT = 1.01
MIN_ESS = 400.0
RHAT_EFFECT, MAX_SHARE_EFFECTS = 1.05, 0.05
MAX_DIVERGENT = 0.002
BAD_PARETO, MAX_BAD_PARETO = 0.7, 0.2
"""Thresholds of Vehtari et al. (2021, Bayesian Analysis 16) for R-hat and ESS, and of Vehtari, Gelman & Gabry (2017)
for Pareto k; what a model did on a problem, in all its arms, is more to leave out than a point, so up to a fifth of the
pairs may have a high one. A problem that no arm solves may be too hard or too long: its two effects then have two
modes, so a few effects may mix slowly (up to 5% with R-hat > 1.05) without touching any estimand."""


@dataclass(frozen=True)
class Diagnosis:
    """What was checked, for one task.

    `rhat` and `ess_bulk`, `ess_tail` are the worst over the population parameters (the ones every estimand uses),
    `rhat_effects` the worst over the problems' and arms' effects and `slow_effects` the share of them above 1.05;
    `bad_pareto_k` the share of (model, problem) pairs whose LOO estimate cannot be trusted. An `approximate` fit was
    not sampled: there is nothing to check in its draws, what is checked in others is NaN, and it never passes.
    `refitted` reports of published means were left out by fitting without them (`means_loo`), and `matched` pairs by
    moving draws to where they would be without them (`loo_matching`).

    Draws that are particles were moved `moves` times at the last power, until they correlated with where they had been
    by no more than `correlation`; NaN of any other draws. Their effective sample sizes are no larger than what
    families of particles say (`particles.family_ess`).
    """

    task: str
    rhat: float
    rhat_effects: float
    slow_effects: float
    ess_bulk: float
    ess_tail: float
    divergences: int
    draws: int
    elpd_loo: float
    elpd_loo_se: float
    p_loo: float
    bad_pareto_k: float
    seconds: float
    failures: tuple[str, ...]
    approximate: bool = False
    refitted: int = 0
    matched: int = 0
    moves: int = 0
    correlation: float = float("nan")

    @property
    def passed(self) -> bool:
        """Whether the fit may be used without a warning."""
        return not self.failures and not self.approximate

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, null for what is NaN."""
        return {k: None if v != v else v for k, v in asdict(self).items()} | {"passed": self.passed}


def _worst(data: Any, names: list[str], statistic: Any, pick: Any) -> float:
    values = statistic(data[names])
    return float(pick([float(pick(values[n].values)) for n in names]))


def trajectories_by_model(data: TaskData) -> np.ndarray:
    """Number of trajectories of every model on every problem: (model, problem)."""
    each, model = data.trajectories(), data.model_index()
    return np.stack([each[model == m].sum(axis=0) for m in range(model.max() + 1)])


class LeftOut(NamedTuple):
    """LOO of what every model did on every problem: ArviZ's `ELPDData`, whose points are the pairs that are `measured`
    (model, problem), in that order; `matched` of them by moving draws."""

    loo: Any
    measured: np.ndarray
    matched: int = 0

    def table(self, values: Any) -> np.ndarray:
        """Values of the points as (model, problem), NaN where nothing was measured."""
        table = np.full(self.measured.shape, np.nan)
        table[self.measured] = np.asarray(values, float)
        return table


def leave_pairs_out(
    posterior: dict[str, np.ndarray],
    data: TaskData,
    log_likelihood: Callable[[dict[str, np.ndarray], TaskData], np.ndarray] = left_out_log_likelihood,
    most_draws: int = MOST_DRAWS,
) -> LeftOut:
    """LOO from at most so many draws of (chain, draw, ...) arrays; `log_likelihood` gives (chain, draw, model,
    problem)."""
    few, measured = thinned(posterior, most_draws), trajectories_by_model(data) > 0
    return LeftOut(loo_of(few, log_likelihood(few, data)[:, :, measured]), measured)


def leave_pairs_out_by_moving(
    posterior: dict[str, np.ndarray], data: TaskData, most_draws: int = MOST_DRAWS
) -> LeftOut:
    """As `leave_pairs_out`, but pairs whose Pareto k is too high are left out by moving draws (`loo_matching`)."""
    few, measured = thinned(posterior, most_draws), trajectories_by_model(data) > 0
    log_likelihood = left_out_log_likelihood(few, data)
    loo = loo_of(few, log_likelihood[:, :, measured])
    elpd, k = (np.zeros(measured.shape) for _ in range(2))
    elpd[measured], k[measured] = loo.elpd_i.values, loo.pareto_k.values
    found = match_pairs(few, data, log_likelihood, measured & ~(k <= BAD_PARETO))
    better = {pair: each for pair, each in found.items() if each.pareto_k <= BAD_PARETO}
    for pair, each in better.items():
        elpd[pair], k[pair] = each.elpd, each.pareto_k
    return LeftOut(with_points(loo, elpd[measured], k[measured]), measured, len(better))


def with_points(loo: Any, elpd: np.ndarray, pareto_k: np.ndarray) -> Any:
    """The same LOO (ArviZ's `ELPDData`) with these pointwise values, (point,), and what is summed over them."""
    before = np.asarray(loo.elpd_i.values, float)
    return replace(
        loo,
        elpd=float(elpd.sum()),
        se=float(np.sqrt(len(elpd)) * elpd.std()),
        p=float(loo.p + (before - elpd).sum()),
        elpd_i=loo.elpd_i.copy(data=elpd),
        pareto_k=loo.pareto_k.copy(data=pareto_k),
    )


def loo_of(posterior: dict[str, np.ndarray], left_out: np.ndarray) -> Any:
    """ArviZ's `ELPDData` from the log-likelihoods of what is left out, (chain, draw, point), of the same draws."""
    tree = arviz_base.from_dict({"posterior": posterior, "log_likelihood": {"left_out": left_out}})
    with warnings.catch_warnings():  # what ArviZ warns of, high Pareto k, is one of the checks of `judge`
        warnings.filterwarnings("ignore", message="Estimated shape parameter of Pareto", category=UserWarning)
        # A chain that stood still has a tail of equal weights, and no k: counted as bad by `judge`.
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="arviz_stats")
        return arviz_stats.loo(tree, pointwise=True)


def diagnose(draws: Draws, data: TaskData) -> tuple[Diagnosis, np.ndarray]:
    """Check one task's draws.

    Returns
    -------
    Diagnosis, and the Pareto k of what every model did on every problem, (model, problem), NaN where nothing was
    measured.
    """
    # A model's own numbers are many where caches are compressed, and a problem may be all that is known of one.
    leave_out = leave_pairs_out_by_moving if data.cache_kinds else leave_pairs_out
    left_out = leave_out(draws.posterior, data)
    population = (*POPULATION, *site_names(data.cache_kinds))
    diagnosis = judge(draws, data.task, left_out.loo, population, EFFECTS)
    return replace(diagnosis, matched=left_out.matched), left_out.table(left_out.loo.pareto_k.values)


def describe_approximate(draws: Draws, data: TaskData) -> tuple[Diagnosis, np.ndarray]:
    """As `diagnose`, for independent draws of an approximation: LOO is all that can be said, and is no better than the
    approximation."""
    left_out, nan = leave_pairs_out(draws.posterior, data, most_draws=FEW_DRAWS), float("nan")
    loo = left_out.loo
    diagnosis = Diagnosis(
        task=data.task,
        rhat=nan,
        rhat_effects=nan,
        slow_effects=nan,
        ess_bulk=nan,
        ess_tail=nan,
        divergences=0,
        draws=draws.posterior[POPULATION[0]].size,
        elpd_loo=float(loo.elpd),
        elpd_loo_se=float(loo.se),
        p_loo=float(loo.p),
        bad_pareto_k=_bad_share(loo),
        seconds=draws.seconds,
        failures=(),
        approximate=True,
    )
    return diagnosis, left_out.table(loo.pareto_k.values)


def _bad_share(loo: Any) -> float:
    """Of the points whose Pareto k is too high, or not known."""
    return float((~(np.asarray(loo.pareto_k.values, float) <= BAD_PARETO)).mean())


def _rhats(effect: xr.DataArray) -> np.ndarray:
    """R-hat of every effect that varies: what a full cache costs, say, is nothing in all draws."""
    each = effect.stack(each=[dim for dim in effect.dims if dim not in ("chain", "draw")], create_index=False)
    varying = each[..., each.std(("chain", "draw")).values > 0]
    return np.asarray(arviz_stats.rhat(varying.to_dataset(name="effect"))["effect"].values)


def judge(draws: Draws, task: str, loo: Any, population: Sequence[str], effects: Sequence[str]) -> Diagnosis:
    """Check draws of any surface, given its LOO (`ELPDData`) and the names of its scalars and of its effects."""
    posterior = arviz_base.from_dict({"posterior": draws.posterior})["posterior"].dataset
    present = [n for n in effects if n in posterior]
    rhat = _worst(posterior, list(population), arviz_stats.rhat, np.max)
    rhats = np.concatenate([_rhats(posterior[n]) for n in present])
    slow = float((rhats > RHAT_EFFECT).mean())
    bulk = _worst(posterior, list(population), lambda d: arviz_stats.ess(d, method="bulk"), np.min)
    tail = _worst(posterior, list(population), lambda d: arviz_stats.ess(d, method="tail"), np.min)
    if (family := draws.sample_stats.get("family")) is not None:
        # Of copies that follow each other in no order ArviZ sees nothing.
        kinds = zip(*(bulk_and_tail_ess(draws.posterior[n].ravel(), family.ravel()) for n in population), strict=True)
        bulk, tail = (min(ess, *found) for ess, found in zip((bulk, tail), kinds, strict=True))
    forgetting = draws.forgetting
    # Only Hamiltonian samplers diverge.
    divergences = int(draws.sample_stats.get("diverging", np.zeros(0)).sum())
    n_draws = draws.posterior[population[0]].size
    bad = _bad_share(loo)
    checks = {
        # R-hat of a single chain is NaN: not a pass, but nothing that was checked either.
        f"R-hat {rhat:.3f} > {MAX_RHAT}": rhat > MAX_RHAT,
        "R-hat needs at least two chains": bool(np.isnan(rhat)),
        f"R-hat > {RHAT_EFFECT} for {slow:.1%} of problem and arm effects": slow > MAX_SHARE_EFFECTS,
        f"bulk ESS {bulk:.0f} < {MIN_ESS:.0f}": not bulk >= MIN_ESS,
        f"tail ESS {tail:.0f} < {MIN_ESS:.0f}": not tail >= MIN_ESS,
        f"{divergences} divergent transitions of {n_draws}": divergences > MAX_DIVERGENT * n_draws,
        f"{bad:.1%} of LOO pairs have Pareto k > {BAD_PARETO}": bad > MAX_BAD_PARETO,
    }
    if forgetting:
        text = f"particles still correlate by {forgetting.correlation:.2f} > {FORGOTTEN_LAST} with where they were "
        checks[text + f"before the last {forgetting.moves} moves"] = not forgetting.enough
    failures = tuple(text for text, failed in checks.items() if failed)
    return Diagnosis(
        task,
        rhat,
        float(rhats.max()),
        slow,
        bulk,
        tail,
        divergences,
        n_draws,
        float(loo.elpd),
        float(loo.se),
        float(loo.p),
        bad,
        draws.seconds,
        failures,
        moves=forgetting.moves if forgetting else 0,
        correlation=forgetting.correlation if forgetting else float("nan"),
    )
