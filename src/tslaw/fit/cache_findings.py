"""The paper's findings about compressed KV caches as questions to a fit that holds such caches.

Finding 5: does compression advance the frontier? At every memory budget the most accurate measured configuration is
looked up among full caches alone, and with compressed ones allowed too. More to choose from never hurts a known
surface, so the gain is 0 or more in every draw: what is asked is how large it is. Finding 6: at the memory of R kept
tokens, above which effective size does eviction stop beating rounding?

Memory is the paper's formula: thinking tokens, without eviction's buffer and the window that rounding leaves exact. An
evicting policy that has not evicted yet is a full cache measured again and no compression. Random eviction is a control
and no contender. Accuracies are means over the task's own problems: which problems these are is not in the intervals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tslaw.fit.cache_terms import ROUNDING, kinds_of
from tslaw.fit.crossover import last_crossing
from tslaw.fit.intervals import CensoredSummary, summarise_censored
from tslaw.fit.posterior import FamilyArm, Posterior, check_batch
from tslaw.memory import Accounting, kv_bytes_per_token
from tslaw.policy import FULL, KVPolicy

KINDS = ("full", "rounding", "eviction", "both")
N_MEMORIES, N_BUDGETS = 60, 40


def kind_name(policy: KVPolicy) -> str:
    """Which of `KINDS` a policy is."""
    kinds = kinds_of(policy)
    if len(kinds) == 2:
        return "both"
    return "full" if policy == FULL else "rounding" if ROUNDING in kinds else "eviction"


@dataclass(frozen=True)
class CacheFrontier:
    """The best accuracy of every kind of cache at every memory budget.

    `memory` (memory,) bytes a generation, from where full caches first fit; `best` maps kinds to (draw, memory), -1
    where nothing of the kind fits.
    """

    memory: np.ndarray
    best: dict[str, np.ndarray]

    def gain(self, kinds: tuple[str, ...] = KINDS[1:]) -> np.ndarray:
        """Accuracy gained by allowing these kinds beside full caches: (draw, memory), 0 or more."""
        allowed = [self.best[kind] for kind in kinds if kind in self.best]
        full = self.best["full"]
        return np.asarray(np.maximum.reduce([full, *allowed]) - full)

    def p_best(self) -> dict[str, np.ndarray]:
        """P(kind is best | memory), (memory,) each; of equals the first in the order of `KINDS`."""
        names = [kind for kind in KINDS if kind in self.best]
        winner = np.stack([self.best[name] for name in names]).argmax(axis=0)
        return {name: (winner == k).mean(axis=0) for k, name in enumerate(names)}


def cache_frontier(posterior: Posterior, batch: float = 1, accounting: Accounting = "checkpoint") -> CacheFrontier:
    """Finding 5: the best that every kind of cache achieves at every memory budget, one sample.

    Raises
    ------
    TslawError : a batch below 1.
    """
    check_batch(batch)
    arms = posterior.contenders(accounting)
    budgets = _budgets(posterior)
    full = [arm for arm in arms if arm.policy == FULL]
    least, most = (limit(arm.memory(budgets, batch)[end] for arm in full) for limit, end in ((min, 0), (max, -1)))
    memory = np.geomspace(least, most, N_MEMORIES)
    best: dict[str, np.ndarray] = {}
    for arm in arms:
        acting = budgets[arm.acts(budgets)]
        if not len(acting):
            continue
        found = _affordable(posterior.arm_accuracy(arm, acting), arm.memory(acting, batch), memory)
        name = kind_name(arm.policy)
        best[name] = np.maximum(best[name], found) if name in best else found
    return CacheFrontier(memory, best)


@dataclass(frozen=True)
class KindContrast:
    """Eviction minus rounding for one model at one weight precision: `weight` bytes, the effective size; `kept` (kept,)
    tokens whose memory both had; `difference` (draw, kept) of accuracy."""

    model: str
    weight_bits: float
    weight: float
    kept: np.ndarray
    difference: np.ndarray


def evicted_against_rounded(posterior: Posterior, accounting: Accounting = "checkpoint") -> list[KindContrast]:
    """Finding 6: every model and weight precision that was measured with both kinds, by effective size.

    Within one model at one precision the weights cost the same, so memory is that of the cache.
    """
    groups: dict[tuple[str, float], list[FamilyArm]] = {}
    for arm in posterior.contenders(accounting):
        if kind_name(arm.policy) in ("rounding", "eviction"):
            groups.setdefault((arm.model, arm.weight_bits), []).append(arm)
    budgets, found = _budgets(posterior), []
    for (model, bits), arms in groups.items():
        kept = np.array(sorted({arm.policy.retain for arm in arms if arm.policy.retain}), float)
        if len({kind_name(arm.policy) for arm in arms}) < 2:
            continue
        memory = kept * kv_bytes_per_token(posterior.shapes[model])
        best = {kind: np.full((posterior.n_draws, len(kept)), -1.0) for kind in ("rounding", "eviction")}
        for arm in arms:
            accuracy = posterior.arm_accuracy(arm, budgets)
            kind = kind_name(arm.policy)
            best[kind] = np.maximum(best[kind], _affordable(accuracy, arm.cache_bytes(budgets), memory))
        fits = (best["rounding"] >= 0).all(axis=0) & (best["eviction"] >= 0).all(axis=0)
        if fits.any():
            difference = (best["eviction"] - best["rounding"])[:, fits]
            found.append(KindContrast(model, bits, arms[0].weight, kept[fits], difference))
    return sorted(found, key=lambda contrast: contrast.weight)


def eviction_threshold(contrasts: list[KindContrast]) -> CensoredSummary | None:
    """The effective size in bytes above which eviction is no better, by its mean over kept tokens, interpolated in log
    size between those that were measured; None with fewer than two sizes.

    Draws in which it is better at no measured size lie below them all, draws in which it still is at the largest above.
    """
    sizes = np.array([contrast.weight for contrast in contrasts])
    if len(sizes) < 2:
        return None
    ahead = np.stack([contrast.difference.mean(axis=1) for contrast in contrasts], axis=1)
    return summarise_censored(last_crossing(ahead, np.log(sizes)), float(sizes[0]), float(sizes[-1]))


def _budgets(posterior: Posterior) -> np.ndarray:
    """Thinking budgets between the ends of the measured ones, even in logs, and the measured ones."""
    even = np.geomspace(posterior.budgets.min(), posterior.budgets.max(), N_BUDGETS)
    return np.unique(np.concatenate([even, posterior.budgets]))


def _affordable(accuracy: np.ndarray, cost: np.ndarray, memory: np.ndarray) -> np.ndarray:
    """The best of `accuracy` (draw, budget), whose `cost` (budget,) never falls, that `memory` (memory,) affords:
    (draw, memory), -1 where nothing does. Nobody has to think as long as the memory allows."""
    so_far = np.maximum.accumulate(accuracy, axis=1)
    last = np.searchsorted(cost, memory * (1 + 1e-12), side="right") - 1
    return np.where(last >= 0, so_far[:, np.maximum(last, 0)], -1.0)
