"""The study's tables and figures on simulated data."""

from __future__ import annotations

import numpy as np
from simulated_kv import draws, study, thinking_helps

from tslaw.fit.intervals import summarise_censored
from tslaw.kvstudy import figures, tables
from tslaw.kvstudy.advance import advance
from tslaw.kvstudy.control import against_random, draws_of, rounding_cost
from tslaw.kvstudy.kinds import kind_contrasts


def truth(model: str, policy: str, budget: int) -> float:
    return thinking_helps(model, budget) - 0.05 * (policy != "full")


def columns(table: str) -> set[int]:
    """How many cells the rows of a Markdown table have."""
    return {line.count(" | ") + 1 for line in table.splitlines()}


def test_tables_are_rectangular_and_say_what_was_found() -> None:
    table, (weights, partition) = study(truth), draws(50)
    found = advance(table, weights, partition, 16)
    frontier = tables.frontier_table(found, table, [0, 30, 59])
    assert columns(frontier) == {7}
    assert len(frontier.splitlines()) == 5
    assert f"{found.with_[:, 30].mean():.3f}" in frontier.splitlines()[3]
    assert columns(tables.markdown(tables.AREA_HEADER, [tables.area_row(list("abcd"), found)])) == {9}
    policies = tables.policy_table([("batch 16", found)], table)
    assert "| full | " in policies
    assert columns(policies) == {2}
    kinds = tables.kind_table(kind_contrasts(table, weights, partition))
    assert columns(kinds) == {5}
    cells = against_random(table, 32, ("rkv",))
    assert columns(tables.cell_table(cells, draws_of(cells, weights))) == {4}
    cells = rounding_cost(table, 64)
    assert columns(tables.cell_table(cells, draws_of(cells, weights))) == {3}
    raw = tables.problem_table(table, np.repeat(["easy", "hard"], 32), ["a", "d"], ["full", "rkv:32"])
    assert columns(raw) == {8}
    assert len(raw.splitlines()) == 2 + 2 * 2 * 2
    assert "| d | rkv:32 | hard (32) | " in raw
    assert "+0.000" not in tables.difference(np.full(10, 0.25))


def test_a_threshold_outside_the_sizes_is_said_to_be() -> None:
    outside = summarise_censored(np.full(100, -np.inf), 1e6, 1e7)
    row = tables.threshold_row(["all", "32"], outside, np.full(100, -0.1))
    assert row[2] == row[3] == "below all (< 977 KiB)"
    assert row[4:6] == ["1.000", "0.000"]
    assert row[-1] == "1.000"
    either = summarise_censored(np.repeat([2e6, np.inf], 50), 1e6, 1e7)
    assert tables.threshold_row([], either, np.zeros(2))[1] == "1.91 MiB to above all (> 9.54 MiB)"


def test_figures_are_drawn() -> None:
    table, (weights, partition) = study(truth), draws(50)
    found = {("a task", batch): advance(table, weights, partition, batch) for batch in (1.0, 16.0)}
    contrasts = {("a task", counting): kind_contrasts(table, weights, partition) for counting in ("formula", "held")}
    with figures.settings():
        for figure in (figures.frontier_figure(found), figures.kinds_figure(contrasts)):
            assert len(figure.axes) == 2
            assert figures.png(figure).startswith(b"\x89PNG")
