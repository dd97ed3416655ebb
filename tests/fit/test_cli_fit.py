"""`tslaw fit` and the commands that question a fit, through the real program: answers, exit statuses, messages."""

from __future__ import annotations

import json

import pytest
from simulated import SHORT, as_dataset, draw_truth, template

from measurements import good_dataset
from tslaw.cli.fit_command import _row
from tslaw.dataset import save_dataset
from tslaw.fit.fit_file import load_posterior, open_fit, task_names
from tslaw.fit.simulate import simulate_task

TASKS = ["simulated", "facts"]


@pytest.fixture
def answers(tslaw, fit_path):
    """The parsed JSON of a command that must succeed."""

    def run(command: str, *arguments: object) -> list[dict]:
        status, out, err = tslaw(command, fit_path, *arguments, "--json")
        assert status == 0
        assert "failed its diagnostics" in err
        return json.loads(out)

    return run


def _check_crossover(a: dict) -> None:
    assert 0 <= a["p_below"] <= 1
    assert 0 <= a["p_above"] <= 1 - a["p_below"]
    low, high = a["range"]
    for value in (a["median"], *a["hdi"]):
        assert value is None or low <= value <= high
    assert None not in a["hdi"] or a["p_below"] + a["p_above"] > 0
    curve = a["curve"]
    assert {len(v) for v in curve.values()} == {len(curve["effective_size"])}
    assert curve["effective_size"][0] == pytest.approx(low)
    assert all(0 <= p <= 1 for p in curve["p_more_weights"])


def test_crossover_as_json(answers) -> None:
    found = answers("crossover")
    assert [a["task"] for a in found] == TASKS
    for a in found:
        assert (a["weight_bits"], a["batch"], a["accounting"], a["unit"]) == (8, 1, "checkpoint", "GiB")
        _check_crossover(a)
    assert [len(a.get("lattice", [])) for a in found] == [3, 0], "only one task was measured at 8 bits"


def test_crossover_with_options(answers) -> None:
    (a,) = answers("crossover", "--weight-bits", 4, "--batch", 16, "--accounting", "equation", "--task", "facts")
    assert (a["task"], a["weight_bits"], a["batch"], a["accounting"]) == ("facts", 4, 16, "equation")
    _check_crossover(a)
    assert len(a["lattice"]) == 3
    assert a["lattice"][-1]["p_bigger_model"] == 0


def test_crossover_in_words_names_the_task_and_its_uncertainty(tslaw, fit_path) -> None:
    status, out, _ = tslaw("crossover", fit_path, "--task", "simulated")
    assert status == 0
    for part in ("simulated, 8-bit weights", "crossover W+", "90% HDI", "P(below the measured range", "accuracy lost"):
        assert part in out
    assert "were measured" not in out
    _, out, _ = tslaw("crossover", fit_path, "--task", "simulated", "--weight-bits", "6")
    assert "note: fewer than two models were measured at 6 bits" in out


def test_findings_as_json_and_in_words(answers, tslaw, fit_path) -> None:
    found = answers("findings")
    assert [a["task"] for a in found] == TASKS
    assert [len(a["crossover"]) for a in found] == [3, 2]
    for a in found:
        for each in (a["weight_bits"], a["voters"]):
            memories = [row["memory"] for row in each["p_best"]]
            assert memories == sorted(memories)
            assert len(memories) == 5
            assert all(sum(row["p"].values()) == pytest.approx(1) for row in each["p_best"])
        shares = a["weight_bits"]["share_of_memory_range"]
        assert all(0 <= low <= high <= 1 for _, low, high in shares.values())
        onset = a["voters"]["memory_from_which_more_than_one"]
        assert onset["p_below"] + onset["p_above"] <= 1 + 1e-9
        later = a["voters"]["memory_from_which_8_or_more"]
        assert later["p_above"] >= onset["p_above"]
    status, out, _ = tslaw("findings", fit_path, "--task", "simulated", "--batch", 4)
    assert status == 0
    for part in (
        "simulated, batch 4",
        "1. Is there",
        "P(within the measured sizes)",
        "2. Which",
        "3. From",
        "not asked",
    ):
        assert part in out


