"""Slow, obvious votes: write out every subset of the samples and count."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations


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
