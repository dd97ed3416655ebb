"""The calibration in small: replicates of the whole path by the script, and sizes left out."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from simulated import draw_truth, posterior_of, template

from reference import surface_reference as reference
from tslaw.calibrate import leave_out
from tslaw.calibrate.prior_predictive import prior_statements
from tslaw.calibrate.sbc import RANKED_DRAWS, calibration, rank
from tslaw.errors import TslawError
from tslaw.fit.model import Prior
from tslaw.fit.simulate import simulate_task
from tslaw.fit.surface import TRAITS

SCRIPT = Path(__file__).parents[2] / "scripts/sbc.py"
EMPTY = template(20, (16, 4), (1000, 4000, 16000), ("Qwen3-1.7B", "Qwen3-4B", "Qwen3-14B"))
TRUTH = draw_truth(5, EMPTY)
DATA = simulate_task(EMPTY, TRUTH, 8, 5)


@pytest.mark.slow
def test_replicates_of_the_whole_path_are_calibrated_and_can_be_resumed(tmp_path: Path) -> None:
    """Two replicates with short chains: their 90% intervals hold most quantities (of all pairs of replicates in
    docs/calibration/sbc.jsonl 99% hold more than half)."""
    out = tmp_path / "sbc.jsonl"
    command = [sys.executable, str(SCRIPT), "--out", str(out), "--jobs", "2", "--warmup", "100", "--samples", "120"]
    subprocess.run([*command, "--replicates", "1"], check=True)
    first = out.read_text()
    subprocess.run([*command, "--replicates", "2"], check=True)  # what the first compiled it finds
    assert out.read_text().startswith(first), "a replicate that is there stays, and is not run again"
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(row["seed"] for row in rows) == [0, 1]
    covered = [ranked["covered"] for row in rows for ranked in row["ranked"]]
    assert len(covered) == 2 * len(rows[0]["ranked"])
    assert np.mean(covered) > 0.5
    before = out.read_text()
    again = subprocess.run([*command, "--replicates", "2"], check=True, capture_output=True, text=True)
    assert out.read_text() == before, again.stderr
    report = subprocess.run([*command, "--report"], check=True, capture_output=True, text=True).stdout
    assert "| crossover W+, 8 bits |" in report
    assert out.with_suffix(".png").stat().st_size > 10_000


def test_replicates_whose_chains_disagreed_are_run_anew_the_worst_first(tmp_path: Path) -> None:
    script = runpy.run_path(str(SCRIPT))
    done = [
        {"seed": 3, "rhat": 1.30},
        {"seed": 1, "rhat": 1.01},
        {"seed": 2, "rhat": float("nan")},
        {"seed": 0, "rhat": 1.05},
        {"seed": 1, "rhat": 1.06},
        {"seed": 0, "rhat": 1.04, "samples": 2000},
    ]
    path = tmp_path / "sbc.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in done))
    last = script["rows"](path)
    assert [(row["seed"], row["rhat"]) for row in last if row["seed"] != 2] == [(0, 1.04), (1, 1.06), (3, 1.30)]
    assert script["disagreed"](last, 1.02, samples=2000) == [2, 3, 1]
    assert script["disagreed"](last, 1.02, samples=4000) == [2, 3, 1, 0]
    assert script["disagreed"](last, 1.05, samples=2000) == [2, 3, 1]


def _rows(draw: Any, truth: Any, n: int = 400) -> list[dict[str, Any]]:
    """Replicates of a posterior that can be sampled at once: one observation of a normal mean."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(n):
        mean = truth(rng)
        seen = mean + rng.standard_normal()
        rows.append({"ranked": [vars(rank("mean", mean, draw(rng, seen), rng))]})
    return rows


def test_ranks_of_an_exact_posterior_are_uniform_and_those_of_an_overconfident_one_are_not() -> None:
    exact = _rows(lambda rng, y: 0.5 * y + np.sqrt(0.5) * rng.standard_normal(999), lambda rng: rng.standard_normal())
    narrow = _rows(lambda rng, y: 0.5 * y + 0.4 * rng.standard_normal(999), lambda rng: rng.standard_normal())
    (good,), (bad,) = calibration(exact), calibration(narrow)
    assert good.p_uniform > 0.001
    assert good.coverage == pytest.approx(0.9, abs=0.05)
    assert bad.p_uniform < 1e-6
    assert bad.coverage < 0.75


def test_censored_truths_are_ranked_by_lot_among_their_ties() -> None:
    rng = np.random.default_rng(0)
    draws = np.concatenate([np.full(500, -np.inf), np.arange(500.0)])
    ranks = [rank("W+", -np.inf, draws, rng).rank for _ in range(200)]
    tied = int((draws[np.unique(np.linspace(0, 999, RANKED_DRAWS).round().astype(int))] == -np.inf).sum())
    assert min(ranks) == 0
    assert max(ranks) == tied
    assert rank("W+", np.inf, np.arange(1000.0), rng).covered is False
    assert rank("W+", np.inf, np.full(1000, np.inf), rng).covered is True


