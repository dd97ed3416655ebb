"""What compressed caches cost, against integrals and small steps (reference/cache_reference.py)."""

from __future__ import annotations

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cache_truths import POLICIES, cache_template, cache_truth
from cells import cell_log_likelihood
from simulated import correct_of, draw_truth, posterior_of, template, with_outcomes
from test_lengths import as_params, at_length

from reference import cache_reference, likelihood_reference, surface_reference
from tslaw.errors import TslawError
from tslaw.fit import cache_terms
from tslaw.fit.cache_prior import cache_sites
from tslaw.fit.infer import rough_start
from tslaw.fit.lengths import cells_by_own_length, length_grid, problem_log_likelihood, relapse_chain, row_table
from tslaw.fit.model import Prior, state_table
from tslaw.fit.simulate import simulate_task
from tslaw.policy import FULL, parse_kv_policy


@pytest.mark.parametrize("exponent", [0.0, 0.4, 3.0])
@pytest.mark.parametrize("kept", [-2.0, -0.1, 0.3, 4.0])
def test_found_by_is_the_integral_over_lengths(kept, exponent) -> None:
    for slack in (-2.5, -0.1, 0.2, 1.0, 5.0):
        for spread in (0.2, 0.8):
            expected = cache_reference.found_by(slack, kept, spread, exponent)
            found = cache_terms.found_by(*(jnp.asarray(v) for v in (slack, kept, spread, exponent)))
            assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_found_by_stays_finite_far_outside() -> None:
    """Nothing overflows where a large factor meets a small probability, nor does the slope."""
    slope_of = jax.jit(jax.value_and_grad(cache_terms.found_by, argnums=3))
    for slack, kept in ((30.0, 29.0), (-30.0, 29.0), (30.0, -30.0)):
        for dtype in (jnp.float32, jnp.float64):
            args = [jnp.asarray(v, dtype) for v in (slack, kept, 0.2, 6.0)]
            value, slope = slope_of(*args)
            assert np.isfinite([float(value), float(slope)]).all()
            assert 0.0 <= float(value) <= 1.0


def test_bits_of_the_cache_do_a_share_of_the_damage_of_two() -> None:
    bits = np.array([2.0, 3.0, 4.0, 6.0, 8.0, 16.0])
    found = np.asarray(cache_terms.kv_bit_shape(jnp.asarray(bits), jnp.asarray(0.9)))
    assert found == pytest.approx([cache_reference.damage({"kappa_kv": 0.9}, b) for b in bits])
    assert found[0] == pytest.approx(1.0)
    assert found[-1] == pytest.approx(0.0, abs=1e-12)
    assert (np.diff(found) < 0).all()


def test_parameters_are_those_of_the_kinds_that_occur() -> None:
    assert cache_terms.site_names(()) == ()
    rounding = cache_terms.site_names(cache_terms.kinds_in([parse_kv_policy("quantized:4"), FULL]))
    assert "delta_kv" in rounding
    assert not {"gamma_evict", "reach", "sd_kv_cut"} & set(rounding)
    assert {"sd_kv", "sd_kv_own"} < set(rounding)
    hybrid = cache_terms.site_names(cache_terms.kinds_in([parse_kv_policy("rkv:64+quantized:2")]))
    assert {"delta_kv", "found_rkv", "loss_rkv", "onset_rkv", "worth_rkv", "reach", "sd_kv_cut"} < set(hybrid)
    assert "found_streaming" not in hybrid


def test_data_without_compressed_caches_gain_no_parameter() -> None:
    data = simulate_task(empty := template(4, (16, 4)), draw_truth(1, empty), 2, 0)
    assert data.policies == ()
    assert cache_sites(data) == ()
    assert not {"sd_kv", "kv_level", "kv_own_level", "kv_cut_level"} & set(rough_start(data, Prior()))
    compressed = cache_template(4)
    compressed = simulate_task(compressed, cache_truth(1, compressed), 2, 0)
    assert set(cache_sites(compressed)) == set(rough_start(compressed, Prior())) - set(rough_start(data, Prior()))