def test_frontier_as_json_and_as_a_table(answers, tslaw, fit_path) -> None:
    (found,) = answers("frontier", "--task", "simulated", "--min-probability", 0)
    rows = found["configurations"]
    assert len(rows) == 9 * 6
    assert [r["memory_gib"] for r in rows] == sorted(r["memory_gib"] for r in rows)
    for r in rows:
        assert 0 <= r["p_frontier"] <= 1
        assert r["interval"][0] <= r["accuracy"] <= r["interval"][1]
    (likely,) = answers("frontier", "--task", "simulated", "--min-probability", 0.5)
    assert likely["configurations"] == [r for r in rows if r["p_frontier"] >= 0.5]
    status, out, _ = tslaw("frontier", fit_path)
    assert status == 0
    assert "P(frontier)" in out


def test_recommend_as_json_and_in_words(answers, tslaw, fit_path) -> None:
    found = answers("recommend", "--memory", "6GiB", "--memory", "40 GiB")
    assert [(a["task"], a["memory_budget_gib"]) for a in found] == [(t, m) for t in TASKS for m in (6, 40)]
    for a in found:
        assert all(o["memory_gib"] <= a["memory_budget_gib"] * (1 + 1e-12) for o in a["options"])
        assert sum(o["p_best"] for o in a["options"]) == pytest.approx(1)
        assert min(o["expected_regret"] for o in a["options"]) >= 0
    status, out, _ = tslaw("recommend", fit_path, "--memory", "6GiB", "--task", "facts")
    assert status == 0
    assert out.startswith("facts, 6 GiB a generation: Qwen3-")


def test_predict_as_json_and_in_words(answers, tslaw, fit_path) -> None:
    found = answers("predict", "--params", 6e9, "--weight-bits", 5, "--token-budget", 3000, "--token-budget", 30000)
    assert [(a["task"], a["token_budget"]) for a in found] == [(t, b) for t in TASKS for b in (3000, 30000)]
    for short, long in (found[:2], found[2:]):
        assert short["accuracy"] < long["accuracy"]
        for a in (short, long):
            assert 0 <= a["interval"][0] <= a["accuracy"] <= a["interval"][1] <= 1
    status, out, _ = tslaw("predict", fit_path, "--params", 6e9, "--token-budget", 3000)
    assert status == 0
    assert "90% interval" in out


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["crossover", "FIT", "--task", "history"], "does not hold the task 'history'"),
        (["crossover", "FIT", "--batch", "0"], "cannot share weights"),
        (["crossover", "FIT", "--batch", "nan"], "cannot share weights"),
        (["crossover", "FIT", "--weight-bits", "1"], "bits"),
        (["crossover", "FIT", "--weight-bits", "eight"], "valid number"),
        (["crossover", "FIT", "--accounting", "creative"], "accounting"),
        (["crossover", "ABSENT"], "no such file"),
        (["crossover", "FOREIGN"], "not a fit"),
        (["frontier", "BROKEN"], "cannot be read"),
        (["frontier", "FIT", "--batch", "-1"], "cannot share weights"),
        (["frontier", "FIT", "--min-probability", "7"], "min-probability"),
        (["recommend", "FIT"], "--memory"),
        (["recommend", "FIT", "--memory", "lots"], "not an amount of memory"),
        (["recommend", "FIT", "--memory", "1e999GiB"], "not an amount of memory"),
        (["recommend", "FIT", "--memory", "1MiB"], "Nothing of this family fits"),
        (["recommend", "FIT", "--memory", "9GiB", "--batch", "0"], "cannot share weights"),
        (["predict", "FIT", "--params", "7", "--token-budget", "256"], "--params"),
        (["predict", "FIT", "--params", "nan", "--token-budget", "256"], "--params"),
        (["predict", "FIT", "--params", "-4e9", "--token-budget", "256"], "--params"),
        (["predict", "FIT", "--params", "4e9", "--token-budget", "0"], "--token-budget"),
        (["predict", "FIT", "--params", "4e9", "--weight-bits", "32", "--token-budget", "9"], "--weight-bits"),
        (["predict", "FIT", "--params", "4e9"], "--token-budget"),
        (["fit", "ABSENT", "--out", "NEW"], "no such file"),
        (["fit", "BROKEN", "--out", "NEW"], "cannot be read"),
        (["fit", "FIT", "--out", "NEW"], "measurement"),
        (["fit", "MEASURED", "--out", "FIT"], "not overwritten"),
        (["fit", "MEASURED", "MEASURED", "--out", "NEW"], "More than one file holds the task"),
        (["fit", "MEASURED", "OTHER", "--out", "NEW"], "different families"),
        (["fit", "MEASURED"], "--out"),
        (["fit", "MEASURED", "--out", "NEW", "--chains", "0"], "--chains"),
    ],
)
def test_bad_input_is_one_message_and_status_2(tslaw, scattered_path, tmp_path, arguments, what) -> None:
    places = {name: tmp_path / f"{name.lower()}.nc" for name in ("ABSENT", "BROKEN", "FOREIGN", "MEASURED", "NEW")}
    places |= {"FIT": scattered_path, "OTHER": tmp_path / "other.nc"}
    places["BROKEN"].write_bytes(b"CDF nothing")
    for name, family in (("FOREIGN", "ladder"), ("MEASURED", "ladder"), ("OTHER", "qwen3")):
        if name in arguments:
            save_dataset(good_dataset(family=family), places[name])
    before = scattered_path.read_bytes()
    status, out, err = tslaw(*(places.get(a, a) for a in arguments))
    assert status == 2
    assert what in err
    assert "fault in tslaw" not in err
    assert out == ""
    assert scattered_path.read_bytes() == before
    assert not places["NEW"].exists()


