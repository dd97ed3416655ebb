"""The paper's findings about full caches as questions to a fit: where memory goes at every memory budget.

For every draw and memory budget the most accurate configuration is looked up among the measured arms, thinking as long
as the rest of the memory allows (never longer than measured) and, for votes, with G samples that share it. Finding 1,
the crossover, is `crossover`; findings 5 and 6, about compressed caches, are `cache_findings`; finding 4 needs
latencies, which the surface does not hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tslaw.fit.intervals import CensoredSummary, summarise_censored
from tslaw.fit.over_draws import each_draw, over_draws
from tslaw.fit.posterior import FamilyArm, Posterior, check_batch, problem_accuracy
from tslaw.fit.vote_model import vote_accuracy, win_table
from tslaw.memory import Accounting

VOTERS = (1, 3, 4, 6, 8, 12, 16)
"""The numbers of samples that the paper's grid votes over."""
N_MEMORIES, N_BUDGETS, VOTE_DRAWS = 60, 30, 4000


@dataclass(frozen=True)
class BestOption:
    """Which of some options the most accurate configuration takes at every memory budget.

    `memory` (memory,) bytes a generation, `options` their values, `best` (draw, memory) the winning option's place,
    -1 where nothing fits; `weight` (draw, memory) is the winner's effective size in bytes.
    """

    options: tuple[float, ...]
    memory: np.ndarray
    best: np.ndarray
    weight: np.ndarray

    def p_best(self) -> np.ndarray:
        """P(option is best | memory): (memory, option)."""
        return np.stack([(self.best == k).mean(axis=0) for k in range(len(self.options))], axis=1)

    def share(self, option: float) -> np.ndarray:
        """The part of the (log) memory range in which the option is best, for every draw: (draw,)."""
        return np.asarray((self.best == self.options.index(option)).mean(axis=1))

    def onset(self, least: float) -> CensoredSummary:
        """The memory from which on every best option is at least `least`; outside the range it is censored."""
        good = self._at_least(least)
        return summarise_censored(self._start(good, self.memory), float(self.memory[0]), float(self.memory[-1]))

    def onset_size(self, least: float) -> CensoredSummary:
        """The effective size of the best configuration at that memory."""
        good = self._at_least(least)
        ends = float(np.nanmin(self.weight)), float(np.nanmax(self.weight))
        return summarise_censored(self._start(good, self.weight), *ends)

    def _at_least(self, least: float) -> np.ndarray:
        """(draw, memory): whether something fits and the best option is at least `least`."""
        return (self.best >= 0) & (np.asarray(self.options)[self.best] >= least)

    @staticmethod
    def _start(good: np.ndarray, value: np.ndarray) -> np.ndarray:
        """Per draw the value at the first memory from which on `good` (draw, memory) always holds."""
        n = good.shape[1]
        last_bad = n - 1 - np.argmax(~good[:, ::-1], axis=1)
        first = np.where(good.all(axis=1), 0, last_bad + 1)
        values = np.broadcast_to(value, good.shape)
        found = values[np.arange(len(good)), np.minimum(first, n - 1)]
        return np.where(first == 0, -np.inf, np.where(first == n, np.inf, found))


def best_weight_bits(posterior: Posterior, batch: float = 1, accounting: Accounting = "checkpoint") -> BestOption:
    """Finding 2: the weight bits of the most accurate configuration at every memory budget, one sample.

    Raises
    ------
    TslawError : a batch below 1.
    """
    check_batch(batch)
    arms = posterior.family_arms(accounting)
    widths = tuple(sorted({arm.weight_bits for arm in arms}))
    memory = memory_grid(posterior, arms, batch, 1)
    contenders = (
        _Contender(_on_memory(posterior, arm, memory, batch), widths.index(arm.weight_bits), arm.weight)
        for arm in sorted(arms, key=lambda arm: arm.weight_bits)
    )
    return _winners(contenders, widths, memory, posterior.n_draws)


