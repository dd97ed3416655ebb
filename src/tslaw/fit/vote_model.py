"""Majority votes that were never fitted: maj@G from the chance p of one right sample and how wrong samples agree.

A problem's wrong answers are taken to be `spread` equally likely ones, where 1 / spread is the chance that two wrong
samples agree. The winner is the answer with most votes, ties broken by lot, as in `tslaw.votes`. Given m right votes of
G, the chance that they win does not depend on p, so that

    maj@G(p) = sum_m Binomial(m; G, p) win(m; G, spread)
"""

from __future__ import annotations

from functools import lru_cache
from math import comb, factorial
from typing import Any

import numpy as np

MAX_SPREAD = 256


@lru_cache(maxsize=4096)
def win_chance(g: int, spread: int) -> np.ndarray:
    """The chance that m right votes of `g` win when the others fall evenly on `spread` answers: (g + 1,) over m."""
    return np.array([_wins(m, g - m, spread) for m in range(g + 1)])


def _wins(m: int, others: int, spread: int) -> float:
    """E[1 / (1 + ties)] where no answer of the others has more than m votes, by exponential generating functions."""
    if m == 0:
        return 0.0
    fewer = np.zeros(others + 1)  # one answer with fewer than m votes
    fewer[: min(m, others + 1)] = [1 / factorial(i) for i in range(min(m, others + 1))]
    chance = 0.0
    for ties in range(min(spread, others // m) + 1):
        rest = _power(fewer, spread - ties)[others - ties * m]
        chance += comb(spread, ties) * rest / factorial(m) ** ties / (1 + ties)
    return chance * factorial(others) / float(spread) ** others


def _power(series: np.ndarray, exponent: int) -> np.ndarray:
    """A power series to a whole power, cut at its own length."""
    result = np.zeros_like(series)
    result[0] = 1.0
    while exponent:
        if exponent & 1:
            result = np.convolve(result, series)[: len(series)]
        series, exponent = np.convolve(series, series)[: len(series)], exponent >> 1
    return result


def win_table(g: int, spread: np.ndarray) -> np.ndarray:
    """`win_chance` for spreads (problem,) that need not be whole, linear in the chance to agree: (problem, g + 1)."""
    spread = np.clip(np.asarray(spread, float), 1.0, MAX_SPREAD)
    below = np.floor(spread).astype(int)
    above = np.minimum(below + 1, MAX_SPREAD)
    gap = 1 / below - 1 / above
    part = np.where(gap > 0, (1 / below - 1 / spread) / np.where(gap > 0, gap, 1.0), 0.0)
    low, high = (np.stack([win_chance(g, int(k)) for k in ks]) for ks in (below, above))
    return low + part[:, None] * (high - low)


def maj_at_g(p: np.ndarray, spread: np.ndarray, g: int) -> np.ndarray:
    """The chance that the majority of `g` samples is right.

    Parameters
    ----------
    p : (..., problem) chances of one right sample. spread : (problem,) equally likely wrong answers, 1 or more.

    Returns
    -------
    (..., problem)
    """
    return vote_accuracy(np.asarray(p, float), win_table(g, spread))


def vote_accuracy(p: Any, table: Any) -> Any:
    """The same from a `win_table` (problem, g + 1); NumPy and JAX arrays alike.

    By Horner's rule in the odds of the rarer of right and wrong: all terms are positive and no power underflows.
    """
    g = table.shape[-1] - 1
    mostly_right = p > 0.5
    rarer = p + mostly_right * (1 - 2 * p)
    odds, total = rarer / (1 - rarer), 0.0
    for k in range(g, -1, -1):
        if_wrong, if_right = comb(g, k) * table[:, k], comb(g, k) * table[:, g - k]
        total = total * odds + (if_wrong + mostly_right * (if_right - if_wrong))
    return total * (1 - rarer) ** g


def wrong_spread(answer: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """How many equally likely wrong answers would agree as often as the wrong samples do: (problem,), 1 or more.

    Parameters
    ----------
    answer, correct : (arm, budget, problem, sample) as in a dataset: codes of answers (-1 none, -2 not measured), and
        1 right or 0 wrong.

    Pairs of wrong samples of the same arm and budget are counted over all arms and budgets; the task's own share of
    agreeing pairs counts as one pair more, so that problems without wrong samples get the task's spread. A sample
    without an answer agrees with nobody.
    """
    wrong = (np.asarray(correct) == 0) & (np.asarray(answer) >= -1)
    n_wrong = wrong.sum(axis=-1)
    pairs = (n_wrong * (n_wrong - 1) / 2).sum(axis=(0, 1))
    agreeing = _agreeing_pairs(np.where(wrong & (answer >= 0), answer, -1)).sum(axis=(0, 1))
    share = (agreeing.sum() + 0.5) / (pairs.sum() + 1.0)
    return np.clip((pairs + 1.0) / (agreeing + share), 1.0, MAX_SPREAD)


def _agreeing_pairs(answer: np.ndarray) -> np.ndarray:
    """Pairs of equal codes in every row (..., sample) -> (...), -1 agreeing with nothing."""
    ordered = np.sort(answer, axis=-1)
    pairs = np.zeros(answer.shape[:-1])
    run = np.zeros(answer.shape[:-1])
    for k in range(1, answer.shape[-1]):
        same = (ordered[..., k] == ordered[..., k - 1]) & (ordered[..., k] >= 0)
        run = np.where(same, run + 1, 0)
        pairs += run
    return pairs