@pytest.fixture(scope="module")
def task():
    """Every kind of cache, some probes not measured."""
    empty = cache_template(4)
    truth = cache_truth(2, empty)
    correct = correct_of(simulate_task(empty, truth, 5, seed=0))
    correct[3, 1, 3:] = -2
    return with_outcomes(empty, correct, shared=True), truth, correct


@pytest.mark.slow
def test_full_caches_are_untouched_by_others_beside_them(task) -> None:
    """Bit by bit: the states and chains of the full arms are what they are without the compressed ones."""
    data, truth, _ = task
    full = np.flatnonzero(data.full_cache())
    alone = replace(
        data,
        arms=tuple(data.arms[i] for i in full),
        models=tuple(data.models[i] for i in full),
        log_size=data.log_size[full],
        weight_bits=data.weight_bits[full],
        policies=(),
    )
    params = as_params(truth, data)
    fewer = as_params(truth | {n: truth[n][full] for n in ("misfit", "own_length")}, alone)
    assert (np.asarray(state_table(params, data))[full] == np.asarray(state_table(fewer, alone))).all()
    chain, lone = relapse_chain(params, data), relapse_chain(fewer, alone)
    assert (np.asarray(chain.decay)[full] == np.asarray(lone.decay)).all()
    assert (np.asarray(chain.kept)[full] == float(lone.kept)).all()


def test_cells_against_integrals_and_every_path(task) -> None:
    """The whole path from parameters to the likelihood of trajectories thought with compressed caches."""
    data, truth, correct = task
    found = np.asarray(jax.jit(lambda p: cell_log_likelihood(p, data))({k: jnp.asarray(v) for k, v in truth.items()}))
    log_budgets = np.log(data.budgets)
    points = np.exp([2 * log_budgets[0] - log_budgets[1], *log_budgets])
    for i, policy in enumerate(data.kv_policies):
        x, model = float(data.log_size[i]), int(data.model_index()[i])
        own = surface_reference.of_model(truth, model)
        misfit = dict(zip(data.cache_kinds, truth["kv_misfit"][model], strict=True))
        ability, of_rounding, of_cache = 0.0, 0.0, float(truth["kv_own"][i])
        assert of_cache != 0.0 or policy == FULL
        if policy.bits < 16:
            ability, of_rounding = cache_reference.rounding(truth, policy, x, misfit["quantized"] + of_cache)
        evictor_misfit = misfit.get(policy.evictor or "", 0.0)
        typical = surface_reference.log_length(own, x, 16.0)
        clock = np.exp(float(truth["relapse_power"]) * (np.log(points) - typical))
        lost = of_rounding * clock
        if policy.evictor:
            lost = lost + [
                cache_reference.evicted_losses(truth, policy, x, evictor_misfit, of_cache, t) for t in points
            ]
        odds = surface_reference.slip(own, x) / (1.0 - surface_reference.slip(own, x)) * np.exp(truth["kv_cut"][i])
        slips = (odds / (1.0 + odds)).tolist()
        rate = np.exp(own["relapse0"] + truth["relapse1"] * x)
        chain = [
            cache_reference.decay_and_kept(rate, float(truth["kept"]), a, b)
            for a, b in zip(np.diff(clock), np.diff(lost), strict=True)
        ]
        for j in range(len(data.problems)):
            longer = float(truth["rho"] * truth["difficulty"][j] + truth["length"][j] + truth["own_length"][i, j])
            late = float(surface_reference.late_share(own, np.array(longer), x, 16.0))
            logit = surface_reference.ability(truth, x, 16.0) + truth["misfit"][i] - ability
            q = 1 / (1 + np.exp(-(logit - truth["difficulty"][j] + truth["model_effect"][model, j])))
            finished = [
                cache_reference.finished(truth, policy, x, evictor_misfit, of_cache, typical + longer, late, t)
                for t in data.budgets
            ]
            expected = sum(
                np.log(
                    likelihood_reference.pattern_probability(
                        pattern,
                        float(q),
                        finished,
                        float(truth["guess"]),
                        slips,
                        [decay for decay, _ in chain],
                        [kept for _, kept in chain],
                    )
                )
                for pattern in correct[i, j]
                if (pattern >= 0).any()
            )
            assert found[i, j] == pytest.approx(expected, rel=2e-3), (data.arms[i], j)


