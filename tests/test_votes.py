"""Votes against brute-force enumeration of every subset, and Monte Carlo against its own stated error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import votes_reference as reference
from tslaw.errors import TslawError
from tslaw.votes import maj_at_g, pass_at_1, pass_at_k


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Answers of one problem (-1 = none) and verdicts that depend on the answer alone."""
    answer = draw(st.lists(st.integers(-1, 4), min_size=1, max_size=8))
    right = draw(st.sets(st.integers(0, 4), max_size=2))
    return answer, [int(a in right) for a in answer]


@given(rows())
@settings(deadline=None, max_examples=150)
def test_every_subset_size_agrees_with_enumeration(row: tuple[list[int], list[int]]) -> None:
    answer, correct = row
    for g in range(1, len(answer) + 1):
        value, error = maj_at_g(np.array(answer), np.array(correct), g)
        assert value == pytest.approx(float(reference.maj_at_g(answer, correct, g)), abs=1e-12)
        assert error == 0
        expected = float(reference.pass_at_k(correct, g))
        assert pass_at_k(np.array(correct), g) == pytest.approx(expected, abs=1e-12)


@given(rows())
@settings(deadline=None, max_examples=50)
def test_one_vote_is_pass_at_1(row: tuple[list[int], list[int]]) -> None:
    answer, correct = np.array(row[0]), np.array(row[1])
    assert maj_at_g(answer, correct, 1)[0] == pytest.approx(float(pass_at_1(correct)))
    assert pass_at_1(correct) == pytest.approx(correct.mean())


@given(rows(), st.permutations(range(8)))
@settings(deadline=None, max_examples=50)
def test_order_of_samples_does_not_matter(row: tuple[list[int], list[int]], order: list[int]) -> None:
    answer, correct = np.array(row[0]), np.array(row[1])
    shuffled = [i for i in order if i < len(answer)]
    for g in (1, len(answer)):
        first = maj_at_g(answer, correct, g)[0]
        assert maj_at_g(answer[shuffled], correct[shuffled], g)[0] == pytest.approx(float(first), abs=1e-12)


@pytest.mark.parametrize(
    ("answer", "correct", "g", "expected"),
    [
        ([0, 1], [1, 0], 2, 1 / 2),
        ([0, 1, 2], [1, 0, 0], 3, 1 / 3),
        ([0, 0, 1, 1, 2, 2], [1, 1, 0, 0, 0, 0], 6, 1 / 3),
        ([0, 1, 2], [1, 1, 0], 3, 2 / 3),
        ([0, -1, -1, -1], [1, 0, 0, 0], 4, 1.0),
        ([-1, -1, -1], [0, 0, 0], 3, 0.0),
        ([0, -1], [1, 0], 1, 1 / 2),
        ([0, 0, 1], [1, 1, 0], 2, 2 / 3),
    ],
    ids=["two-way", "three-way", "three-way-of-two", "two-right", "lone-voice", "nobody", "half-silent", "subsets"],
)
def test_ties_and_silence(answer: list[int], correct: list[int], g: int, expected: float) -> None:
    assert maj_at_g(np.array(answer), np.array(correct), g)[0] == pytest.approx(expected, abs=1e-15)


def test_leading_axes_are_kept_and_unmeasured_samples_left_out() -> None:
    answer = np.array([[[0, 1, 0, -2], [2, 2, 1, 0]], [[-2, -2, -2, -2], [0, -2, -2, 1]]])
    correct = np.where(answer == 0, 1, 0)
    correct[answer == -2] = -2
    value, error = maj_at_g(answer, correct, 3)
    expected = float(reference.maj_at_g([2, 2, 1, 0], [0, 0, 0, 1], 3))
    np.testing.assert_allclose(value, [[1.0, expected], [np.nan, np.nan]])
    np.testing.assert_allclose(error, [[0, 0], [np.nan, np.nan]])
    np.testing.assert_allclose(pass_at_1(correct), [[2 / 3, 1 / 4], [np.nan, 1 / 2]])
    np.testing.assert_allclose(pass_at_k(correct, 3), [[1, 3 / 4], [np.nan, np.nan]])


def test_monte_carlo_stays_within_its_stated_error() -> None:
    """z scores of 200 rows: about standard normal where the vote is uncertain, and never wild."""
    rng = np.random.default_rng(5)
    answer = rng.integers(-1, 4, (200, 24))
    correct = (answer == 1).astype(int)
    exact, none = maj_at_g(answer, correct, 9)
    estimate, error = maj_at_g(answer, correct, 9, exact_limit=0, rng=np.random.default_rng(6))
    assert np.all(none == 0)
    assert np.all((error > 0) & (error < 0.02))
    z = (estimate - exact) / error
    assert np.abs(z).max() < 4.5
    assert 0.8 < np.sqrt(np.mean(z**2)) < 1.2


def test_monte_carlo_is_reproducible_and_never_certain() -> None:
    answer, correct = np.array([[0, 0, 0, 0, 1]]), np.array([[1, 1, 1, 1, 0]])
    first = maj_at_g(answer, correct, 3, exact_limit=0)
    assert first == maj_at_g(answer, correct, 3, exact_limit=0)
    assert first[0] == 1
    assert first[1] > 0


def test_many_samples_are_exact_and_as_expected() -> None:
    """1,000 samples, half of them right and the rest scattered: a vote of 200 is all but certain."""
    answer = np.concatenate([np.zeros(500, int), np.arange(1, 501)])
    value, error = maj_at_g(answer, (answer == 0).astype(int), 200, exact_limit=10**12)
    assert value == pytest.approx(1)
    assert error == 0


@pytest.mark.parametrize("g", [0, -1, 5])
def test_impossible_sizes_are_refused(g: int) -> None:
    with pytest.raises(TslawError, match="1 to 4"):
        maj_at_g(np.zeros(4, int), np.ones(4, int), g)
    with pytest.raises(TslawError, match="1 to 4"):
        pass_at_k(np.ones(4, int), g)


def test_an_answer_cannot_be_both_right_and_wrong() -> None:
    with pytest.raises(TslawError, match="right in one sample and wrong"):
        maj_at_g(np.array([0, 0, 1]), np.array([1, 0, 0]), 2)
