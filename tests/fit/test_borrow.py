"""Priors from an earlier fit: what is taken over, how it moves with the reference, and what it is worth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from cache_truths import cache_template, cache_truth
from numpyro import handlers
from simulated import posterior_of
from test_means import empty_means, means_of, moments_of, population

from tslaw.errors import TslawError
from tslaw.fit import means_infer
from tslaw.fit.borrow import NEVER, OF_THE_TASK, Borrowed, Borrowing, at_reference, default_sites
from tslaw.fit.cache_terms import cache_terms
from tslaw.fit.fit_file import join_tasks, load_posterior, open_fit, save_fit, task_names
from tslaw.fit.infer import Draws, Sampling
from tslaw.fit.means_check import check_means, replicated_means
from tslaw.fit.means_data import MeansData
from tslaw.fit.means_file import MeansFit
from tslaw.fit.model import OF_UNIT, POPULATION, SAMPLED, Prior, logit_unit, sample_parameters, sample_population
from tslaw.fit.predict import predict_accuracy
from tslaw.fit.pseudo_problems import pseudo_problems
from tslaw.fit.surface import ability, relapse_rate, slip_rate
from tslaw.policy import parse_kv_policy

ALL_SIZES = ("Qwen3-0.6B", "Qwen3-1.7B", "Qwen3-4B", "Qwen3-8B", "Qwen3-14B", "Qwen3-32B")
SPREAD = 0.15
"""How well the earlier fit knows everything: by this on the unconstrained scale."""


def earlier(folder: Path, truth: dict[str, np.ndarray], data: MeansData, task: str = "simulated") -> Path:
    """A fit file whose draws are scattered around a truth."""
    data = replace(data, task=task)
    rng = np.random.default_rng(0)
    drawn = {}
    for name, value in truth.items():
        noise = SPREAD * rng.standard_normal((2, 200, *value.shape))
        real = name in ("theta0", "bend", "gamma_w", "mu0", "mu1", "mu2", "rho", "misfit") or name[:-1] in (
            "late",
            "slip",
            "relapse",
        )
        drawn[name] = value + noise if real else value * np.exp(noise)
    drawn["kept"], drawn["own_length_share"] = (np.clip(drawn[n], 0, 0.99) for n in ("kept", "own_length_share"))
    draws, points = Draws(drawn, {"lp": np.zeros((2, 200))}, 1.0), pseudo_problems()
    diagnosis, k = check_means(draws, data, points)
    fit = MeansFit(data, draws, points, replicated_means(draws, data, points, 0), diagnosis, k)
    return save_fit(join_tasks([fit], {"inputs": {}}), folder / f"{task}.nc", overwrite=True)


@pytest.fixture(scope="module")
def family() -> tuple[dict[str, np.ndarray], MeansData]:
    """Six sizes at three bit widths, and their truth."""
    data = empty_means(models=ALL_SIZES, bits=(16, 8, 4))
    truth = population(3, data)
    return truth, means_of(truth, data, 3)


@pytest.fixture(scope="module")
def path(family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    truth, data = family
    return earlier(tmp_path_factory.mktemp("earlier"), truth, data)


def test_a_fit_of_means_is_read_like_any_other(family, path: Path) -> None:
    data = family[1]
    tree = open_fit(path)
    assert task_names(tree) == ["simulated"]
    posterior = load_posterior(tree)
    assert posterior.arms == data.arms
    assert posterior.params["difficulty"].shape == (400, 64)
    assert posterior.params["model_effect"].shape == (400, 6, 64)
    assert posterior.params["own_length"].shape == (400, 18, 64)
    arms = {a.model: a for a in posterior.family_arms("checkpoint") if a.weight_bits == 4}
    found = posterior.arm_accuracy(arms["Qwen3-4B"], np.array([32000.0]))
    r = data.arms.index("Qwen3-4B:w4:full")
    assert posterior.params["model_slip"].shape == (400, 6)
    draw = {n: posterior.params[n][7] for n in (*POPULATION, "misfit")}
    assert found[7, 0] == pytest.approx(float(moments_of(draw, data, pseudo_problems()).mean[r]), abs=1e-5)


def test_what_belongs_to_a_task_is_not_taken_to_another(family, path: Path) -> None:
    data = family[1]
    same = set(Borrowing(path).of(data))
    other = set(Borrowing(path).of(replace(data, task="another")))
    assert {name.removesuffix(OF_UNIT) for name in same - other} == set(OF_THE_TASK)
    assert not same & set(NEVER)
    assert {"alpha_rel", "delta_w_rel", "sigma_len_excess", "mu1"} <= other
    assert "bend" not in same, f"the default prior is narrower than {SPREAD}"


def test_moments_are_the_posteriors_and_wider(family, path: Path) -> None:
    data = family[1]
    posterior = load_posterior(open_fit(path))
    found = Borrowing(path, width=0.25).of(data)
    # The default prior of alpha is half normal: its logarithm has a standard deviation of pi / sqrt(8).
    known = np.log(posterior.params["alpha"] / logit_unit(posterior.params["sd_difficulty"]))
    assert found["alpha_rel"].location == pytest.approx(known.mean(), abs=1e-6)
    assert found["alpha_rel"].scale == pytest.approx(np.hypot(known.std(), 0.25 * np.pi / np.sqrt(8)), rel=0.03)
    assert found["alpha_rel"].support == "positive"
    assert found["kept"].support == "share"
    assert found["gamma_w"].scale == pytest.approx(np.hypot(posterior.params["gamma_w"].std(), 0.25 * 0.5), rel=0.03)
    assert Borrowing(path, width=1.0).of(data) == {}, "no narrower than the default: nothing learned"


def test_the_prior_draws_what_was_borrowed(family, path: Path) -> None:
    """Also for data on single problems: the model draws its population here."""
    data = family[1]
    prior = Prior(borrowed=Borrowing(path).of(data))

    def one(key: jax.Array) -> dict[str, jax.Array]:
        with handlers.seed(rng_seed=key):
            return sample_population(prior, np.array([1000.0, 4000.0, 16000.0]), 0.25)

    drawn = jax.vmap(one)(jax.random.split(jax.random.PRNGKey(0), 4000))
    alpha = np.log(drawn["alpha"] / logit_unit(drawn["sd_difficulty"]))
    kept = np.log(drawn["kept"]) - np.log1p(-drawn["kept"])
    for name, values in (("alpha_rel", alpha), ("kept", kept), ("gamma_w", drawn["gamma_w"])):
        assert float(values.mean()) == pytest.approx(prior.borrowed[name].location, abs=0.06), name
        assert float(values.std()) == pytest.approx(prior.borrowed[name].scale, rel=0.05), name
    # The new budgets, not the old, decide how short a spread of lengths can be told.
    assert float(drawn["sigma_len"].min()) >= 0.25 * np.log(4.0) - 1e-9


def test_another_reference_is_the_same_surface(family, path: Path) -> None:
    posterior = load_posterior(open_fit(path))
    elsewhere = 3e9
    moved = at_reference(posterior, elsewhere)
    shift = np.log(elsewhere / posterior.reference_size)
    for x in (-1.0, 0.5):
        for bits in (16.0, 4.0):
            before = {n: jax.numpy.asarray(v) for n, v in posterior.params.items() if v.ndim == 1}
            after = {n: jax.numpy.asarray(v) for n, v in moved.items()}
            at, there = jax.numpy.asarray(x + shift), jax.numpy.asarray(x)
            for of in (lambda p, z, b=bits: ability(p, z, jax.numpy.asarray(b)), slip_rate):
                assert np.allclose(of(before, at), of(after, there))
            width = jax.numpy.asarray(bits)
            assert np.allclose(relapse_rate(before, at, width), relapse_rate(after, there, width))


def test_costs_of_compressed_caches_move_with_the_reference_too() -> None:
    data = cache_template(4)
    posterior = posterior_of([cache_truth(i, data) for i in range(3)], data)
    moved = at_reference(posterior, posterior.reference_size * np.exp(0.5))
    before, after = ({n: jax.numpy.asarray(v) for n, v in of.items()} for of in (posterior.params, moved))
    nothing = dict.fromkeys(data.cache_kinds, jax.numpy.zeros(3))
    for policy in ("quantized:4", "rkv:2048", "streaming:512+quantized:2"):
        parsed = parse_kv_policy(policy)
        there, here = (
            cache_terms(p, parsed, jax.numpy.asarray(x), nothing, jax.numpy.zeros(3))
            for p, x in ((before, 0.8), (after, 0.3))
        )
        for a, b in zip(jax.tree.leaves(there), jax.tree.leaves(here), strict=True):
            assert np.allclose(a, b)


@pytest.mark.slow
def test_costs_of_the_caches_that_both_have_are_borrowed(path: Path) -> None:
    """By a task with another evictor besides: of that there is nothing to learn, and its prior is the default."""
    seen = cache_template(4, ("full", "quantized:4", "rkv:2048"))
    truths = [cache_truth(i, cache_template(4)) for i in range(40)]
    known = posterior_of([{n: v for n, v in t.items() if "streaming" not in n} for t in truths], seen)
    borrowing = Borrowing(path)
    borrowing._posteriors = {"simulated": known}
    found = borrowing.of(cache_template(4))
    assert {"delta_kv", "kappa_kv", "found_rkv", "power_rkv", "gamma_evict"} <= set(found)
    assert not [name for name in found if "streaming" in name]
    assert not [name for name in borrowing.of(cache_template(4, ("full", "quantized:2"))) if "rkv" in name]
    assert found["delta_kv"].location == pytest.approx(np.log(known.params["delta_kv"]).mean(), abs=0.05)

    def one(key: jax.Array) -> dict[str, jax.Array]:
        with handlers.seed(rng_seed=key):
            return sample_parameters(cache_template(4), Prior(borrowed=found))

    drawn = jax.vmap(one)(jax.random.split(jax.random.PRNGKey(0), 2000))
    rkv, streaming = (np.asarray(drawn[name]) for name in ("found_rkv", "found_streaming"))
    assert np.log(rkv).mean() == pytest.approx(found["found_rkv"].location, abs=0.06)
    assert np.log(rkv).std() == pytest.approx(found["found_rkv"].scale, rel=0.06)
    assert streaming.mean() == pytest.approx(np.sqrt(2.0 / np.pi), rel=0.06)


def test_a_trend_is_not_followed_beyond_the_sizes_seen(family, path: Path) -> None:
    data = family[1]
    posterior = load_posterior(open_fit(path))
    largest, beyond = (at_reference(posterior, n) for n in (32.762e9, 1e15))
    assert np.allclose(largest["delta_w"], beyond["delta_w"], rtol=1e-4)
    far = data.with_reference_size(1e15)
    assert {"theta0", "mu0"} & set(Borrowing(path).of(far)) == set()


def test_without_a_namesake_all_tasks_are_learned_from(family, tmp_path: Path) -> None:
    truth, data = family
    one = load_posterior(open_fit(earlier(tmp_path, truth, data)))
    two = replace(one, task="second", params=one.params | {"mu1": one.params["mu1"] + 0.4})
    both = Borrowing(tmp_path / "simulated.nc")
    both._posteriors = {"simulated": one, "second": two}
    other = replace(data, task="third")
    assert both.sources("third") == ["simulated", "second"]
    assert both.sources("second") == ["second"]
    found, alone = both.of(other)["mu1"], Borrowing(tmp_path / "simulated.nc").of(other)["mu1"]
    assert found.location == pytest.approx(alone.location + 0.2, abs=1e-6)
    assert found.scale == pytest.approx(np.hypot(alone.scale, 0.2), rel=1e-6)


def test_bad_arguments(path: Path, tmp_path: Path) -> None:
    with pytest.raises(TslawError, match="does not hold the task 'history'"):
        Borrowing.parse(f"{path}:history")
    with pytest.raises(TslawError, match="no such file"):
        Borrowing.parse(str(tmp_path / "absent.nc"))
    with pytest.raises(TslawError, match="makes no sense"):
        Borrowing.parse(str(path), width=float("nan"))
    assert Borrowing.parse(f"{path}:simulated").task == "simulated"


def test_borrowed_distributions_keep_their_support() -> None:
    for support, low, high in (("real", -np.inf, np.inf), ("positive", 0.0, np.inf), ("share", 0.0, 1.0)):
        drawn = Borrowed(support, 0.3, 2.0).distribution().sample(jax.random.PRNGKey(0), (1000,))
        assert low <= float(drawn.min()) < float(drawn.max()) <= high


@pytest.mark.slow
def test_two_sizes_and_an_earlier_fit_tell_more_of_a_third(family, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another family of the same make, its own truth, two sizes of it: the accuracy of sizes it was not run at is known
    better with what the first family taught, and is still right."""
    monkeypatch.setattr(means_infer, "MOST_MOVES", 30)
    whole = empty_means(models=ALL_SIZES, bits=(16, 4))
    truth = population(5, whole)
    reported = means_of(truth, whole, 5)
    kept = [i for i, m in enumerate(whole.models) if m in ("Qwen3-1.7B", "Qwen3-8B")]
    data = _only(reported, kept, "another")
    unseen = [i for i, m in enumerate(whole.models) if m in ("Qwen3-4B", "Qwen3-32B")]
    sampling = Sampling(chains=4, samples=150, seed=2, progress=False)
    widths = {}
    for name, prior in (("alone", Prior()), ("after", Prior(borrowed=Borrowing(path).of(data)))):
        posterior = _posterior_of(data, means_infer.run_means(data, prior, sampling))
        ends = []
        for i in unseen:
            size = whole.reference_size * np.exp(whole.log_size[i])
            drawn = predict_accuracy(posterior, size, float(whole.weight_bits[i]), np.array([32000.0]))[:, 0]
            ends.append(np.quantile(drawn, (0.05, 0.95)))
            if name == "after":
                assert ends[-1][0] <= _true(truth, whole, i) <= ends[-1][1], whole.arms[i]
        widths[name] = np.array([high - low for low, high in ends])
    print({name: width.round(3).tolist() for name, width in widths.items()})
    assert (widths["after"] < widths["alone"]).all()
    assert widths["after"].sum() < 0.8 * widths["alone"].sum()


