"""One data set with a known crossover, fitted: the unit of work of the recovery test, run in processes of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace

from simulated import draw_truth, posterior_of, reference_sizes, template

from reference import surface_reference as reference

WEIGHT_BITS = 8.0


@dataclass(frozen=True)
class Recovered:
    """The true crossover and what was inferred, in bytes, with the worst R-hat and ESS of the population parameters."""

    seed: int
    truth: float
    median: float
    hdi: tuple[float, float]
    rhat: float
    ess: float
    seconds: float

    @property
    def covered(self) -> bool:
        return self.hdi[0] <= self.truth <= self.hdi[1]


def recover(seed: int) -> Recovered:
    """Draw a truth, simulate 18 arms x 24 problems x 8 trajectories x 8 budgets from it, fit them, locate W+."""
    from tslaw.fit import infer

    infer.prepare_jax(2)
    from tslaw.fit.crossover import crossover
    from tslaw.fit.diagnostics import diagnose
    from tslaw.fit.model import Prior
    from tslaw.fit.simulate import simulate_task

    empty = template(24)
    truth = draw_truth(seed, empty)
    data = simulate_task(empty, truth, samples=8, seed=seed)
    sampling = infer.Sampling(chains=2, warmup=200, samples=300, seed=seed, progress=False)
    draws = infer.run_nuts(data, Prior(), sampling)
    flat = {name: values.reshape(-1, *values.shape[2:]) for name, values in draws.posterior.items()}
    found = crossover(replace(posterior_of([truth], data), params=flat), WEIGHT_BITS)
    diagnosis, _ = diagnose(draws, data)
    known = reference.crossover(truth, reference_sizes(data, WEIGHT_BITS), WEIGHT_BITS)
    s = found.summary
    return Recovered(seed, known, s.median, s.hdi, diagnosis.rhat, diagnosis.ess_bulk, draws.seconds)
