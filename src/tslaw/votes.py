"""Scores of repeated samples: pass@1, pass@k and majority votes, averaged over *all* subsets of the samples.

Samples run along the last axis; every other axis is kept, so a dataset's (arm, budget, problem, sample) arrays can be
given as they are. A sample with code -2 was not measured and is left out of its row; -1 is no answer, which is wrong
and never wins a vote.
"""

from __future__ import annotations

from functools import lru_cache
from math import comb

import numpy as np

from tslaw.errors import TslawError

NOT_MEASURED = -2
EXACT_LIMIT = 2_000_000
"""Multiplications that a row's exact majority vote may cost; above it, Monte Carlo."""
MONTE_CARLO_DRAWS = 4000


def pass_at_1(correct: np.ndarray) -> np.ndarray:
    """Share of right samples in each row (..., sample) -> (...); NaN where nothing was measured."""
    return pass_at_k(correct, 1)


def pass_at_k(correct: np.ndarray, k: int) -> np.ndarray:
    """Chance that at least one of k samples is right, averaged over all subsets of size k (Chen et al. 2021).

    (..., sample) -> (...); NaN where fewer than k samples were measured. Raises TslawError when k is not between 1
    and the number of samples.
    """
    correct = np.asarray(correct)
    _check_size(k, correct.shape[-1], "k")
    measured = (correct != NOT_MEASURED).sum(axis=-1)
    wrong = measured - (correct == 1).sum(axis=-1)
    size = correct.shape[-1]
    all_wrong = np.full((size + 1, size + 1), np.nan)
    for n in range(k, size + 1):
        all_wrong[n, : n + 1] = [comb(w, k) / comb(n, k) for w in range(n + 1)]
    return 1 - all_wrong[measured, wrong]


def maj_at_g(
    answer: np.ndarray,
    correct: np.ndarray,
    g: int,
    *,
    exact_limit: int = EXACT_LIMIT,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy of the majority vote of g samples, averaged over all subsets of size g, ties split evenly.

    Parameters
    ----------
    answer, correct : (..., sample) codes of the answers, and whether each is right.
    g : number of voters.
    exact_limit : multiplications a row may cost; a dearer row is estimated from `MONTE_CARLO_DRAWS` random subsets.
    rng : for those subsets; a generator seeded with 0 when not given.

    Returns
    -------
    value, monte_carlo_se : (...) each; the standard error is 0 where the value is exact. Both are NaN where fewer
    than g samples were measured.

    Raises TslawError when g is not between 1 and the number of samples, or one row calls one answer right and wrong.
    """
    answer, correct = np.asarray(answer), np.asarray(correct)
    if answer.shape != correct.shape:
        raise TslawError(f"answer has the shape {answer.shape}, correct {correct.shape}.", expected="equal shapes")
    _check_size(g, answer.shape[-1], "g")
    rng = np.random.default_rng(0) if rng is None else rng
    rows = zip(answer.reshape(-1, answer.shape[-1]), correct.reshape(-1, answer.shape[-1]), strict=True)
    results = [_row(a, c, g, exact_limit, rng) for a, c in rows]
    value, error = np.array(results, dtype=float).reshape(-1, 2).T
    return value.reshape(answer.shape[:-1]), error.reshape(answer.shape[:-1])


def _row(
    answer: np.ndarray, correct: np.ndarray, g: int, exact_limit: int, rng: np.random.Generator
) -> tuple[float, float]:
    measured = answer != NOT_MEASURED
    answer, correct = answer[measured], correct[measured]
    if len(answer) < g:
        return np.nan, np.nan
    given = answer >= 0
    labels, voter, votes = np.unique(answer[given], return_inverse=True, return_counts=True)
    right = np.zeros(len(labels), dtype=bool)
    right[voter[correct[given] == 1]] = True
    if np.any(right[voter] != (correct[given] == 1)):
        raise TslawError("One problem's answer is called right in one sample and wrong in another.")
    silent = int((~given).sum())
    if _cost(votes, right, g) <= exact_limit and len(answer) <= 1000:
        return _exact(tuple(sorted(votes[right].tolist())), tuple(sorted(votes[~right].tolist())), silent, g), 0.0
    return _monte_carlo(votes, right, silent, g, rng)


def _cost(votes: np.ndarray, right: np.ndarray, g: int) -> int:
    """About how many multiplications `_exact` makes."""
    levels = int(np.minimum(votes[right], g).sum())
    return levels * len(votes) * (g + 1) * int(np.minimum(votes, g).max(initial=1))


@lru_cache(maxsize=4096)
def _exact(right: tuple[int, ...], wrong: tuple[int, ...], silent: int, g: int) -> float:
    """Sum over the right answers, and over their number of votes m, of the subsets in which they win, divided by the
    number of answers that they tie with, over the number of all subsets (a multivariate hypergeometric expectation).
    """
    won = 0.0
    for i, mine in enumerate(right):
        others = right[:i] + right[i + 1 :] + wrong
        for m in range(1, min(mine, g) + 1):
            ties = _subsets_by_ties(others, silent, m, g - m)
            won += float(comb(mine, m)) * float(np.sum(ties / np.arange(1, len(ties) + 1)))
    return won / comb(sum(right) + sum(wrong) + silent, g)


def _subsets_by_ties(others: tuple[int, ...], silent: int, m: int, size: int) -> np.ndarray:
    """Number of subsets of `size` of the other voters in which no answer has more than m votes, by how many have m."""
    most_ties = min(size // m, len(others))
    ways = np.zeros((most_ties + 1, size + 1))
    ways[0, : silent + 1] = [float(comb(silent, s)) for s in range(min(silent, size) + 1)]
    for votes in others:
        fewer = np.zeros_like(ways)
        for taken in range(min(votes, m - 1, size) + 1):
            fewer[:, taken:] += float(comb(votes, taken)) * ways[:, : size + 1 - taken]
        if votes >= m and m <= size:
            fewer[1:, m:] += float(comb(votes, m)) * ways[:-1, : size + 1 - m]
        ways = fewer
    return ways[:, size]


def _monte_carlo(
    votes: np.ndarray, right: np.ndarray, silent: int, g: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Mean of the vote over random subsets and its standard error, which is never given as less than one draw's worth:
    that no draw won does not show that none can."""
    counts = rng.multivariate_hypergeometric(np.append(votes, silent), g, size=MONTE_CARLO_DRAWS)[:, :-1]
    most = counts.max(axis=1, initial=0)
    winners = (counts == most[:, None]) & (most[:, None] > 0)
    share = (winners & right).sum(axis=1) / np.maximum(winners.sum(axis=1), 1)
    return float(share.mean()), max(float(share.std(ddof=1)) / np.sqrt(len(share)), 1 / len(share))


def _check_size(size: int, available: int, name: str) -> None:
    if not 1 <= size <= available:
        raise TslawError(f"{name} = {size} samples cannot be drawn from {available}.", expected=f"1 to {available}")