def _only(data: MeansData, arms: list[int], task: str) -> MeansData:
    """The data of some arms."""
    models = tuple(data.models[i] for i in arms)
    shapes = {m: data.shapes[m] for m in dict.fromkeys(models)}
    kept = np.isin(data.report_arm, arms)
    return replace(
        data,
        task=task,
        arms=tuple(data.arms[i] for i in arms),
        models=models,
        shapes=shapes,
        log_size=data.log_size[arms],
        weight_bits=data.weight_bits[arms],
        report_arm=np.array([arms.index(a) for a in data.report_arm[kept]]),
        report_budget=data.report_budget[kept],
        report_accuracy=data.report_accuracy[kept],
        report_answers=data.report_answers[kept],
    )


def _posterior_of(data: MeansData, draws: Draws):
    points = pseudo_problems()
    diagnosis, k = check_means(draws, data, points)
    fit = MeansFit(data, draws, points, replicated_means(draws, data, points, 0), diagnosis, k)
    return load_posterior(join_tasks([fit], {}))


def _true(truth: dict[str, np.ndarray], data: MeansData, arm: int) -> float:
    return float(moments_of(truth, data, pseudo_problems(1024)).mean[arm])


def test_every_site_of_the_default_prior_can_be_borrowed(family) -> None:
    assert set(default_sites(family[1])) == set(SAMPLED)
