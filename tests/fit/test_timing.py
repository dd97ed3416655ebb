"""The table of how long estimands take: what is in it, of how many draws, and what it says of the goal."""

from __future__ import annotations

import os
import runpy
import time
from pathlib import Path

import numpy as np
import pytest
from cache_truths import cache_template, cache_truth
from simulated import draw_truth, posterior_of, template

from tslaw.calibrate.machine import Machine, cpu_name, this_machine
from tslaw.calibrate.timing import Call, Estimand, Timing, busy_seconds, called, estimands, timed, with_draws

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts/time_estimands.py"))
DATA = template(5, (16, 4), (1000, 4000), ("Qwen3-1.7B", "Qwen3-4B"))
POSTERIOR = posterior_of([draw_truth(seed, DATA) for seed in range(4)], DATA)


def test_draws_are_repeated_or_thinned_to_the_number_asked_for() -> None:
    more, fewer = with_draws(POSTERIOR, 10), with_draws(POSTERIOR, 2)
    assert (more.n_draws, fewer.n_draws) == (10, 2)
    alpha = POSTERIOR.params["alpha"]
    assert more.params["alpha"].tolist() == [*alpha, *alpha, *alpha[:2]]
    assert all(len(values) == 10 for values in more.params.values())
    assert np.isin(fewer.params["alpha"], alpha).all()


def test_all_that_a_posterior_can_be_asked_is_timed() -> None:
    asked = estimands(with_draws(POSTERIOR, 500))
    names = [each.name for each in asked]
    assert [name for name in names if "4 bits" in name] == [
        "crossover W+, 4 bits",
        "crossover among the family's models, 4 bits",
    ]
    assert names.count("onset of parallel scaling (votes)") == 1
    assert {each.draws for each in asked} == {500}
    assert not any("eviction" in name for name in names)
    caches = cache_template(5)
    of_caches = estimands(posterior_of([cache_truth(1, caches)], caches))
    assert [each.name for each in of_caches][-2:] == [
        "gain of compressed caches",
        "size above which eviction stops beating rounding",
    ]
    assert np.isfinite(next(e for e in asked if e.name.startswith("frontier")).ask().membership).all()  # type: ignore[attr-defined]


def test_the_first_call_is_apart_and_the_shortest_later_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter([Call(9.0, 0.0), Call(3.0, 0.5), Call(2.0, 0.1), Call(4.0, 0.0)])
    monkeypatch.setattr("tslaw.calibrate.timing.called", lambda ask: next(calls))
    (found,) = timed([Estimand("it", 7, lambda: None)], 3)
    assert found == Timing("it", 7, 9.0, 2.0, 0.1)


def test_what_others_do_meanwhile_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 10 50 9999 999 1 2 7 0 0\ncpu0 1 1 1 1\n")
    assert busy_seconds(stat) == pytest.approx(170 / os.sysconf("SC_CLK_TCK"))
    assert busy_seconds(tmp_path / "none") == 0.0
    found = called(lambda: time.sleep(0.02))
    assert found.seconds >= 0.02
    assert 0.0 <= found.others <= 1.0
    busy = iter([100.0, 100.0 + 0.01 * (os.cpu_count() or 1)])
    monkeypatch.setattr("tslaw.calibrate.timing.busy_seconds", lambda: next(busy))
    found = called(lambda: time.sleep(0.02))
    assert 0.0 < found.others < 0.51


def test_the_page_says_what_misses_the_goal() -> None:
    row, verdict = SCRIPT["row"], SCRIPT["verdict"]
    quick, compiled, slow = (
        Timing(name, 4000, *seconds, 0.02) for name, *seconds in (("a", 4.9, 0.123), ("b", 6.0, 1.0), ("c", 9.0, 5.0))
    )
    assert row(quick) == "| a | 4,000 | 4.90 | 0.12 | 2% |"
    assert verdict([quick]) == "All take less than 5 s, the first call too."
    assert verdict([quick, compiled]) == (
        "All take less than 5 s once compiled. 5 s or more for the first call only: b, 4,000 draws."
    )
    assert verdict([quick, slow]) == "5 s or more: c, 4,000 draws."
    contended = verdict([slow._replace(others=0.5)])
    assert contended == "5 s or more: c, 4,000 draws (others had 20% of the cores or more)."


def test_the_machine_is_named(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    assert cpu_name(info)
    info.write_text("processor\t: 0\nmodel name\t: A CPU: fast\nprocessor\t: 1\nmodel name\t: A CPU: fast\n")
    assert cpu_name(info) == "A CPU: fast"
    found = this_machine(info)
    assert found.in_words().startswith("A CPU: fast, ")
    assert Machine(**found.as_dict()) == found
