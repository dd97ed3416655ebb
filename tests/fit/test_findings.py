"""What is best at every memory budget, against looking at every configuration one by one."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import draw_truth, posterior_of, template

from reference import surface_reference as reference
from tslaw.errors import TslawError
from tslaw.fit.findings import VOTERS, BestOption, best_voters, best_weight_bits, voted_accuracy
from tslaw.fit.vote_model import maj_at_g

DATA = template(6)
TRUTHS = [draw_truth(seed, DATA) for seed in (7, 8, 9)]
POSTERIOR = posterior_of(TRUTHS, DATA)


def slow_accuracy(truth: dict, arm: int, tokens: float) -> float:
    return reference.arm_accuracy(truth, DATA, arm, tokens)


def test_the_best_weight_bits_are_those_of_the_most_accurate_configuration_that_fits() -> None:
    found = best_weight_bits(POSTERIOR, batch=2)
    arms = POSTERIOR.family_arms("checkpoint")
    assert found.options == (4.0, 8.0, 16.0)
    for k in (0, 10, 30, 50, 59):
        for d, truth in enumerate(TRUTHS):
            scores = {}
            for arm in arms:
                tokens = (found.memory[: k + 1] - arm.weight / 2) / arm.kv_per_token
                enough = tokens[tokens >= DATA.budgets[0] * (1 - 1e-9)]
                if len(enough):
                    budgets = np.clip(enough, DATA.budgets[0], DATA.budgets[-1])
                    scores[arm] = max(slow_accuracy(truth, arm.position, t) for t in budgets)
            best = max(scores, key=scores.__getitem__)
            assert found.options[found.best[d, k]] == best.weight_bits
            assert found.weight[d, k] == pytest.approx(best.weight)
    assert found.p_best().sum(axis=1) == pytest.approx(np.ones(60))


def test_votes_are_those_of_every_problem_by_itself() -> None:
    arm = POSTERIOR.family_arms("checkpoint")[4]
    budgets = np.array([2000.0, 16000.0])
    found = voted_accuracy(POSTERIOR, arm, budgets, (1, 8))
    assert found[0] == pytest.approx(POSTERIOR.arm_accuracy(arm, budgets), rel=1e-6)
    for d, truth in enumerate(TRUTHS):
        for t, budget in enumerate(budgets):
            alone = reference.problem_accuracy(truth, DATA, arm.position, budget)
            expected = maj_at_g(alone, DATA.wrong_spread, 8).mean()
            assert found[1, d, t] == pytest.approx(expected, rel=1e-5)


def test_voters_share_the_memory() -> None:
    found = best_voters(POSTERIOR)
    arms = POSTERIOR.family_arms("checkpoint")
    budgets = np.geomspace(DATA.budgets[0], DATA.budgets[-1], 30)
    curves = {arm: voted_accuracy(POSTERIOR, arm, budgets) for arm in arms}
    for k in (5, 25, 45, 59):
        for d in range(len(TRUTHS)):
            scores = {}
            for arm in arms:
                for v, g in enumerate(VOTERS):
                    tokens = (found.memory[: k + 1] - arm.weight) / (arm.kv_per_token * g)
                    enough = tokens[tokens >= budgets[0]]
                    if len(enough):
                        scores[arm, g] = np.interp(np.log(enough), np.log(budgets), curves[arm][v, d]).max()
            best = max(scores.values())
            chosen = found.options[found.best[d, k]]
            assert max(s for (_, g), s in scores.items() if g == chosen) == pytest.approx(best, abs=1e-9)
    assert found.memory[-1] == pytest.approx(max(a.weight + a.kv_per_token * 32000 * 16 for a in arms))


def test_an_onset_outside_the_range_is_censored() -> None:
    memory = np.array([1.0, 2.0, 4.0, 8.0])
    best = np.array([[0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 1, 1]])
    weight = np.array([[1.0, 1, 2, 3]] * 4)
    found = BestOption((1.0, 3.0), memory, best, weight)
    summary = found.onset(2)
    assert (summary.p_below, summary.p_above) == (0.25, 0.25)
    assert found.onset_size(2).p_above == 0.25
    assert found.share(3.0).tolist() == [0.5, 1.0, 0.0, 0.5]
    always = BestOption((1.0, 3.0), memory, best[:1], weight[:1]).onset(2)
    assert always.median == 8.0


def test_a_batch_below_one_is_refused() -> None:
    with pytest.raises(TslawError, match="batch"):
        best_weight_bits(POSTERIOR, batch=0.5)
