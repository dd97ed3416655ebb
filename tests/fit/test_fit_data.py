"""From a measured dataset to distinct rows with counts, and back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from simulated import as_dataset, correct_of, draw_truth, template

from measurements import BUDGETS, PROBLEMS, good_dataset
from tslaw.errors import TslawError
from tslaw.fit.data import distinct_rows, task_data, tasks_data
from tslaw.fit.model import Prior, groups
from tslaw.fit.simulate import simulate_task


def test_rows_say_the_same_as_the_dataset() -> None:
    """The shared small dataset: two arms with a full cache, one without, one trajectory never run."""
    ds = good_dataset()
    data = task_data(ds)
    correct = ds["correct"].transpose("arm", "problem", "sample", "budget").values[:2]
    assert data.left_out == ("ladder-d:w4:rkv:128+quantized:4",)
    assert data.arms == tuple(ds["arm"].values[:2])
    assert (data.budgets.tolist(), data.problems) == (list(BUDGETS), PROBLEMS)
    expected = np.full((2, 4), 4)
    expected[0, 1] = 3
    assert (data.trajectories() == expected).all()
    accuracy, probes = data.accuracy()
    for i in range(2):
        for k in range(len(BUDGETS)):
            seen = correct[i, :, :, k][correct[i, :, :, k] >= 0]
            assert probes[i, k] == len(seen)
            assert accuracy[i, k] == pytest.approx((seen == 1).mean())


def test_what_was_lost_again_or_may_be_guessed_does_not_count_as_solved_or_not() -> None:
    """Four trajectories of one arm on one problem: kept, lost again, never right, never right and half measured."""
    seen = np.array([[0, 1, 1], [0, 1, 0], [0, 0, 0], [0, -2, 0]], np.int8)[None, None]
    patterns, arm, problem, pattern, count = distinct_rows(seen, True)
    data = replace(
        template(1, (16,), (1000, 4000, 16000), ("Qwen3-8B",)),
        patterns=patterns,
        row_arm=arm,
        row_problem=problem,
        row_pattern=pattern,
        row_count=count,
        chance=0.0,
    )
    assert data.solved_counts()[0].tolist() == [[1.0]]
    assert data.never_solved().tolist() == [[2.0]]
    # Unsolved, and by guessing right at none of three or of two budgets: there are as many more.
    assert replace(data, chance=0.1).never_solved() == pytest.approx(0.9**-3 + 0.9**-2)
    assert replace(data, chance=0.9).never_solved().tolist() == [[3.0]]


def test_a_pair_that_may_be_solved_always_is_not_taken_to_be_bounded() -> None:
    empty = template(2, (16,), (1000, 4000), ("Qwen3-8B",))
    lost = np.array([[0, 1]] * 14 + [[1, 0]] * 6, np.int8)  # right in seven of ten cases at last, and once in all
    missed = np.array([[0, 1]] * 14 + [[0, 0]] * 6, np.int8)
    patterns, arm, problem, pattern, count = distinct_rows(np.stack([lost, missed])[None], True)
    data = replace(
        empty, patterns=patterns, row_arm=arm, row_problem=problem, row_pattern=pattern, row_count=count, chance=0.0
    )
    centred = groups(data, Prior())[0].effect[0]
    assert centred[0] == 0.0
    assert centred[1] > 0.05


def test_a_simulated_task_survives_the_trip_through_a_dataset() -> None:
    empty = template(6, (16, 4), (1000, 4000, 16000), ("Qwen3-1.7B", "Qwen3-8B"))
    data = simulate_task(empty, draw_truth(0, empty), 5, 0)
    back = task_data(as_dataset(data))
    assert back.models == data.models
    assert back.shapes == data.shapes
    assert back.log_size == pytest.approx(data.log_size)
    for name in ("weight_bits", "budgets", "patterns", "row_arm", "row_problem", "row_pattern", "row_count"):
        assert np.array_equal(getattr(back, name), getattr(data, name)), name
    assert (np.sort(correct_of(back), axis=2) == np.sort(correct_of(data), axis=2)).all()


def test_distinct_rows_count_equal_patterns_of_one_arm_and_problem() -> None:
    correct = np.array([[[[0, 1], [0, 1], [1, 1], [-2, -2], [0, -2]]], [[[0, 1], [1, 1], [1, 1], [1, 1], [-2, 1]]]])
    patterns, arm, problem, pattern, count = distinct_rows(correct, shared=True)
    found = {(a, *patterns[p].tolist()): n for a, p, n in zip(arm, pattern, count, strict=True)}
    assert found == {(0, 0, 1): 2, (0, 1, 1): 1, (0, 0, -2): 1, (1, 0, 1): 1, (1, 1, 1): 3, (1, -2, 1): 1}
    assert (problem == 0).all()


def test_independent_budgets_become_rows_with_one_probe_each() -> None:
    correct = np.array([[[[0, 1], [0, 1], [1, -2]]]])
    patterns, _, _, pattern, count = distinct_rows(correct, shared=False)
    found = {tuple(patterns[p].tolist()): n for p, n in zip(pattern, count, strict=True)}
    assert found == {(0, -2): 2, (1, -2): 1, (-2, 1): 2}


def test_a_dataset_of_independent_budgets_is_read_as_such() -> None:
    data = task_data(good_dataset(shared_trajectories=False))
    assert ((data.patterns >= 0).sum(axis=1) == 1).all()
    shared = task_data(good_dataset())
    for found, expected in zip(data.accuracy(), shared.accuracy(), strict=True):
        assert found == pytest.approx(expected)


def test_tasks_share_one_reference_size() -> None:
    first = template(4, models=("Qwen3-0.6B", "Qwen3-1.7B"))
    second = template(4, models=("Qwen3-8B", "Qwen3-32B"), task="other")
    sets = [as_dataset(simulate_task(t, draw_truth(0, t), 2, 0)) for t in (first, second)]
    found = tasks_data(sets)
    assert found[0].reference_size == found[1].reference_size
    for data, ds in zip(found, sets, strict=True):
        assert data.reference_size * np.exp(data.log_size) == pytest.approx(ds["n_params"].values)


def _message(*datasets: object) -> str:
    with pytest.raises(TslawError) as raised:
        tasks_data(datasets)
    return str(raised.value)


def test_what_cannot_be_fitted_is_said() -> None:
    assert "More than one file holds the task ladder-math" in _message(good_dataset(), good_dataset())
    assert "different families: ladder, qwen3" in _message(good_dataset(), good_dataset(family="qwen3", task="x"))
    assert "uncompressed KV cache" in _message(good_dataset().isel(arm=[2]))
    nothing = good_dataset()
    nothing["correct"][:] = -2
    assert "Nothing has been measured" in _message(nothing)
