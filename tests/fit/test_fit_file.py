"""Fits on disk: round trip, joined tasks, ArviZ groups, refusals, damaged and foreign files."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import xarray as xr
from simulated import SHORT

from measurements import good_dataset
from tslaw.dataset import save_dataset
from tslaw.errors import TslawError
from tslaw.fit.diagnostics import diagnose
from tslaw.fit.fit_file import (
    GROUPS,
    TaskFit,
    join_tasks,
    load_posterior,
    misfit,
    open_fit,
    save_fit,
    task_names,
    thinned_fit,
)
from tslaw.fit.infer import Draws


def joined(values: np.ndarray) -> np.ndarray:
    """Chains one after the other."""
    return values.reshape(-1, *values.shape[2:])


def test_each_task_comes_back_as_it_went_in(two_fits, fit_path) -> None:
    tree = open_fit(fit_path)
    assert task_names(tree) == ["simulated", "facts"]
    for fit in two_fits:
        data, found = fit.data, load_posterior(tree, fit.data.task)
        assert (found.family, found.task, found.passed) == (data.family, data.task, False)
        assert found.shapes == data.shapes
        assert found.policies == ()
        assert found.reference_size == data.reference_size
        assert np.array_equal(found.budgets, data.budgets)
        order = [data.arms.index(arm) for arm in found.arms]
        assert sorted(order) == list(range(len(data.arms)))
        assert found.models == tuple(data.models[i] for i in order)
        assert np.array_equal(found.weight_bits, data.weight_bits[order])
        assert np.array_equal(found.params["misfit"], joined(fit.draws.posterior["misfit"])[:, order])
        assert set(found.params) == set(fit.draws.posterior)
        for name, values in fit.draws.posterior.items():
            if values.ndim == 2:
                assert np.array_equal(found.params[name], joined(values)), name
        for name in ("difficulty", "length"):
            assert found.params[name] == pytest.approx(joined(fit.draws.posterior[name]), rel=1e-6, abs=1e-6)
        models = [list(data.shapes).index(model) for model in found.shapes]
        for name in ("model_effect", "quantization_effect"):
            assert found.params[name] == pytest.approx(joined(fit.draws.posterior[name])[:, models], abs=0.0051)
        assert found.params["own_length"] == pytest.approx(
            joined(fit.draws.posterior["own_length"])[:, order], abs=6e-4
        )


def test_observations_and_replicas_stay_with_their_arms(two_fits, fit_path) -> None:
    tree = open_fit(fit_path)
    for fit in two_fits:
        data, task = fit.data, fit.data.task
        cells = {"arm": list(data.arms), "budget": data.budgets.astype(int)}
        observed, probes = data.accuracy()
        stored = tree["observed_data"].dataset.sel(task=task).sel(cells)
        assert np.array_equal(stored["accuracy"], observed)
        assert np.array_equal(stored["probes"], probes)
        replicas = tree["posterior_predictive"].dataset["accuracy"].sel(task=task).sel(cells)
        assert np.array_equal(replicas.transpose("chain", "draw", "arm", "budget"), fit.predictive)
        problems = {"arm": list(data.arms), "problem": list(data.problems)}
        constant = tree["constant_data"].dataset.sel(task=task)
        assert np.array_equal(constant["trajectories"].sel(problems), data.trajectories())
        assert constant["arm_model"].sel(arm=list(data.arms)).values.tolist() == list(data.models)
        pairs = {"model": list(data.shapes), "problem": list(data.problems)}
        assert np.array_equal(tree["loo"].dataset["pareto_k"].sel(task=task).sel(pairs), fit.pareto_k)


def test_what_a_fit_says_about_itself(two_fits, fit_path) -> None:
    attrs = open_fit(fit_path).attrs
    assert int(attrs["passed"]) == 0
    found = json.loads(attrs["diagnostics"])
    for fit in two_fits:
        assert found[fit.data.task]["failures"] == list(fit.diagnosis.failures)
        assert any("ESS" in failure for failure in fit.diagnosis.failures)
    origin = json.loads(attrs["provenance"])
    assert origin["sampling"]["seed"] == SHORT.seed
    assert set(origin) == {"inputs", "sampling", "prior", "packages", "device", "created", "seconds"}


def test_the_file_is_plain_netcdf_for_xarray_and_arviz(fit_path) -> None:
    import arviz_stats

    with xr.open_datatree(fit_path, engine="netcdf4") as tree:
        assert set(GROUPS) == set(tree.children)
        assert tree["posterior"]["alpha"].dims == ("chain", "draw", "task")
        assert dict(tree["sample_stats"].sizes) == {"chain": 2, "draw": SHORT.samples, "task": 2}
        assert {"diverging", "n_steps", "lp", "energy"} <= set(tree["sample_stats"].data_vars)
        summary = arviz_stats.summary(tree.load(), var_names=["alpha"])
    assert len(summary) == 2


def test_a_task_has_to_be_named_where_there_are_two(fit_path) -> None:
    tree = open_fit(fit_path)
    with pytest.raises(TslawError, match="several tasks"):
        load_posterior(tree)
    with pytest.raises(TslawError, match=r"does not hold the task 'other'(.|\n)*one of simulated, facts"):
        load_posterior(tree, "other")


def test_a_single_task_needs_no_name(scattered_fit, tmp_path) -> None:
    path = save_fit(join_tasks([scattered_fit], {}), tmp_path / "deep" / "one.nc")
    found = load_posterior(open_fit(path))
    assert (found.task, found.arms) == ("facts", scattered_fit.data.arms)


def test_nothing_is_overwritten_unless_asked(scattered_fit, tmp_path) -> None:
    tree, path = join_tasks([scattered_fit], {}), tmp_path / "fit.nc"
    path.write_text("precious")
    with pytest.raises(TslawError, match="not overwritten"):
        save_fit(tree, path)
    assert path.read_text() == "precious"
    save_fit(tree, path, overwrite=True)
    assert task_names(open_fit(path)) == ["facts"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_changes_nothing(scattered_fit, tmp_path) -> None:
    tree, path = join_tasks([scattered_fit], {}), tmp_path / "fit.nc"
    path.mkdir()
    with pytest.raises(TslawError, match="could not be written"):
        save_fit(tree, path, overwrite=True)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"not netCDF at all", b"\x89HDF\r\n\x1a\n" + b"\0" * 100])
def test_damaged_files_give_one_clear_message(content, tmp_path) -> None:
    path = tmp_path / "broken.nc"
    path.write_bytes(content)
    with pytest.raises(TslawError, match="cannot be read as netCDF4"):
        open_fit(path)


def test_cut_and_missing_and_foreign_files(scattered_path, tmp_path) -> None:
    whole = scattered_path.read_bytes()
    cut = tmp_path / "cut.nc"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TslawError, match="cannot be read"):
        open_fit(cut)
    with pytest.raises(TslawError, match="no such file"):
        open_fit(tmp_path / "absent.nc")
    with pytest.raises(TslawError, match="no such file"):
        open_fit(tmp_path)
    foreign = tmp_path / "foreign.nc"
    xr.Dataset({"a": ("x", [1.0])}).to_netcdf(foreign, engine="netcdf4")
    with pytest.raises(TslawError, match="no schema at all"):
        open_fit(foreign)
    measurement = save_dataset(good_dataset(), tmp_path / "measured.nc")
    with pytest.raises(TslawError, match=r"tslaw-measurement(.|\n)*fit a measurement first"):
        open_fit(measurement)


def test_fits_of_another_version_are_refused(scattered_fit, tmp_path) -> None:
    tree = join_tasks([scattered_fit], {})
    tree.attrs["schema_version"] = 99
    with pytest.raises(TslawError, match="another version"):
        open_fit(save_fit(tree, tmp_path / "new.nc"))


def _rediagnosed(fit: TaskFit, **posterior: np.ndarray) -> tuple[str, ...]:
    draws = Draws(fit.draws.posterior | posterior, fit.draws.sample_stats, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return diagnose(draws, fit.data)[0].failures


def test_diagnostics_notice_chains_that_disagree_and_a_chain_alone(scattered_fit) -> None:
    fit = scattered_fit
    apart = fit.draws.posterior["alpha"] + np.array([[0.0], [0.5]])
    assert any(f.startswith(("R-hat 1.", "R-hat 2.")) for f in _rediagnosed(fit, alpha=apart))
    alone = {name: values[:1] for name, values in fit.draws.posterior.items()}
    stats = {name: values[:1] for name, values in fit.draws.sample_stats.items()}
    assert "R-hat needs at least two chains" in diagnose(Draws(alone, stats, 0.0), fit.data)[0].failures


def test_diagnostics_notice_divergences(scattered_fit) -> None:
    fit = scattered_fit
    stats = fit.draws.sample_stats | {"diverging": np.arange(2 * SHORT.samples).reshape(2, SHORT.samples) < 7}
    found = diagnose(Draws(fit.draws.posterior, stats, 0.0), fit.data)[0]
    assert f"7 divergent transitions of {2 * SHORT.samples}" in found.failures
    assert not found.passed


def test_the_misfit_is_that_of_replicates_and_measurement(two_fits, fit_path) -> None:
    tree = open_fit(fit_path)
    for fit in two_fits:
        found, seen = misfit(tree, fit.data.task), fit.data.accuracy()[0]
        drawn = fit.predictive.reshape(-1, *seen.shape)
        errors = [
            (float(np.median(drawn[:, i, k]) - seen[i, k]), arm, int(budget))
            for i, arm in enumerate(fit.data.arms)
            for k, budget in enumerate(fit.data.budgets)
        ]
        inside = [
            np.quantile(drawn[:, i, k], 0.05) <= seen[i, k] <= np.quantile(drawn[:, i, k], 0.95)
            for i in range(seen.shape[0])
            for k in range(seen.shape[1])
        ]
        assert found.inside == pytest.approx(np.mean(inside))
        assert found.rms == pytest.approx(np.sqrt(np.mean([e[0] ** 2 for e in errors])))
        largest = max(errors, key=lambda e: abs(e[0]))
        assert (abs(found.largest), found.arm, found.budget) == (pytest.approx(abs(largest[0])), *largest[1:])


def test_a_fit_can_be_stored_with_fewer_draws(fit_path, tmp_path) -> None:
    whole = open_fit(fit_path)
    path = save_fit(thinned_fit(whole, 3), tmp_path / "few.nc")
    few = open_fit(path)
    for group in ("posterior", "sample_stats"):
        assert dict(few[group].sizes) == dict(whole[group].sizes) | {"draw": -(-whole[group].sizes["draw"] // 3)}
    np.testing.assert_array_equal(few["posterior"]["alpha"], whole["posterior"]["alpha"].values[:, ::3])
    assert few.attrs["diagnostics"] == whole.attrs["diagnostics"]
    assert json.loads(few.attrs["provenance"])["stored"] == "1 draw of 3"
    task = str(whole["posterior"]["task"].values[0])
    assert load_posterior(few, task).n_draws == load_posterior(whole, task).n_draws // 3
    assert thinned_fit(whole, 1) is whole
