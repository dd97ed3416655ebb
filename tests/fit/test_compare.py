"""Comparing surfaces: LOO's arithmetic, wrong surfaces that look wrong, and `tslaw compare`."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from scipy.optimize import minimize_scalar
from simulated import SHORT, as_dataset
from surface_truths import simulated_from
from test_surfaces import example

from tslaw.dataset import save_dataset
from tslaw.errors import TslawError
from tslaw.fit import nuts
from tslaw.fit.compare import (
    Comparison,
    Replicas,
    SurfaceFit,
    assess,
    checkpoint_of,
    compare,
    compare_surfaces,
    coverage,
    fit_surface,
    remove_runs,
    rms_misfit,
)
from tslaw.fit.data import TaskData
from tslaw.fit.diagnostics import leave_pairs_out
from tslaw.fit.nuts import Checkpoint
from tslaw.fit.subset import some_problems
from tslaw.fit.surfaces.mechanistic import SURFACE as MECHANISTIC
from tslaw.fit.surfaces.plain import SURFACE as PLAIN
from tslaw.fit.surfaces.registry import load_surface


def invented(name: str, data: TaskData, level: float, seed: int) -> SurfaceFit:
    """A fit whose pairs have log-likelihoods around `level` in every draw."""
    rng = np.random.default_rng(seed)
    pairs = (int(data.model_index().max()) + 1, len(data.problems))
    each = level + rng.normal(0.0, 2.0, pairs) + rng.normal(0.0, 0.1, (2, 100, *pairs))
    left_out = leave_pairs_out({"a": np.zeros((2, 100))}, data, lambda few, _: each)
    nothing = np.zeros((1, 1))
    replicas = Replicas(nothing, nothing, nothing[None], nothing[None])
    diagnosis = SimpleNamespace(bad_pareto_k=0.0, passed=True, failures=())
    surface = SimpleNamespace(name=name, title="")
    return SurfaceFit(surface, data, diagnosis, left_out, replicas, 0.0)


@pytest.mark.parametrize("level", [-3.0, -2000.0])
def test_differences_and_weights_are_those_of_the_pairs(two_tasks, level) -> None:
    """Also for pairs of so many trajectories that exp(elpd) is zero."""
    first, second = (invented(n, two_tasks[0], level + d, k) for n, d, k in (("one", 0.0, 0), ("two", 0.3, 1)))
    found = compare([first, second])
    a, b = (f.left_out.loo.elpd_i.values for f in found.fits)
    best, other = found.rows
    assert (best.elpd, other.elpd) == pytest.approx((a.sum(), b.sum()))
    assert best.elpd > other.elpd
    assert (best.elpd_diff, best.elpd_diff_se) == (0.0, 0.0)
    assert other.elpd_diff == pytest.approx((b - a).sum())
    assert other.elpd_diff_se == pytest.approx(np.sqrt(len(a)) * (b - a).std())
    score = minimize_scalar(
        lambda w: -np.logaddexp(np.log(w) + a - b, np.log1p(-w)).sum(), bounds=(1e-9, 1 - 1e-9), method="bounded"
    )
    assert best.weight == pytest.approx(score.x, abs=0.01)
    assert best.weight + other.weight == pytest.approx(1.0)
    assert 0.05 < best.weight < 0.95


def test_fits_of_other_data_or_of_one_name_are_not_compared(two_tasks) -> None:
    first = invented("one", two_tasks[0], -3.0, 0)
    with pytest.raises(TslawError, match="same name"):
        compare([first, first])
    with pytest.raises(TslawError, match="same data"):
        compare([first, invented("two", two_tasks[1], -3.0, 1)])


def test_coverage_and_misfit_count_measured_cells() -> None:
    replicas = np.random.default_rng(0).random((1000, 2, 2))
    measured = np.array([[0.5, 0.99], [0.2, np.nan]])
    assert coverage(measured, replicas) == pytest.approx(2 / 3)
    assert rms_misfit(measured, replicas) == pytest.approx(np.sqrt((0.49**2 + 0.3**2) / 3), abs=0.02)
    assert np.isnan(coverage(np.full((2, 0), np.nan), np.zeros((5, 2, 0))))


@pytest.fixture(scope="module")
def on_mechanistic(two_tasks, two_fits) -> Comparison:
    """Both surfaces on data from the mechanistic one."""
    true = assess(MECHANISTIC, two_tasks[0], two_fits[0].draws, 0)
    return compare([fit_surface(PLAIN, two_tasks[0], SHORT), true])


@pytest.mark.slow
def test_a_plain_surface_looks_wrong_on_data_of_the_mechanistic_one(on_mechanistic) -> None:
    true, wrong = on_mechanistic.rows
    assert (true.surface, wrong.surface) == ("mechanistic", "plain")
    assert wrong.elpd_diff < -2 * wrong.elpd_diff_se
    assert true.weight > 0.8
    assert wrong.rms_misfit > 1.3 * true.rms_misfit


class Interrupted(Exception):
    """Stands for a user's Ctrl-C or a lost machine."""


