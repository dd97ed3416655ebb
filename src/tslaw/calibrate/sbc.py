"""Simulation-based calibration (Talts et al. 2018; Cook, Gelman & Rubin 2006) of the whole path.

A truth is drawn from the prior, trajectories with guesses, slips and relapses are simulated from it at nested budgets,
the task is fitted as `tslaw fit` does, and every reported quantity of the truth is ranked among its posterior draws. If
the code computes the posterior that it claims to, ranks are uniform, and the 90% intervals cover the truth in 90% of
the replicates, for whatever prior: here one that is narrower than the default, so that most truths are families that
somebody might measure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tslaw.fit.data import TaskData
from tslaw.fit.infer import Sampling
from tslaw.fit.model import Prior
from tslaw.fit.posterior import Posterior

PRIOR = Prior(
    theta0=0.4,
    alpha=0.55,
    delta_w=0.35,
    mu0=0.5,
    mu1=0.2,
    mu2=0.2,
    sd_difficulty=(2.0, 0.4),
    sd_length=0.4,
    sd_effect=0.35,
    sd_effect_w=0.25,
    sd_misfit=(0.07, 0.7),
    sd_misfit_w=(0.07, 0.7),
)
"""Of families that somebody might measure: the default one with the widest scales made narrower."""

BITS = (16.0, 8.0, 4.0)
BUDGETS = (64, 128, 256, 512, 1024, 2048)
N_MODELS, N_PROBLEMS, N_SAMPLES = 4, 16, 8
SAMPLING = Sampling(chains=2, warmup=250, samples=650, target_accept=0.9, progress=False)
RANKED_DRAWS = 99
"""Posterior draws, thinned, among which a truth is ranked: its rank is one of 0 to 99."""
INTERVAL = 0.9


@dataclass(frozen=True)
class Ranked:
    """One quantity in one replicate: the truth, how many of `draws` posterior draws lie below it, and whether the
    90% highest-density interval holds it."""

    name: str
    truth: float
    rank: int
    draws: int
    covered: bool


def empty_task(n_models: int = N_MODELS, n_problems: int = N_PROBLEMS) -> TaskData:
    """The design: the ladder's first models x 4, 8, 16 bits x 6 nested budgets, without trajectories."""
    from tslaw.family import load_family
    from tslaw.fit.simulate import task_without_data

    shapes = {m.name: m.shape for m in load_family("ladder").models[:n_models]}
    return task_without_data(shapes, BITS, BUDGETS, n_problems, "simulated", "simulated")


def draw_truth(data: TaskData, prior: Prior, seed: int) -> dict[str, np.ndarray]:
    """Everything the model has, drawn from the prior for the arms and problems of `data`, lengths included."""
    import jax
    from numpyro.handlers import seed as seeded
    from numpyro.handlers import trace

    from tslaw.fit.infer import AUXILIARY
    from tslaw.fit.model import sample_parameters

    sites = trace(seeded(sample_parameters, jax.random.PRNGKey(seed))).get_trace(data, prior)
    truth = {name: np.asarray(site["value"], float) for name, site in sites.items() if name not in AUXILIARY}
    rng = np.random.default_rng([seed, 1])
    cells = (len(data.arms), len(data.problems))
    own = truth["own_length_spread"] * rng.standard_normal(cells)
    truth["own_length"] = np.where(rng.random(cells) < truth["own_length_share"], own, 0.0)
    truth["length"] = truth["sd_length"] * rng.standard_normal(cells[1])
    return truth