def best_voters(
    posterior: Posterior, batch: float = 1, accounting: Accounting = "checkpoint", most_draws: int = VOTE_DRAWS
) -> BestOption:
    """Finding 3: over how many samples the most accurate configuration votes at every memory budget.

    The votes are derived from the surface (`vote_model`), for at most `most_draws` draws.

    Raises
    ------
    TslawError : a batch below 1.
    """
    check_batch(batch)
    arms = posterior.family_arms(accounting)
    memory = memory_grid(posterior, arms, batch, max(VOTERS))
    budgets = np.geomspace(posterior.budgets.min(), posterior.budgets.max(), N_BUDGETS)
    few = posterior.thinned(most_draws)
    voted = [voted_accuracy(few, arm, budgets, VOTERS) for arm in arms]

    def contenders() -> Iterator[_Contender]:
        for k, g in enumerate(VOTERS):
            for arm, accuracy in zip(arms, voted, strict=True):
                tokens = (memory - arm.weight / batch) / (arm.kv_per_token * g)
                yield _Contender(_interpolated(accuracy[k], budgets, tokens), k, arm.weight)

    return _winners(contenders(), tuple(float(g) for g in VOTERS), memory, few.n_draws)


def voted_accuracy(
    posterior: Posterior, arm: FamilyArm, budgets: np.ndarray, voters: tuple[int, ...] = VOTERS
) -> np.ndarray:
    """Accuracy of a measured arm's majority votes, with all that is its own: (voters, draw, budget)."""
    tables = tuple(jnp.asarray(win_table(g, posterior.wrong_spread)) for g in voters)
    x, bits = jnp.asarray(posterior.log_size(arm.model)), jnp.asarray(arm.weight_bits)
    at = jnp.asarray(budgets, float)
    found = over_draws(lambda draws: _voted(draws, x, bits, at, tables), posterior.arm_draws(arm))
    return np.asarray(found).transpose(1, 0, 2)


@jax.jit
def _voted(
    draws: dict[str, jax.Array], x: jax.Array, bits: jax.Array, budgets: jax.Array, tables: tuple[jax.Array, ...]
) -> jax.Array:
    """(draw, voters, budget); compiled once for all arms."""

    def one(draw: dict[str, jax.Array]) -> jax.Array:
        # Without the barrier the chances would be worked out anew for each number of votes.
        p = jax.lax.optimization_barrier(problem_accuracy(draw, x, bits, budgets))
        return jnp.stack([vote_accuracy(p, table).mean(axis=-1) for table in tables])

    return each_draw(one, draws)


def memory_grid(posterior: Posterior, arms: list[FamilyArm], batch: float, samples: int) -> np.ndarray:
    """Memory budgets, even in logs, from the cheapest configuration to the dearest: (memory,) bytes."""
    least = min(a.weight / batch + a.kv_per_token * posterior.budgets.min() for a in arms)
    most = max(a.weight / batch + a.kv_per_token * posterior.budgets.max() * samples for a in arms)
    return np.geomspace(least, most, N_MEMORIES)


def _on_memory(posterior: Posterior, arm: FamilyArm, memory: np.ndarray, batch: float) -> np.ndarray:
    """One sample's accuracy at the best of what the memory affords: (draw, memory), -1 where nothing fits."""
    tokens = (memory - arm.weight / batch) / arm.kv_per_token
    low, high = posterior.budgets.min(), posterior.budgets.max()
    accuracy = posterior.arm_accuracy(arm, np.clip(tokens, low, high))
    # More memory never hurts: nobody has to think longer because of it.
    return np.maximum.accumulate(np.where(tokens >= low, accuracy, -1.0), axis=1)


def _interpolated(accuracy: np.ndarray, budgets: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """(draw, budget) at the best of up to `tokens` (memory,), which rise, linear in log tokens; -1 below the first
    budget, flat beyond the last."""
    position = np.interp(np.log(np.maximum(tokens, 1e-9)), np.log(budgets), np.arange(len(budgets)))
    k = np.minimum(position.astype(int), len(budgets) - 2)
    part = (position - k).astype(accuracy.dtype)
    value = accuracy[:, k] * (1 - part) + accuracy[:, k + 1] * part
    return np.maximum.accumulate(np.where(tokens >= budgets[0], value, -1.0), axis=1)


class _Contender(NamedTuple):
    """One configuration: its accuracy (draw, memory), -1 where it does not fit, the place of its option, and bytes of
    weights."""

    accuracy: np.ndarray
    option: int
    weight: float


def _winners(
    contenders: Iterable[_Contender], options: tuple[float, ...], memory: np.ndarray, n_draws: int
) -> BestOption:
    """The best of all, one after the other, as together they are large; of equals the first."""
    top = np.full((n_draws, len(memory)), -1.0)
    best, weight = np.full(top.shape, -1), np.full(top.shape, np.nan)
    for each in contenders:
        better = each.accuracy > top
        np.copyto(top, each.accuracy, where=better)
        np.copyto(best, each.option, where=better)
        np.copyto(weight, each.weight, where=better)
    return BestOption(options, memory, best, weight)
