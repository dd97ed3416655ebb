"""The crossover and the decision behind it against bisection and dense grids, censoring, and the lattice version."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import Truth, draw_truth, posterior_of, reference_sizes, template

from reference import surface_reference as reference
from tslaw.errors import TslawError
from tslaw.fit.crossover import Crossover, crossover, last_crossing, lattice_crossover
from tslaw.memory import kv_bytes_per_token, weight_bytes

N_PROBLEMS = 12
DATA = template(N_PROBLEMS)


def cheap_thinking(seed: int) -> Truth:
    """Thinking costs next to nothing, so every size gains by thinking to the end: W+ lies below the family."""
    return draw_truth(seed, DATA) | {"mu0": np.asarray(np.log(3.0))}


def costly_thinking(seed: int) -> Truth:
    """The cache of a finished thought dwarfs any weights, so those are the better buy: W+ lies above the family."""
    return draw_truth(seed, DATA) | {"mu0": np.asarray(13.0)}


TRUTHS = [draw_truth(seed, DATA) for seed in (100, 101, 102)] + [cheap_thinking(103), costly_thinking(104)]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((8.0, 1.0), id="8-bit", marks=pytest.mark.slow),
        pytest.param((4.0, 4.0), id="4-bit, batch 4"),
    ],
)
def found(request) -> Crossover:
    bits, batch = request.param
    return crossover(posterior_of(TRUTHS, DATA), bits, batch)


def test_the_crossover_is_where_slow_search_finds_it(found) -> None:
    sizes = reference_sizes(DATA, found.weight_bits)
    expected = np.array([reference.crossover(t, sizes, found.weight_bits, found.batch) for t in TRUTHS])
    assert found.draws == pytest.approx(expected, rel=0.01)
    assert (expected[3], expected[4]) == (-np.inf, np.inf)
    assert np.isfinite(expected[:3]).all() or found.batch > 1
    assert (found.summary.p_above, found.summary.p_below) == (
        np.isposinf(expected).mean(),
        np.isneginf(expected).mean(),
    )


def test_saturation_gain_and_regret_at_single_sizes(found) -> None:
    sizes, bits, batch = reference_sizes(DATA, found.weight_bits), found.weight_bits, found.batch
    for i, truth in enumerate(TRUTHS[:3]):
        for k in (0, 20, 45, 64):
            log_n = sizes.log_n_at_weight(found.weight[k])
            x, weight, _ = sizes.at_log_n(log_n)
            assert weight == pytest.approx(found.weight[k])
            assert found.saturation[i, k] == pytest.approx(reference.saturation_tokens(truth, x, bits), rel=2e-3)
            gain = reference.log_gain(truth, sizes, log_n, bits, batch)
            assert found.log_gain[i, k] == pytest.approx(gain, abs=0.01)
            memory = reference.saturation_memory(truth, sizes, log_n, bits, batch)
            own = reference.SATURATION * reference.ceiling(truth, x, bits)
            best_n = sizes.log_n_at_weight(weight * np.exp(gain))
            best = reference.accuracy_at_memory(truth, sizes, best_n, bits, batch, memory)[1]
            assert found.regret[i, k] == pytest.approx(best - own, abs=5e-4)
            assert found.regret[i, k] >= 0


def test_saturation_beyond_the_measured_budgets_is_reported(found) -> None:
    assert found.p_beyond_budgets == pytest.approx((found.saturation > 32000).mean(axis=0))


def test_last_crossing_finds_roots_and_sides() -> None:
    log_weight = np.log([1.0, 2.0, 4.0, 8.0])
    gains = np.array([[3, 1, -1, -2], [1, 1, 1, 0.5], [-1, -1, -1, -1], [1, -1, 1, -3], [1, 1, 1, 0]], float)
    expected = [np.sqrt(8.0), np.inf, -np.inf, np.exp(np.log(4) + np.log(2) / 4), 8.0]
    assert last_crossing(gains, log_weight) == pytest.approx(expected)


def reference_lattice(truth: Truth, bits: float, batch: float) -> dict[str, float]:
    """Accuracy gained by the best bigger model at every model's saturation memory."""

    def arm(model: str) -> tuple[int, float, float]:
        i = list(zip(DATA.models, DATA.weight_bits, strict=True)).index((model, bits))
        shape = DATA.shapes[model]
        return i, weight_bytes(shape, bits, "checkpoint"), kv_bytes_per_token(shape)

    def best(i: int, tokens: float) -> float:
        return max(reference.arm_accuracy(truth, DATA, i, t) for t in tokens * np.exp(-np.linspace(0, 8, 200)))

    models, gains = sorted(DATA.shapes, key=lambda m: arm(m)[1]), {}
    for k, model in enumerate(models):
        i, weight, kv = arm(model)
        own = reference.SATURATION * best(i, 16.0 * DATA.budgets.max())
        low, high = 0.0, np.log(16.0 * DATA.budgets.max())
        for _ in range(50):
            middle = (low + high) / 2
            reached = reference.arm_accuracy(truth, DATA, i, np.exp(middle)) >= own
            low, high = (low, middle) if reached else (middle, high)
        memory = weight / batch + kv * np.exp(high)
        others = []
        for bigger in models[k + 1 :]:
            i2, weight2, kv2 = arm(bigger)
            tokens = (memory - weight2 / batch) / kv2
            others.append(best(i2, tokens) if tokens > 0 else -np.inf)
        gains[model] = max(others, default=-np.inf) - own
    return gains


def test_the_lattice_version_agrees_with_trying_every_model() -> None:
    truths = TRUTHS[:3]
    found = lattice_crossover(posterior_of(truths, DATA), 8)
    gains = [reference_lattice(t, 8, 1) for t in truths]
    for k, model in enumerate(found.models):
        expected = np.array([g[model] for g in gains])
        assert found.p_bigger[k] == (expected > 0).mean()
        assert found.regret[:, k] == pytest.approx(np.maximum(expected, 0), abs=1e-3)
    assert found.p_bigger[-1] == 0


@pytest.mark.parametrize("batch", [0.0, 0.99, -3.0, float("nan"), float("inf")])
def test_a_batch_that_makes_no_sense(batch) -> None:
    posterior = posterior_of(TRUTHS[:1], DATA)
    for estimand in (crossover, lattice_crossover):
        with pytest.raises(TslawError, match="batch"):
            estimand(posterior, 8, batch)


def test_bits_that_make_no_sense_or_were_not_measured() -> None:
    posterior = posterior_of(TRUTHS[:1], DATA)
    with pytest.raises(TslawError):
        crossover(posterior, 99)
    with pytest.raises(TslawError, match="Fewer than two models were measured at 6"):
        lattice_crossover(posterior, 6)