def test_every_node_agrees_with_the_likelihood_of_that_length(task) -> None:
    data, truth, _ = task
    grid, params = length_grid(data.budgets), as_params(truth, data)
    found = np.asarray(jax.jit(lambda p: cells_by_own_length(p, data, grid, row_table(data), p["effect"]))(params))
    each = jax.jit(lambda p: cell_log_likelihood(p, data))
    for g in range(0, len(grid.log_length), 7):
        cells = np.asarray(each(as_params(at_length(truth, grid.log_length[g]), data)))
        assert found[:, :, g] == pytest.approx(cells.T, rel=1e-5, abs=1e-3)


@pytest.mark.slow
def test_every_parameter_takes_effect(task) -> None:
    data, truth, _ = task
    grid, rows = length_grid(data.budgets), row_table(data)
    params = as_params(truth, data)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(problem_log_likelihood(p, data, grid, rows))))(params)
    acts = {"kv_own": ~data.full_cache(), "kv_cut": truth["kv_cut"] != 0}
    spreads = ("sd_kv", "sd_kv_own", "sd_kv_cut")  # they act through the effects' priors
    for name in (*cache_terms.site_names(data.cache_kinds), "kv_misfit", "kv_own", "kv_cut"):
        slope = np.asarray(gradient[name])[acts.get(name, ...)]
        assert np.isfinite(slope).all(), name
        assert (slope != 0).all() or name in spreads, name


def test_compression_costs_what_it_should(task) -> None:
    """Of a known truth: the fewer bits and kept tokens the worse, hybrids worst, short thinking as it was."""
    data, truth, _ = task
    posterior = posterior_of([truth | {"kv_misfit": np.zeros_like(truth["kv_misfit"])}], data)
    x = posterior.log_size("Qwen3-8B")
    tokens, misfit = np.array([500.0, 4000.0, 16000.0]), np.zeros(1)
    found = {}
    for text in ("full", "quantized:8", "quantized:2", "rkv:4096", "rkv:2048", "rkv:2048+quantized:2"):
        policy = parse_kv_policy(text)
        kinds = {kind: jnp.zeros(1) for kind in data.cache_kinds}
        cache = posterior.cache_draws(policy, x, kinds)
        found[text] = posterior.accuracy(x, 16.0, tokens, misfit, cache=cache)[0]
    order = ("full", "quantized:8", "quantized:2", "rkv:2048+quantized:2")
    for better, worse in itertools.pairwise(order):
        assert (found[better] >= found[worse] - 1e-12).all()
        assert (found[better] > found[worse])[1:].all()
    assert found["rkv:4096"][0] == pytest.approx(found["full"][0], abs=2e-3)
    assert found["full"][2] - 0.02 > found["rkv:4096"][2] > found["rkv:2048"][2] > found["rkv:2048+quantized:2"][2]
    with pytest.raises(TslawError, match="random"):
        posterior.cache_draws(parse_kv_policy("random:64"), x, {})


def test_a_measured_arms_curve_is_that_of_its_simulated_trajectories() -> None:
    """The curve that predictions are made of against many trajectories of the chain from budget to budget."""
    empty = cache_template(12, budgets=(1000, 1500, 2000, 3000, 4000, 6000, 8000, 12000, 16000))
    truth = cache_truth(3, empty)
    measured = simulate_task(empty, truth, 400, seed=1).accuracy()[0]
    posterior = posterior_of([truth], empty)
    arms = posterior.family_arms("equation", compressed=True)
    assert {str(arm.policy) for arm in arms} == set(POLICIES)
    assert {str(arm.policy) for arm in posterior.family_arms("equation")} == {"full"}
    for arm in arms:
        curve = posterior.arm_accuracy(arm, empty.budgets)[0]
        assert np.abs(curve - measured[arm.position]).max() < 0.03, str(arm.policy)
