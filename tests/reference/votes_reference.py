"""Slow, obvious votes: write out every subset of the samples and count."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, product


def pass_at_k(correct: list[int], k: int) -> Fraction:
    """Share of the subsets of size k with at least one right sample."""
    subsets = list(combinations(correct, k))
    return Fraction(sum(any(c == 1 for c in subset) for subset in subsets), len(subsets))


def maj_at_g(answer: list[int], correct: list[int], g: int) -> Fraction:
    """Mean over the subsets of size g of the right answers' share among the answers with the most votes."""
    subsets = list(combinations(range(len(answer)), g))
    total = Fraction(0)
    for subset in subsets:
        given = [answer[i] for i in subset if answer[i] >= 0]
        if not given:
            continue
        most = max(given.count(a) for a in given)
        winners = {a for a in given if given.count(a) == most}
        right = {answer[i] for i in subset if correct[i] == 1}
        total += Fraction(len(winners & right), len(winners))
    return total / len(subsets)


def win_chance(m: int, others: int, spread: int) -> Fraction:
    """Chance that m right votes win against `others` that fall evenly on `spread` answers: every way they fall."""
    total = Fraction(0)
    for fall in product(range(spread), repeat=others):
        most = max((fall.count(a) for a in set(fall)), default=0)
        ties = sum(fall.count(a) == m for a in set(fall))
        total += Fraction(1, 1 + ties) if m > 0 and most <= m else 0
    return total / spread**others


def agreeing_pairs(answer: list[int], correct: list[int]) -> tuple[int, int]:
    """(pairs of wrong samples with the same answer, pairs of wrong samples) of one cell."""
    wrong = [a for a, c in zip(answer, correct, strict=True) if c == 0]
    pairs = list(combinations(wrong, 2))
    return sum(a == b and a >= 0 for a, b in pairs), len(pairs)
