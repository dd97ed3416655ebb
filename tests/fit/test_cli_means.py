"""Published means through the real program: fits, what is asked of them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tslaw.fit import means_file, means_infer
from tslaw.fit.fit_file import open_fit, save_fit

PUBLISHED = Path(__file__).parents[2] / "measurements" / "published"


@pytest.mark.slow
def test_a_table_is_fitted_asked_and_learned_from(tslaw, tmp_path, monkeypatch) -> None:
    """Far too few particles: what is checked is that everything works on the file and that it says what it rests on."""
    monkeypatch.setattr(means_infer, "MOST_MOVES", 10)
    monkeypatch.setattr(means_file, "REFIT_SAMPLES", 50)
    table, out = PUBLISHED / "qwen3.csv", tmp_path / "q.nc"
    short = ("--chains", "2", "--samples", "50", "--task", "AIME24")
    status, text, err = tslaw("fit", table, "--out", out, *short)
    assert status == 1, "too short to pass"
    assert "try more --samples (particles)" in err
    assert "AIME24: 6 published means of 6 arms" in err
    assert "note: AIME24: every mean is at one budget (38912 tokens)" in text
    assert "all weights have 16 bits" in text
    tree = open_fit(out)
    told = json.loads(tree.attrs["diagnostics"])["AIME24"]
    assert told["moves"] == 10
    assert 0.25 < told["correlation"] < 1.0
    said = f"correlate by at most {told['correlation']:.2f} with where they were"
    assert f"note: AIME24: after the last 10 moves particles {said}" in text
    assert any("particles still correlate" in failure for failure in told["failures"])
    assert set(tree["sample_stats"].dataset["family"].values.ravel()) <= set(range(100))
    assert len(json.loads(tree.attrs["caveats"])["AIME24"]) == 3
    asked = {
        "crossover": (),
        "frontier": (),
        "findings": (),
        "recommend": ("--memory", "40GiB"),
        "predict": ("--params", "6e9", "--weight-bits", "8", "--token-budget", "8000"),
    }
    for command, options in asked.items():
        status, answer, err = tslaw(command, out, *options, "--json")
        assert (status, json.loads(answer)[0]["task"]) == (0, "AIME24")
        assert "it rests on published means" in err
    status, answer, _ = tslaw("findings", out)
    assert "not known: the fit rests on published means" in answer
    status, _, _ = tslaw("plot", out, "--out", tmp_path / "plots")
    assert status == 0
    assert len(list((tmp_path / "plots").iterdir())) == 10
    status, _, err = tslaw("fit", table, "--out", tmp_path / "again.nc", "--prior", out, *short)
    assert status == 2
    assert "the same data would count twice" in err
    assert not (tmp_path / "again.nc").exists()


def test_options_of_nuts_are_refused(tslaw, tmp_path) -> None:
    options = ("--out", tmp_path / "q.nc", "--warmup", 90, "--target-accept", 0.9)
    status, out, err = tslaw("fit", PUBLISHED / "qwen3.csv", *options)
    assert (status, out) == (2, "")
    assert "--warmup, --target-accept is for NUTS, and published means are sampled by particles" in err
    assert not list(tmp_path.iterdir())


def test_a_fit_made_before_forgetting_was_recorded_says_so(tslaw, tmp_path) -> None:
    tree = open_fit(next((PUBLISHED.parents[1] / "fits" / "published").glob("*.nc")))
    told = json.loads(tree.attrs["diagnostics"])
    for of_task in told.values():
        of_task.pop("correlation", None)
        of_task.pop("moves", None)
    tree.attrs["diagnostics"] = json.dumps(told)
    _, text, _ = tslaw("show", save_fit(tree, tmp_path / "old.nc"))
    assert "forgot where they were before the last moves was not recorded" in text


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["TABLE", "--task", "history"], "do not hold the task history"),
        (["TABLE", "MEASURED"], "cannot be fitted together"),
        (["TABLE", "OTHER"], "different families"),
        (["TABLE", "TABLE"], "hold the same report"),
        (["ABSENT"], "no such file"),
        (["TABLE", "--prior", "ABSENT"], "no such file"),
        (["TABLE", "--prior", "TABLE"], "cannot be read"),
        (["TABLE", "--prior-width", "-1"], "prior-width"),
    ],
)
def test_bad_input_is_one_message_and_status_2(tslaw, tmp_path, arguments, what) -> None:
    places = {
        "TABLE": PUBLISHED / "qwen3.csv",
        "OTHER": PUBLISHED / "r1-distill-qwen.csv",
        "ABSENT": tmp_path / "absent.csv",
        "MEASURED": PUBLISHED.parent / "ladder-math.nc",
    }
    out = tmp_path / "new.nc"
    status, _, err = tslaw("fit", *(places.get(a, a) for a in arguments), "--out", out)
    assert status == 2
    assert what in err
    assert "fault in tslaw" not in err
    assert not out.exists()