def quantities(posterior: Posterior) -> dict[str, np.ndarray]:
    """Every ranked quantity, (draw,) each: parameters, crossovers (-inf and +inf outside the range), predictions for
    measured and for unseen sizes, votes, and what a memory budget buys."""
    from tslaw.fit.crossover import crossover
    from tslaw.fit.findings import voted_accuracy
    from tslaw.fit.frontier import recommend
    from tslaw.fit.model import POPULATION
    from tslaw.memory import n_params

    found = {name: posterior.params[name] for name in POPULATION}
    for bits in BITS:
        found[f"crossover W+, {bits:g} bits"] = crossover(posterior, bits).draws
    budgets = posterior.budgets[[2, -1]]
    sizes = sorted(n_params(shape) for shape in posterior.shapes.values())
    unseen = {"between": np.sqrt(sizes[1] * sizes[2]), "twice the largest": 2.0 * sizes[-1]}
    for where, size in unseen.items():
        for bits in (16.0, 6.0):
            x, nobody = float(np.log(size / posterior.reference_size)), np.zeros(posterior.n_draws)
            curve = posterior.accuracy(x, bits, budgets, nobody)
            for budget, column in zip(budgets, curve.T, strict=True):
                found[f"accuracy, {where}, {bits:g} bits, {budget:g} tokens"] = column
    arms = posterior.family_arms("checkpoint")
    for arm in (arms[0], arms[len(arms) // 2], arms[-1]):
        name = f"{arm.model}, {arm.weight_bits:g} bits"
        found[f"accuracy, {name}"] = posterior.arm_accuracy(arm, budgets)[:, -1]
        found[f"maj@8, {name}"] = voted_accuracy(posterior, arm, budgets, (8,))[0, :, -1]
    memory = float(np.median([a.weight + a.kv_per_token * posterior.budgets[2] for a in arms]))
    found["best accuracy at a memory budget"] = recommend(posterior, memory).accuracy.max(axis=1)
    return found


def as_posterior(params: Mapping[str, np.ndarray], data: TaskData) -> Posterior:
    """Draws (draw, ...) as what the estimands start from."""
    return Posterior(
        family=data.family,
        task=data.task,
        params=dict(params),
        arms=data.arms,
        models=data.models,
        weight_bits=data.weight_bits,
        budgets=data.budgets,
        shapes=data.shapes,
        reference_size=data.reference_size,
        wrong_spread=data.wrong_spread,
        passed=True,
        policies=data.policies,
    )


def rank(name: str, truth: float, draws: np.ndarray, rng: np.random.Generator) -> Ranked:
    """Rank a truth among draws, ties (censored values) broken by lot; the interval treats them as reported ones do."""
    from tslaw.fit.intervals import hdi

    kept = draws[np.unique(np.linspace(0, len(draws) - 1, RANKED_DRAWS).round().astype(int))]
    ties = int((kept == truth).sum())
    below = int((kept < truth).sum()) + int(rng.integers(0, ties + 1))
    limit = 1e300
    low, high = hdi(np.clip(draws, -limit, limit), INTERVAL)
    return Ranked(name, truth, below, len(kept), bool(low <= np.clip(truth, -limit, limit) <= high))


def replicate(seed: int, prior: Prior = PRIOR, sampling: Sampling = SAMPLING) -> dict[str, Any]:
    """One replicate: plain values for a line of JSON, `ranked` a list of `Ranked`, with the sampler's diagnostics."""
    import arviz_base
    import arviz_stats

    from tslaw.fit.infer import run_nuts
    from tslaw.fit.model import POPULATION
    from tslaw.fit.simulate import simulate_task

    empty = empty_task()
    truth = draw_truth(empty, prior, seed)
    data = simulate_task(empty, truth, N_SAMPLES, seed)
    draws = run_nuts(data, prior, replace(sampling, seed=seed))
    flat = {name: values.reshape(-1, *values.shape[2:]) for name, values in draws.posterior.items()}
    # The truth goes through the estimands as one more draw, the first.
    together = {name: np.concatenate([truth[name][None], values]) for name, values in flat.items()}
    rng = np.random.default_rng([seed, 2])
    ranked = [rank(n, float(v[0]), v[1:], rng) for n, v in quantities(as_posterior(together, data)).items()]
    few = arviz_base.from_dict({"posterior": {n: draws.posterior[n] for n in POPULATION}})["posterior"].dataset
    rhat, ess = arviz_stats.rhat(few), arviz_stats.ess(few)
    return {
        "seed": seed,
        "ranked": [asdict(r) for r in ranked],
        "rhat": max(float(rhat[n]) for n in POPULATION),
        "ess": min(float(ess[n]) for n in POPULATION),
        "divergent": int(draws.sample_stats["diverging"].sum()),
        "accuracy": float(np.nanmean(data.accuracy()[0])),
        "seconds": round(draws.seconds, 1),
    }


@dataclass(frozen=True)
class Calibration:
    """One quantity over all replicates.

    `p_uniform` is the p-value of a chi-square test of the ranks in `BINS` equal bins, `coverage` the share of 90%
    intervals that hold the truth with a 90% interval of its own.
    """

    name: str
    replicates: int
    p_uniform: float
    coverage: float
    coverage_interval: tuple[float, float]
    ranks: np.ndarray


BINS = 10


def calibration(rows: Sequence[Mapping[str, Any]]) -> list[Calibration]:
    """Join the replicates' ranks, one entry a quantity."""
    from scipy import stats

    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        for ranked in row["ranked"]:
            by_name.setdefault(ranked["name"], []).append(ranked)
    found = []
    for name, each in by_name.items():
        ranks = np.array([r["rank"] for r in each])
        counts = np.histogram(ranks, bins=np.linspace(-0.5, RANKED_DRAWS + 0.5, BINS + 1))[0]
        hits = sum(r["covered"] for r in each)
        low, high = stats.beta.ppf([0.05, 0.95], [hits + 0.5] * 2, [len(each) - hits + 0.5] * 2)
        p_uniform = float(stats.chisquare(counts).pvalue)
        found.append(Calibration(name, len(each), p_uniform, hits / len(each), (float(low), float(high)), ranks))
    return found
