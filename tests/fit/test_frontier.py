"""Frontier, recommendation and prediction against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from simulated import draw_truth, posterior_of, template

from reference import surface_reference as reference
from tslaw.errors import TslawError
from tslaw.fit.frontier import budget_grid, frontier, on_frontier, recommend
from tslaw.fit.predict import predict_accuracy
from tslaw.fit.surface import TRAITS
from tslaw.memory import GIB, kv_bytes_per_token, total_bytes, weight_bytes

DATA = template(8)
TRUTHS = [draw_truth(seed, DATA) for seed in (7, 8, 9, 10)]
POSTERIOR = posterior_of(TRUTHS, DATA)


def dominated(memory: np.ndarray, accuracy: np.ndarray, i: int) -> bool:
    """Whether some other configuration is as good or better for as little or less, and better in one of the two; of
    exact copies only the first counts."""
    for j in range(len(memory)):
        no_worse = memory[j] <= memory[i] and accuracy[j] >= accuracy[i]
        better = memory[j] < memory[i] or accuracy[j] > accuracy[i]
        if no_worse and (better or j < i):
            return True
    return False


@given(st.integers(1, 9), st.data())
def test_frontier_membership_is_pareto_optimality(n, data) -> None:
    memory = np.sort(data.draw(hnp.arrays(float, n, elements=st.sampled_from([1.0, 2.0, 3.0, 4.0]))))
    accuracy = data.draw(hnp.arrays(float, (2, n), elements=st.sampled_from([0.1, 0.2, 0.3, 0.4])))
    expected = [[not dominated(memory, a, i) for i in range(n)] for a in accuracy]
    assert on_frontier(memory, accuracy).tolist() == expected


def test_the_frontier_of_a_posterior() -> None:
    found = frontier(POSTERIOR, batch=2)
    memory = np.array([c.memory for c in found.configurations])
    assert (np.diff(memory) >= 0).all()
    expected = np.array([[not dominated(memory, a, i) for i in range(len(memory))] for a in found.accuracy])
    assert found.membership == pytest.approx(expected.mean(axis=0))
    for i in (0, 100, len(memory) - 1):
        c = found.configurations[i]
        needed = total_bytes(DATA.shapes[c.model], c.weight_bits, c.token_budget, batch=2, accounting="checkpoint")
        assert c.memory == pytest.approx(needed)
        arm = list(zip(DATA.models, DATA.weight_bits, strict=True)).index((c.model, c.weight_bits))
        for accuracy, truth in zip(found.accuracy[:, i], TRUTHS, strict=True):
            slow = reference.arm_accuracy(truth, DATA, arm, c.token_budget)
            assert accuracy == pytest.approx(slow, rel=1e-6)


def test_the_budget_grid_holds_the_measured_budgets() -> None:
    grid = budget_grid(POSTERIOR)
    assert set(DATA.budgets.astype(int)) <= set(grid.tolist())
    assert (grid.min(), grid.max()) == (DATA.budgets.min(), DATA.budgets.max())


@pytest.mark.parametrize(("memory", "batch"), [(2, 1), (4.5, 1), (20, 1), (3, 8), (500, 1)])
def test_a_recommendation_fits_and_is_the_best_of_what_fits(memory, batch) -> None:
    found = recommend(POSTERIOR, memory * GIB, batch)
    affordable = {}
    for i, (model, bits) in enumerate(zip(DATA.models, DATA.weight_bits, strict=True)):
        shape = DATA.shapes[model]
        left = memory * GIB - weight_bytes(shape, bits, "checkpoint") / batch
        tokens = min(left // kv_bytes_per_token(shape), DATA.budgets.max())
        if tokens >= DATA.budgets.min():
            choices = [*(t for t in budget_grid(POSTERIOR) if t < int(tokens)), int(tokens)]
            curves = [[reference.arm_accuracy(t, DATA, i, b) for t in TRUTHS] for b in choices]
            best_choice = int(np.argmax(np.mean(curves, axis=1)))
            affordable[model, bits, int(choices[best_choice])] = np.array(curves[best_choice])
    assert {c[:3] for c in found.options} == set(affordable)
    assert all(c.memory <= memory * GIB * (1 + 1e-12) for c in found.options)
    best = np.max(list(affordable.values()), axis=0)
    for k, option in enumerate(found.options):
        values = affordable[option[:3]]
        assert found.p_best[k] == (values == best).mean()
        assert found.expected_regret[k] == pytest.approx((best - values).mean(), abs=1e-9)
        assert found.accuracy[:, k] == pytest.approx(values, rel=1e-6)
    assert (np.diff(found.accuracy.mean(axis=0)) <= 0).all()
    assert found.p_best.sum() == pytest.approx(1.0)


def test_nobody_is_told_to_think_past_the_best_budget() -> None:
    declining = {name: np.asarray(v) for name, v in (("relapse0", -1.0), ("kept", 0.05), ("relapse_power", 1.0))}
    posterior = posterior_of([t | declining for t in TRUTHS], DATA)
    option = recommend(posterior, 1000 * GIB).options[0]
    arm = next(a for a in posterior.family_arms("checkpoint") if (a.model, a.weight_bits) == option[:2])
    at, longest = posterior.arm_accuracy(arm, np.array([option.token_budget, DATA.budgets.max()], float)).mean(axis=0)
    assert option.token_budget < DATA.budgets.max()
    assert at > longest + 0.01


def test_nothing_fits() -> None:
    with pytest.raises(TslawError, match="Nothing of this family fits"):
        recommend(POSTERIOR, 0.3 * GIB)
    for estimand in (lambda: frontier(POSTERIOR, 0.5), lambda: recommend(POSTERIOR, GIB, float("nan"))):
        with pytest.raises(TslawError, match="batch"):
            estimand()


def test_prediction_is_the_surface_with_a_misfit_of_its_own() -> None:
    budgets = np.array([500.0, 5000.0])
    none = np.asarray(0.0)
    known = dict.fromkeys(("sd_misfit", "sd_misfit_w", *TRAITS.values()), none)
    certain = posterior_of([t | known for t in TRUTHS], DATA)
    found = predict_accuracy(certain, 6e9, 5.0, budgets)
    x = np.log(6e9 / DATA.reference_size)
    expected = [[reference.mean_accuracy(t, x, 5.0, b) for b in budgets] for t in TRUTHS]
    assert found == pytest.approx(np.array(expected), abs=1e-4)
    for name in ("sd_misfit", *TRAITS.values()):
        spread = posterior_of([TRUTHS[0] | known | {name: np.asarray(1.0)}] * 400, DATA)
        draws = predict_accuracy(spread, 6e9, 5.0, np.array([5e3, 6e4]))
        assert draws.std(axis=0).max() > 1e-3, name
        assert name != "sd_misfit" or draws[:, 0].std() > 0.01


@pytest.mark.parametrize(
    ("n_params", "bits", "budget", "what"),
    [
        (1.0, 8, 100, "--params"),
        (1e15, 8, 100, "--params"),
        (float("nan"), 8, 100, "--params"),
        (4e9, 1, 100, "--weight-bits"),
        (4e9, float("nan"), 100, "--weight-bits"),
        (4e9, 8, 0, "--token-budget"),
    ],
)
def test_predictions_nobody_can_make(n_params, bits, budget, what) -> None:
    with pytest.raises(TslawError, match=what):
        predict_accuracy(POSTERIOR, n_params, bits, np.array([budget]))