def test_fit_from_measurements_marks_what_failed(program_run) -> None:
    """Chains far too short: the fit is written, marked, explained, and the exit status is 1."""
    assert program_run.status == 1
    assert "failed its diagnostics" in program_run.err
    assert "FAILED" in program_run.out
    assert "failed: bulk ESS" in program_run.out.replace("simulated: ", "")
    tree = open_fit(program_run.path)
    assert (int(tree.attrs["passed"]), task_names(tree)) == (0, ["simulated"])
    assert load_posterior(tree).n_draws == SHORT.chains * SHORT.samples
    assert list(json.loads(tree.attrs["provenance"])["inputs"]) == ["simulated.nc"]


@pytest.mark.slow
def test_a_long_enough_fit_passes_and_is_trusted(tslaw, tmp_path) -> None:
    """Status 0, nothing marked as failed, and no warning from the commands that question it.

    All six sizes: of a problem that three models tried, leaving out one leaves too little for LOO.
    """
    empty = template(12, (16, 4), (1000, 2000, 4000, 8000, 16000, 32000))
    data, out = simulate_task(empty, draw_truth(0, empty), 8, 0), tmp_path / "good.nc"
    path = save_dataset(as_dataset(data), tmp_path / "simulated.nc")
    status, text, err = tslaw("fit", path, "--out", out, "--chains", "2", "--warmup", "300", "--samples", "1600")
    assert "failed" not in err, text
    assert status == 0
    assert "passed" in text
    tree = open_fit(out)
    assert (int(tree.attrs["passed"]), task_names(tree)) == (1, ["simulated"])
    status, _, err = tslaw("crossover", out, "--json")
    assert (status, err) == (0, "")


def test_show_says_where_a_fit_came_from_and_that_it_failed(tslaw, fit_path) -> None:
    status, out, _ = tslaw("show", fit_path)
    assert status == 1
    assert "FAILED" in out
    assert "chains 2, warmup 70, samples 60" in out
    assert "jax " in out
    status, out, _ = tslaw("show", fit_path, "--json")
    told = json.loads(out)
    assert status == 1
    assert not told["passed"]
    assert set(told["diagnostics"]) == set(TASKS)
    assert told["provenance"]["device"]


def test_diagnostics_that_nobody_knows_are_dashes() -> None:
    """Chains that stood still have no LOO: it is stored as null."""
    known = {"task": "t", "rhat": 1.2, "ess_bulk": 3.0, "ess_tail": 2.0, "divergences": 0, "draws": 100}
    unknown = dict.fromkeys(("elpd_loo", "elpd_loo_se", "bad_pareto_k"))
    row = _row(known | unknown | {"seconds": 1.0, "passed": False})
    assert row[5:7] == ("- ± -", "-")
    assert row[-1] == "FAILED"
