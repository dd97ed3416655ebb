"""Fits of compressed caches: a known truth found again, and what is stored and asked of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from cache_truths import cache_template, cache_truth
from jax.flatten_util import ravel_pytree
from numpyro.infer.util import constrain_fn, unconstrain_fn
from simulated import SHORT

from tslaw.cli.app import main
from tslaw.errors import TslawError
from tslaw.fit.cache_terms import site_names
from tslaw.fit.data import TaskData
from tslaw.fit.diagnostics import diagnose
from tslaw.fit.fit_file import TaskFit, join_tasks, load_posterior, open_fit, save_fit
from tslaw.fit.fit_tasks import provenance
from tslaw.fit.infer import (
    Draws,
    dense_sites,
    laplace,
    rough_start,
    starting_mass,
)
from tslaw.fit.model import Prior, sample_parameters
from tslaw.fit.predictive import predictive_accuracy
from tslaw.fit.simulate import simulate_task
from tslaw.fit.subset import arms_at

POLICIES = ("full", "quantized:4", "quantized:2", "rkv:1024", "rkv:4096", "streaming:2048", "rkv:2048+quantized:2")
RECOVERED = ("delta_kv", "kappa_kv", "onset_rkv", "worth_rkv", "found_rkv", "found_streaming", "loss_rkv")


@pytest.mark.slow
def test_a_known_truth_is_found_again() -> None:
    """The mode lies where the truth is, by the curvature there; a fit whose terms meant something else would not."""
    empty = cache_template(24, POLICIES, models=("Qwen3-0.6B", "Qwen3-4B", "Qwen3-14B"))
    truth = cache_truth(5, empty)
    data, prior = simulate_task(empty, truth, 24, seed=2), Prior()
    mode, covariance, _ = laplace(data, prior, 300)
    _, unravel = ravel_pytree(mode)
    spread = unravel(jnp.sqrt(jnp.diag(covariance)))
    known = rough_start(data, prior) | {name: jnp.asarray(truth[name]) for name in RECOVERED}
    there = unconstrain_fn(sample_parameters, (data, prior), {}, known)
    for name in RECOVERED:
        z = (float(mode[name]) - float(there[name])) / float(spread[name])
        assert abs(z) < 3.5, (name, z)
        assert float(spread[name]) < 0.6, f"{name} is hardly known"
    dense = dense_sites(data)
    assert {*site_names(data.cache_kinds), "kv_level", "kv_own_level"} < set(dense)
    blocks = starting_mass(mode, covariance, dense)
    assert sum(len(np.diag(b)) if b.ndim == 2 else len(b) for b in blocks.values()) == len(covariance)
    found = constrain_fn(sample_parameters, (data, prior), {}, mode, return_deterministic=True)
    assert found["kv_misfit"].shape == (3, 3)
    assert (found["kv_own"][data.full_cache()] == 0).all()
    assert (found["kv_cut"] != 0).sum() == 3 * 12, "a number for every budget beyond what is kept"


@pytest.fixture(scope="module")
def fit() -> TaskFit:
    """Draws scattered around a truth: what is stored does not depend on how they came about."""
    empty = cache_template(5)
    truth = cache_truth(4, empty)
    data, rng, shape = simulate_task(empty, truth, 4, 0), np.random.default_rng(0), (2, 40)
    scattered = {n: v * rng.lognormal(0.0, 0.05, (*shape, *v.shape)) for n, v in truth.items()}
    stats = {"diverging": np.zeros(shape, bool), "lp": rng.standard_normal(shape)}
    draws = Draws(scattered, stats, 0.0)
    return TaskFit(data, draws, predictive_accuracy(draws, data, 0), *diagnose(draws, data))


@pytest.fixture(scope="module")
def path(fit: TaskFit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = join_tasks([fit], provenance({}, SHORT, Prior(), 1.0))
    return save_fit(tree, tmp_path_factory.mktemp("caches") / "fit.nc")


@pytest.mark.slow
def test_a_fit_of_compressed_caches_comes_back_as_it_went_in(fit, path) -> None:
    data, found = fit.data, load_posterior(open_fit(path))
    assert dict(zip(found.arms, found.policies, strict=True)) == dict(data.arm_policies())
    assert found.cache_kinds == data.cache_kinds == ("quantized", "rkv", "streaming")
    assert set(found.params) == set(fit.draws.posterior)
    drawn = fit.draws.posterior["kv_misfit"].reshape(-1, len(data.shapes), 3)
    models = [list(data.shapes).index(model) for model in found.shapes]
    assert np.array_equal(found.params["kv_misfit"], drawn[:, models])
    places = [data.arms.index(arm) for arm in found.arms]
    assert np.array_equal(found.params["kv_own"], fit.draws.posterior["kv_own"].reshape(-1, len(data.arms))[:, places])
    cuts = fit.draws.posterior["kv_cut"].reshape(-1, len(data.arms), len(data.budgets))
    assert found.params["kv_cut"] == pytest.approx(cuts[:, places], abs=0.0005 + 1e-9)  # whole thousandths are stored
    assert len(found.family_arms("equation")) == 2


@pytest.mark.slow
def test_a_fit_of_an_earlier_surface_says_so(path) -> None:
    tree = open_fit(path)
    tree["posterior"] = tree["posterior"].dataset.drop_vars(["kv_own", "reach"])
    with pytest.raises(TslawError, match="it has no kv_own, reach") as error:
        load_posterior(tree)
    assert "--compressed-kv" in str(error.value)


@pytest.mark.slow
def test_the_commands_answer(path, capsys) -> None:
    def answer(*arguments: object) -> list[dict]:
        with pytest.raises(SystemExit) as exit_:
            main([str(a) for a in (*arguments, "--json")])
        assert not exit_.value.code
        return json.loads(capsys.readouterr().out)

    (found,) = answer("findings", path)
    assert {"any", "rounding", "eviction"} <= set(found["kv_compression"]["average_gain"])
    assert [c["kept"] for c in found["kv_compression"]["eviction_minus_rounding"]] == [[2048], [2048]]
    asked = ("predict", path, "--params", "4e9", "--token-budget", 16000)
    (full,), (small,) = answer(*asked), answer(*asked, "--kv-policy", "rkv:512")
    assert (full["kv_policy"], small["kv_policy"]) == ("full", "rkv:512")
    assert small["accuracy"] < full["accuracy"] - 0.05


@pytest.mark.slow
def test_tasks_with_and_without_compressed_caches_share_a_file(fit, tmp_path) -> None:
    plain = _without_caches(fit)
    path = save_fit(join_tasks([fit, plain], provenance({}, SHORT, Prior(), 1.0)), tmp_path / "both.nc")
    tree = open_fit(path)
    assert load_posterior(tree, "simulated").cache_kinds == ("quantized", "rkv", "streaming")
    alone = load_posterior(tree, "plain")
    assert alone.policies == ()
    assert set(alone.params) == set(plain.draws.posterior)


def _without_caches(fit: TaskFit) -> TaskFit:
    """The full arms of a fit as a fit of another task."""
    full = np.flatnonzero(fit.data.full_cache())
    data: TaskData = replace(arms_at(fit.data, full), task="plain", policies=())
    names = {*site_names(fit.data.cache_kinds), "kv_misfit", "kv_own", "kv_cut"}
    posterior = {n: v for n, v in fit.draws.posterior.items() if n not in names}
    posterior |= {n: posterior[n][:, :, full] for n in ("misfit", "own_length")}
    draws = Draws(posterior, fit.draws.sample_stats, 0.0)
    return TaskFit(data, draws, fit.predictive[:, :, full], fit.diagnosis, fit.pareto_k)
