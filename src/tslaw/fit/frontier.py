"""Which configurations are worth their memory: the Pareto frontier with probabilities, and the best one at a memory
budget.

A configuration is a measured (model, weight bits, KV policy) at a token budget, one sample. Its memory is that of one
generation, weights shared by `batch` of them. An evicting policy counts from where it evicts, random eviction is a
control and does not count. Majority votes are not on this frontier. What compressed caches add to it says
`cache_findings`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tslaw.errors import TslawError
from tslaw.fit.posterior import FamilyArm, Posterior, check_batch
from tslaw.memory import Accounting
from tslaw.policy import FULL, KVPolicy

BUDGET_POINTS = 25


class Configuration(NamedTuple):
    """One way to spend memory (bytes a generation)."""

    model: str
    weight_bits: float
    token_budget: int
    memory: float
    kv_policy: KVPolicy = FULL


def configuration(arm: FamilyArm, token_budget: float, memory: float) -> Configuration:
    """A measured arm at a budget."""
    return Configuration(arm.model, arm.weight_bits, int(token_budget), float(memory), arm.policy)


@dataclass(frozen=True)
class Frontier:
    """Configurations by rising memory, their accuracy (draw, configuration), and P(on the Pareto frontier)
    (configuration,)."""

    task: str
    configurations: tuple[Configuration, ...]
    accuracy: np.ndarray
    membership: np.ndarray


def on_frontier(memory: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Which configurations no cheaper (or equally cheap) one matches or beats, for every draw.

    Parameters
    ----------
    memory : (configuration,) rising. accuracy : (draw, configuration).

    Returns
    -------
    (draw, configuration) booleans.
    """
    cheaper_best = np.maximum.accumulate(accuracy, axis=1)
    before = np.concatenate([np.full((len(accuracy), 1), -np.inf), cheaper_best[:, :-1]], axis=1)
    member = accuracy > before
    # Of configurations that cost the same only the most accurate is on the frontier.
    for tied in _ties(memory):
        best = accuracy[:, tied].max(axis=1, keepdims=True)
        member[:, tied] &= accuracy[:, tied] == best
    return member


def _ties(memory: np.ndarray) -> list[np.ndarray]:
    groups = np.split(np.arange(len(memory)), np.flatnonzero(np.diff(memory) > 0) + 1)
    return [g for g in groups if len(g) > 1]


def budget_grid(posterior: Posterior, points: int = BUDGET_POINTS) -> np.ndarray:
    """Token budgets between the smallest and the largest measured one, even in logs, the measured ones included."""
    even = np.geomspace(posterior.budgets.min(), posterior.budgets.max(), points)
    return np.unique(np.concatenate([np.round(even), posterior.budgets])).astype(int)


def frontier(
    posterior: Posterior,
    batch: float = 1,
    accounting: Accounting = "checkpoint",
    budgets: np.ndarray | None = None,
    compressed: bool = True,
) -> Frontier:
    """Accuracy and frontier membership of every measured arm at `budgets` (budget,), by default a fine grid of them;
    without `compressed` of those with a full KV cache only.

    Raises
    ------
    TslawError : a batch below 1.
    """
    check_batch(batch)
    budgets = budget_grid(posterior) if budgets is None else np.asarray(budgets)
    found, columns = [], []
    for arm in posterior.contenders(accounting) if compressed else posterior.family_arms(accounting):
        acts, memory = arm.acts(budgets), arm.memory(budgets, batch)
        if acts.any():
            found += [configuration(arm, budgets[k], memory[k]) for k in np.flatnonzero(acts)]
            columns.append(posterior.arm_accuracy(arm, budgets)[:, acts])
    accuracy = np.concatenate(columns, axis=1)
    order = np.argsort([c.memory for c in found], kind="stable")
    configurations, accuracy = tuple(found[i] for i in order), accuracy[:, order]
    member = on_frontier(np.array([c.memory for c in configurations]), accuracy)
    return Frontier(posterior.task, configurations, accuracy, member.mean(axis=0))


@dataclass(frozen=True)
class Recommendation:
    """The options at one memory budget, best expected accuracy first; arrays are (option,), `accuracy` (draw,
    option)."""

    memory_budget: float
    options: tuple[Configuration, ...]
    accuracy: np.ndarray
    p_best: np.ndarray
    expected_regret: np.ndarray


def recommend(
    posterior: Posterior, memory_budget: float, batch: float = 1, accounting: Accounting = "checkpoint"
) -> Recommendation:
    """Every arm that fits into `memory_budget` bytes a generation, at the token budget that is expected to be best.

    That need not be the longest that the memory allows: some models lose accuracy again when they think on. Thinking
    longer than the largest measured budget is never recommended. `p_best` is the posterior probability of being the
    most accurate option, `expected_regret` the accuracy expected to be lost by choosing it over the best one.

    Raises
    ------
    TslawError : nothing fits at the smallest measured token budget.
    """
    check_batch(batch)
    options, columns, grid = [], [], budget_grid(posterior)
    arms, shortest = posterior.contenders(accounting), float(posterior.budgets.min())
    for arm in arms:
        tokens = _affordable_tokens(arm, memory_budget, batch)
        longest = int(min(tokens, posterior.budgets.max()))
        choices = np.minimum(grid, longest)  # as many for every arm: what evaluates them is compiled once
        if tokens >= shortest and arm.acts(choices).any():
            accuracy = posterior.arm_accuracy(arm, choices)
            k = int(np.where(arm.acts(choices), accuracy.mean(axis=0), -1).argmax())
            options.append(configuration(arm, choices[k], arm.memory(choices, batch)[k]))
            columns.append(accuracy[:, [k]])
    if not options:
        need = min(float(arm.memory(np.array([shortest]), batch)[0]) for arm in arms)
        raise TslawError(
            f"Nothing of this family fits into {memory_budget:.4g} bytes.",
            where="--memory",
            expected=f"at least {need:.4g} bytes (smallest model at the smallest measured budget)",
        )
    accuracy = np.concatenate(columns, axis=1)
    best = accuracy.argmax(axis=1)
    order = np.argsort(-accuracy.mean(axis=0), kind="stable")
    regret = (accuracy.max(axis=1, keepdims=True) - accuracy).mean(axis=0)
    p_best = np.bincount(best, minlength=len(options)) / len(best)
    return Recommendation(
        memory_budget, tuple(options[i] for i in order), accuracy[:, order], p_best[order], regret[order]
    )


def _affordable_tokens(arm: FamilyArm, memory_budget: float, batch: float) -> float:
    """As many as one likes where the memory holds all that an evicting cache keeps."""
    left, kept = memory_budget - arm.weight / batch, arm.policy.retain
    if kept is not None and left >= kept * arm.kv_per_token:
        return np.inf
    return left / arm.kv_per_token