@pytest.mark.slow
def test_an_interrupted_comparison_goes_on_where_it_was(two_tasks, tmp_path, monkeypatch) -> None:
    """What was sampled is not sampled again, unless it was something else; once all is saved nothing is left."""
    data, out = some_problems(two_tasks[0], 3), tmp_path / "compared.nc"
    short, saves, save = replace(SHORT, warmup=40, samples=40), [], Checkpoint.save

    def save_and_stop(self: Checkpoint, leaves: list[np.ndarray]) -> None:
        save(self, leaves)
        saves.append(leaves)
        if len(saves) == 4:
            raise Interrupted

    monkeypatch.setattr(nuts, "SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(Checkpoint, "save", save_and_stop)
    with pytest.raises(Interrupted):
        compare_surfaces([PLAIN], data, short, keep=out)
    assert [path.name for path in tmp_path.iterdir()] == ["compared.nc.simulated.plain.unfinished.npz"]
    said: list[str] = []
    found = compare_surfaces([PLAIN], data, short, said.append, keep=out)
    assert len(saves) == 8, "four of its eight blocks were left"
    assert said[-1].startswith("going on from")
    assert found.rows[0].surface == "plain"
    for changed in (replace(short, seed=9), replace(short, samples=50)):
        other = checkpoint_of(PLAIN, data, changed, out)
        assert other is not None
        assert other.load() is None
    remove_runs(out, [PLAIN], [data])
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_told_apart_is_not_kept(two_tasks, tmp_path) -> None:
    class Old(type(PLAIN)):
        def sample(self, data, sampling):
            raise NotImplementedError

    data, file = two_tasks[0], tmp_path / "mine.py"
    assert checkpoint_of(PLAIN, data, SHORT, None) is None
    assert checkpoint_of(Old(), data, SHORT, tmp_path / "out.nc") is None, "it takes no checkpoint"
    written = "from tslaw.fit.surfaces.plain import Plain\nclass Mine(Plain):\n    name = 'mine'\nSURFACE = Mine()\n"
    keys = set()
    for code in (written, written + "# changed\n", written):
        file.write_text(code)
        found = checkpoint_of(load_surface(str(file)), data, SHORT, tmp_path / "out.nc")
        assert found is not None
        keys.add(found.key)
    assert len(keys) == 2, "a file that was changed is another surface"


@pytest.mark.slow
def test_the_mechanistic_surface_looks_wrong_on_data_of_the_plain_one(tslaw, tmp_path) -> None:
    """Through the program, with the documented file as a third surface; its chains are far too short, so everything is
    marked and the exit status is 1."""
    data = simulated_from("plain", 16, 16, 0, bits=(16, 4), budgets=(1000, 4000, 8000, 16000))
    measured, out = save_dataset(as_dataset(data), tmp_path / "simulated.nc"), tmp_path / "compared" / "all.nc"
    surfaces = [part for name in ("mechanistic", "plain", example(tmp_path)) for part in ("--surface", name)]
    short = ("--chains", 1, "--warmup", 60, "--samples", 60)
    status, text, err = tslaw("compare", measured, *surfaces, *short, "--out", out, "--json")
    assert status == 1
    assert "diagnostics failed for mechanistic, plain, ramp" in err
    (found,) = json.loads(text)
    assert (found["task"], found["problems"], found["pairs"]) == ("simulated", 16, 48)
    rows = {row["surface"]: row for row in found["surfaces"]}
    assert sum(row["weight"] for row in rows.values()) == pytest.approx(1.0)
    assert not any(row["passed"] for row in rows.values())
    with xr.open_datatree(out, engine="netcdf4") as stored:
        assert json.loads(stored.attrs["comparisons"]) == [found]
        assert list(json.loads(stored.attrs["inputs"])) == ["simulated.nc"]
        task = stored["simulated"].dataset.load()
    assert task["predicted"].dims == ("surface", "quantile", "arm", "budget")
    assert task["measured"].values == pytest.approx(data.accuracy()[0])
    for name, row in rows.items():
        assert task["elpd"].sel(surface=name).sum() == pytest.approx(row["elpd"])
    gain = (task["elpd"].sel(surface="plain") - task["elpd"].sel(surface="mechanistic")).values.ravel()
    assert gain.sum() > 2 * np.sqrt(gain.size) * gain.std()
    assert rows["mechanistic"]["weight"] < 0.3
    assert rows["mechanistic"]["rms_misfit"] > 1.05 * rows["plain"]["rms_misfit"]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["ABSENT"], "no such file"),
        (["FACTS", "--surface", "cubic"], "no surface 'cubic'"),
        (["FACTS", "--surface", "ABSENT.py"], "no such file"),
        (["FACTS", "--surface", "plain", "--surface", "plain"], "called plain"),
        (["FACTS", "--task", "history"], "no task 'history'"),
        (["FACTS", "--problems", "1"], "too few"),
        (["FACTS", "--out", "table.txt"], "no kind of file"),
        (["FACTS", "--out", "OLD.json"], "not overwritten"),
        (["FACTS", "--chains", "0"], "--chains"),
    ],
)
def test_bad_input_is_one_message_and_status_2(tslaw, two_tasks, tmp_path, arguments, what) -> None:
    save_dataset(as_dataset(two_tasks[1]), tmp_path / "FACTS")
    (tmp_path / "OLD.json").write_text("{}")
    names = {"ABSENT", "FACTS", "ABSENT.py", "OLD.json", "table.txt"}
    status, out, err = tslaw("compare", *(tmp_path / a if a in names else a for a in arguments))
    assert status == 2
    assert what in err
    assert "fault in tslaw" not in err
    assert out == ""
    assert (tmp_path / "OLD.json").read_text() == "{}"
