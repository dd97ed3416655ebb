"""Votes derived from the chance of one right sample, against every way the votes can fall."""

from __future__ import annotations

import numpy as np
import pytest

from reference import votes_reference as reference
from tslaw import votes
from tslaw.fit.vote_model import MAX_SPREAD, maj_at_g, win_chance, win_table, wrong_spread


@pytest.mark.parametrize(("g", "spread"), [(1, 4), (3, 1), (4, 2), (5, 3), (6, 4)])
def test_the_chance_to_win_counts_every_way_the_others_fall(g: int, spread: int) -> None:
    slow = [float(reference.win_chance(m, g - m, spread)) for m in range(g + 1)]
    assert win_chance(g, spread) == pytest.approx(slow, abs=1e-12)


def test_spreads_in_between_lie_in_between() -> None:
    low, middle, high = win_table(8, np.array([2.0, 2.5, 3.0]))
    assert low == pytest.approx(win_chance(8, 2))
    assert high == pytest.approx(win_chance(8, 3))
    part = (1 / 2 - 1 / 2.5) / (1 / 2 - 1 / 3)
    assert middle == pytest.approx(low + part * (high - low))
    assert win_table(4, np.array([1e9, 0.1])) == pytest.approx(np.stack([win_chance(4, MAX_SPREAD), win_chance(4, 1)]))


def test_one_vote_is_one_sample_and_many_votes_settle_on_the_likelier_answer() -> None:
    p, spread = np.array([0.0, 0.2, 0.6, 1.0]), np.full(4, 3.0)
    assert maj_at_g(p, spread, 1) == pytest.approx(p)
    two = np.array([1.0, 1.0, 1.0, 1.0])  # a single wrong answer: a plain majority
    assert maj_at_g(p, two, 15)[1] < 0.01
    assert maj_at_g(p, two, 15)[2] > 0.75
    assert maj_at_g(p, spread, 16)[2] > maj_at_g(p, spread, 4)[2] > 0.6


def test_votes_of_simulated_answers_are_what_was_derived() -> None:
    """Answers drawn as the model says, voted over by `tslaw.votes`, beside the derived chance."""
    rng = np.random.default_rng(3)
    p, spread = np.array([0.15, 0.3, 0.5, 0.8]), np.array([2, 3, 5, 9])
    n = 4000
    right = rng.random((n, 4, 8)) < p[:, None]
    answer = np.where(right, 0, 1 + rng.integers(0, spread[:, None], size=(n, 4, 8)))
    voted, _ = votes.maj_at_g(answer, right.astype(int), 8)
    assert voted.mean(axis=0) == pytest.approx(maj_at_g(p, spread.astype(float), 8), abs=4 * 0.5 / np.sqrt(n))
    found = wrong_spread(answer.transpose(0, 1, 2)[:, None], right[:, None].astype(int))
    assert found == pytest.approx(spread, rel=0.05)


def test_agreement_is_counted_over_pairs_of_wrong_samples() -> None:
    rng = np.random.default_rng(0)
    answer = rng.integers(-1, 4, size=(2, 3, 5, 6))
    correct = (answer == 2).astype(int)
    correct[0, 0, 0, :2] = answer[0, 0, 0, :2] = -2  # not measured
    counts = np.array(
        [
            np.sum([reference.agreeing_pairs(answer[k][j], correct[k][j]) for k in np.ndindex(2, 3)], axis=0)
            for j in range(5)
        ]
    )
    share = (counts[:, 0].sum() + 0.5) / (counts[:, 1].sum() + 1)
    assert wrong_spread(answer, correct) == pytest.approx((counts[:, 1] + 1) / (counts[:, 0] + share))


def test_problems_without_wrong_samples_get_the_tasks_spread() -> None:
    answer = np.array([[[[0, 0, 0, 0], [1, 2, 1, 2]]]])
    correct = np.array([[[[1, 1, 1, 1], [0, 0, 0, 0]]]])
    share = (2 + 0.5) / (6 + 1)
    assert wrong_spread(answer, correct)[0] == pytest.approx(1 / share)