def test_arms_that_are_left_out_leave_the_others_as_they_were() -> None:
    fitted, held = leave_out.split(DATA, ["Qwen3-4B"])
    assert set(held.models) == {"Qwen3-4B"}
    assert leave_out.by_size(fitted) == ["Qwen3-1.7B", "Qwen3-14B"]
    for part in (fitted, held):
        places = [DATA.arms.index(arm) for arm in part.arms]
        np.testing.assert_array_equal(part.accuracy()[0], DATA.accuracy()[0][places])
        np.testing.assert_array_equal(part.log_size, DATA.log_size[places])
    assert fitted.row_count.sum() + held.row_count.sum() == DATA.row_count.sum()


@pytest.mark.parametrize(("left_out", "what"), [(["GPT-5"], "Not in the data"), (["Qwen3-4B", "Qwen3-14B"], "Fewer")])
def test_what_cannot_be_left_out_is_refused(left_out: list[str], what: str) -> None:
    with pytest.raises(TslawError, match=what):
        leave_out.split(DATA, left_out)


def test_a_held_out_model_without_misfit_is_predicted_as_the_surface_says() -> None:
    spreads = ("sd_misfit", "sd_misfit_w", "sd_effect", "sd_effect_w", *TRAITS.values())
    zero = {name: np.asarray(0.0) for name in spreads}
    truth = TRUTH | zero | {"own_length_share": np.asarray(0.0)}
    _, held = leave_out.split(DATA, ["Qwen3-4B"])
    found = leave_out.predict_measured(posterior_of([truth] * 400, DATA), held)
    assert found.shape == (400, 2, 3)
    for i, bits in enumerate(held.weight_bits):
        for k, budget in enumerate(held.budgets):
            expected = reference.mean_accuracy(truth, float(held.log_size[i]), float(bits), float(budget))
            assert found[:, i, k].mean() == pytest.approx(expected, abs=0.01)
            samples = held.trajectories()[i].sum()
            assert 0 < found[:, i, k].std() <= np.sqrt(expected * (1 - expected) / samples) * 1.15
    unsure = TRUTH | {"sd_misfit": np.asarray(1.0), "sd_effect": np.asarray(2.0)}
    wide = leave_out.predict_measured(posterior_of([unsure] * 400, DATA), held)
    assert (wide.std(axis=0) > found.std(axis=0)).all()
    prone = truth | {"relapse0": np.asarray(-1.0)}  # or how much relapses differ could not be seen
    narrow = leave_out.predict_measured(posterior_of([prone] * 400, DATA), held)
    for spread in ("sd_misfit", *TRAITS.values()):
        wide = leave_out.predict_measured(posterior_of([prone | {spread: np.asarray(1.0)}] * 400, DATA), held)
        assert (wide.std(axis=0) > 1.05 * narrow.std(axis=0)).any(), spread


def test_the_power_law_is_found_where_it_holds() -> None:
    budgets = np.array([10.0, 40.0, 160.0, 640.0])

    def measured(log_size: np.ndarray, bits: np.ndarray) -> SimpleNamespace:
        effective = log_size + np.where(bits == 4.0, -0.6, 0.0)
        curve = 0.95 - 0.2 * np.exp(-0.5 * effective)[:, None] - 0.3 * (budgets / 10.0)[None, :] ** -0.7
        return SimpleNamespace(log_size=log_size, weight_bits=bits, budgets=budgets, accuracy=lambda: (curve, None))

    bits = np.tile([16.0, 4.0], 4)
    seen = measured(np.repeat([-1.0, 0.0, 0.7, 1.5], 2), bits)
    held = measured(np.array([2.2, 2.2]), np.array([16.0, 4.0]))
    assert leave_out.power_law(seen, held) == pytest.approx(held.accuracy()[0], abs=2e-3)  # type: ignore[arg-type]


def test_the_comparison_says_what_is_covered() -> None:
    _, held = leave_out.split(DATA, ["Qwen3-4B"])
    found = leave_out.held_out(posterior_of([TRUTH] * 200, DATA), *leave_out.split(DATA, ["Qwen3-4B"]))
    assert found.measured == pytest.approx(held.accuracy()[0])
    shifted = replace(found, measured=found.measured + 0.5)
    assert not shifted.covered.any()
    assert shifted.error == pytest.approx(found.error - 0.5)


def test_statements_of_the_prior_follow_its_scales() -> None:
    usual = prior_statements(EMPTY, Prior(), 30)
    assert all(values.shape == (30,) and np.isfinite(values).all() for values in usual.values())
    assert (usual["lost again by thinking too long: best budget over the largest"] >= 0).all()
    assert usual["lost by 4-bit weights there"].std() > 1.0
    none = 1e-9
    harmless = Prior(delta_w=none, mu2=none, late3=none, relapse2=none, sd_effect_w=none, sd_misfit_w=(none, 0.1))
    assert np.abs(prior_statements(EMPTY, harmless, 30)["lost by 4-bit weights there"]).max() < 1e-3
