"""Several runs of one task as one, and parts of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cache_truths import MODELS, cache_template, cache_truth
from simulated import as_dataset, draw_truth, template

from measurements import good_dataset
from tslaw.cli.fit_command import reader
from tslaw.errors import TslawError
from tslaw.fit.data import TaskData, tasks_data
from tslaw.fit.join import joined
from tslaw.fit.simulate import simulate_task
from tslaw.fit.subset import some_arms, some_problems


def counts(data: TaskData) -> dict[tuple, int]:
    """How often every arm showed which outcomes at which budgets on every problem."""
    found: dict[tuple, int] = {}
    rows = zip(data.row_arm, data.row_problem, data.row_pattern, data.row_count, strict=True)
    for arm, problem, pattern, count in rows:
        seen = tuple((int(b), int(y)) for b, y in zip(data.budgets, data.patterns[pattern], strict=True) if y >= 0)
        key = (data.arms[arm], data.problems[problem], seen)
        found[key] = found.get(key, 0) + int(count)
    return found


@pytest.fixture(scope="module")
def runs() -> tuple[TaskData, TaskData]:
    """Full caches on five problems, compressed ones on two of these, at fewer and at other budgets."""
    full = template(5, (16,), (1000, 4000, 16000), MODELS)
    compressed = cache_template(2, ("quantized:4", "rkv:2048"), budgets=(2000, 4000))
    compressed = replace(compressed, problems=(full.problems[3], full.problems[1]), wrong_spread=np.ones(2))
    full = simulate_task(full, draw_truth(0, full), 6, 0)
    return full, simulate_task(compressed, cache_truth(0, compressed), 4, 1)


def test_joined_runs_hold_every_trajectory_of_both(runs) -> None:
    data = joined(runs)
    assert counts(data) == counts(runs[0]) | counts(runs[1])
    assert data.budgets.tolist() == [1000, 2000, 4000, 16000]
    assert data.problems == runs[0].problems
    assert data.wrong_spread.tolist() == [3.0] * 5  # as the run says that comes first
    assert [str(p) for p in data.kv_policies] == ["full"] * 2 + ["quantized:4"] * 2 + ["rkv:2048"] * 2
    assert data.full_cache().tolist() == [True] * 2 + [False] * 4
    assert data.cache_kinds == ("quantized", "rkv")
    assert joined(runs[:1]) is runs[0]


def test_runs_that_hold_the_same_arm_or_disagree_are_refused(runs) -> None:
    with pytest.raises(TslawError, match="More than one file holds the arm Qwen3-1"):
        joined((runs[0], runs[0]))
    shapes = {name: replace(shape, n_layers=shape.n_layers + 1) for name, shape in runs[1].shapes.items()}
    with pytest.raises(TslawError, match="disagree about the shape of Qwen3-1"):
        joined((runs[0], replace(runs[1], shapes=shapes)))


def test_compressed_arms_are_kept_when_asked_for() -> None:
    ds = good_dataset()
    (without,), (data,) = tasks_data([ds]), tasks_data([ds], compressed=True)
    assert without.policies == ()
    assert without.left_out == ("ladder-d:w4:rkv:128+quantized:4",)
    assert data.left_out == ()
    assert data.arms == tuple(ds["arm"].values)
    assert data.cache_kinds == ("quantized", "rkv")
    full = {key: n for key, n in counts(data).items() if key[0] in without.arms}
    assert full == counts(without)


def test_files_of_one_task_are_joined_only_with_compressed_caches(runs) -> None:
    full = as_dataset(runs[0])
    other = template(5, (4,), (1000, 4000, 16000), MODELS)
    other = as_dataset(simulate_task(other, draw_truth(1, other), 2, 1))
    with pytest.raises(TslawError, match="More than one file"):
        tasks_data([full, other])
    (data,) = tasks_data([full, other], compressed=True)
    assert len(data.arms) == 4
    other.attrs["temperature"] = 0.9
    with pytest.raises(TslawError, match="different temperature"):
        tasks_data([full, other], compressed=True)


def test_compressed_caches_alone_are_refused() -> None:
    ds = good_dataset()
    alone = ds.isel(arm=[i for i, kind in enumerate(ds["kv_kind"].values) if kind != "full"])
    with pytest.raises(TslawError, match="No arm with an uncompressed KV cache"):
        tasks_data([alone], compressed=True)


def test_some_problems_are_those_with_compressed_caches(runs) -> None:
    data = joined(runs)
    for seed in range(3):
        some = some_problems(data, 2, seed)
        assert set(some.problems) == set(runs[1].problems)
        assert counts(some) == {key: n for key, n in counts(data).items() if key[1] in some.problems}


def test_some_arms_are_those_asked_for(runs) -> None:
    data = joined(runs)
    some = some_arms(data, [16.0], ["Qwen3-8B"])
    assert set(some.models) == set(some.shapes) == {"Qwen3-8B"}
    assert counts(some) == {key: n for key, n in counts(data).items() if key[0].startswith("Qwen3-8B")}
    assert [str(p) for p in some.kv_policies] == ["full", "quantized:4", "rkv:2048"]
    assert some.log_size == pytest.approx(data.log_size[[1, 3, 5]])
    assert some_arms(data, None, None) is data
    for bits, models in (([4.0], None), (None, ["Qwen3-0.6B"])):
        with pytest.raises(TslawError, match="No arm of the task simulated has"):
            some_arms(data, bits, models)


def test_tables_of_means_have_no_compressed_caches() -> None:
    table = Path(__file__).parents[2] / "measurements" / "published" / "qwen3.csv"
    assert reader([table])
    with pytest.raises(TslawError, match="full KV caches only"):
        reader([table], compressed_kv=True)
