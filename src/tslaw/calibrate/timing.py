"""How long the estimands take: each is asked as the commands ask it, first with everything compiled anew, then again.

Nothing here is a copy of an estimand, so what a table says is what `tslaw crossover`, `findings`, `frontier`,
`recommend` and `predict` take once a fit is read. They run in single precision, as those commands do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from tslaw.fit.cache_findings import cache_frontier, evicted_against_rounded, eviction_threshold
from tslaw.fit.crossover import crossover, lattice_crossover
from tslaw.fit.findings import BestOption, best_voters, best_weight_bits, memory_grid
from tslaw.fit.frontier import frontier, recommend
from tslaw.fit.posterior import Posterior
from tslaw.fit.predict import predict_accuracy

UNSEEN_BITS = 6.0


class Estimand(NamedTuple):
    """Something that commands ask a posterior: of how many of its draws, and how."""

    name: str
    draws: int
    ask: Callable[[], object]


class Timing(NamedTuple):
    """Seconds of the first call, everything compiled anew, and of the shortest of some later ones, with the share of
    the cores that other processes had during that one."""

    name: str
    draws: int
    first: float
    again: float
    others: float


def with_draws(posterior: Posterior, draws: int) -> Posterior:
    """The posterior with so many draws: evenly spaced ones if it has more, all of them over and over if it has
    fewer."""
    if posterior.n_draws >= draws:
        return posterior.thinned(draws)
    places = np.arange(draws) % posterior.n_draws
    return replace(posterior, params={name: values[places] for name, values in posterior.params.items()})


def estimands(posterior: Posterior) -> list[Estimand]:
    """All that can be asked of this posterior; compressed caches and votes only where it knows of them."""
    n, widths = posterior.n_draws, sorted(set(posterior.weight_bits.tolist()))
    arms = posterior.family_arms("checkpoint")
    memory = float(memory_grid(posterior, arms, 1, 1)[-1])  # all arms fit
    found = []
    for bits in widths:
        found.append(Estimand(f"crossover W+, {bits:g} bits", n, partial(crossover, posterior, bits)))
        if sum(arm.weight_bits == bits for arm in arms) > 1:
            name = f"crossover among the family's models, {bits:g} bits"
            found.append(Estimand(name, n, partial(lattice_crossover, posterior, bits)))
    if not np.isnan(posterior.wrong_spread).any():  # published means do not say how wrong answers agree
        found.append(
            Estimand("onset of parallel scaling (votes)", n, lambda: _onsets(best_voters(posterior, most_draws=n)))
        )
    size = np.exp(np.mean(posterior.log_size_range)) * posterior.reference_size
    budgets = posterior.budgets
    found += [
        Estimand("P(best weight bits)", n, lambda: best_weight_bits(posterior).p_best()),
        Estimand("frontier", n, partial(frontier, posterior, budgets=budgets)),
        Estimand("regret and P(best) of every option", n, partial(recommend, posterior, memory)),
        Estimand("accuracy of an unseen size", n, partial(predict_accuracy, posterior, size, UNSEEN_BITS, budgets)),
    ]
    if posterior.cache_kinds:
        found += [
            Estimand("gain of compressed caches", n, lambda: cache_frontier(posterior).gain()),
            Estimand("size above which eviction stops beating rounding", n, partial(_threshold, posterior)),
        ]
    return found


def _onsets(voters: BestOption) -> object:
    """All that `tslaw findings` says of them."""
    return voters.p_best(), voters.onset(2), voters.onset_size(2), voters.onset(8)


def _threshold(posterior: Posterior) -> object:
    return eviction_threshold(evicted_against_rounded(posterior))


class Call(NamedTuple):
    """How long one call took, and the share of the machine's cores that other processes had meanwhile."""

    seconds: float
    others: float


def called(ask: Callable[[], object]) -> Call:
    """Time one call."""
    started, busy, own = time.perf_counter(), busy_seconds(), time.process_time()
    ask()  # estimands are NumPy arrays: when they are there, JAX has finished
    seconds = time.perf_counter() - started
    theirs = (busy_seconds() - busy) - (time.process_time() - own)
    return Call(seconds, min(max(theirs / (seconds * (os.cpu_count() or 1)), 0.0), 1.0))


def busy_seconds(stat: Path = Path("/proc/stat")) -> float:
    """What all cores together have worked since the machine was started, time stolen by its host included; 0 where the
    kernel does not say."""
    if not stat.exists():
        return 0.0
    ticks = [int(word) for word in stat.read_text().splitlines()[0].split()[1:]]
    user, nice, system, _, _, irq, softirq, steal = (ticks + [0] * 8)[:8]
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def timed(asked: list[Estimand], repeats: int) -> Iterator[Timing]:
    """Every estimand in turn; nothing that an earlier one compiled is there for the next one's first call.

    The shortest of `repeats` later calls is kept: what else runs on a machine only makes calls longer.
    """
    for name, draws, ask in asked:
        jax.clear_caches()
        first = called(ask)
        yield Timing(name, draws, first.seconds, *min(called(ask) for _ in range(repeats)))
