"""Frontier and recommendation of a fit that holds compressed caches, against looking at every configuration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cache_truths import cache_template, cache_truth
from simulated import posterior_of

from tslaw.cli import frontier_command, recommend_command
from tslaw.fit.frontier import Configuration, budget_grid, frontier, on_frontier, recommend
from tslaw.memory import GIB, total_bytes
from tslaw.plots.memory_accuracy import memory_accuracy
from tslaw.plots.view import TaskView
from tslaw.policy import FULL, parse_kv_policy

POLICIES = ("full", "quantized:4", "rkv:2048", "streaming:4096", "rkv:2048+quantized:2")
DATA = cache_template(4, POLICIES, (16, 4))
POSTERIOR = posterior_of([cache_truth(seed, DATA) for seed in (1, 2, 3)], DATA)


def memory_of(model: str, bits: float, policy: str, tokens: float, batch: float = 1) -> float:
    return total_bytes(DATA.shapes[model], bits, tokens, 1, parse_kv_policy(policy), batch, "checkpoint")


def everything(batch: float, budgets: np.ndarray) -> dict[Configuration, np.ndarray]:
    """Every configuration whose cache is what its policy says, and its accuracy (draw,)."""
    found = {}
    for arm in POSTERIOR.family_arms("checkpoint", compressed=True):
        for tokens in budgets:
            if tokens > (arm.policy.retain or 0):
                memory = memory_of(arm.model, arm.weight_bits, str(arm.policy), tokens, batch)
                key = Configuration(arm.model, arm.weight_bits, int(tokens), memory, arm.policy)
                found[key] = POSTERIOR.arm_accuracy(arm, np.array([tokens], float))[:, 0]
    return found


def test_compressed_caches_are_on_the_frontier_where_they_act() -> None:
    budgets = np.array([1000, 4000, 16000])
    found, expected = frontier(POSTERIOR, 4, budgets=budgets), everything(4, budgets)
    at = {(c.model, c.weight_bits, c.token_budget, c.kv_policy): i for i, c in enumerate(found.configurations)}
    assert set(at) == {(c.model, c.weight_bits, c.token_budget, c.kv_policy) for c in expected}
    for c, accuracy in expected.items():
        i = at[c.model, c.weight_bits, c.token_budget, c.kv_policy]
        assert found.configurations[i].memory == pytest.approx(c.memory, rel=1e-12)
        assert found.accuracy[:, i] == pytest.approx(accuracy, rel=1e-6)
    memory = np.array([c.memory for c in found.configurations])
    assert found.membership == pytest.approx(on_frontier(memory, found.accuracy).mean(axis=0))
    assert any(c.kv_policy != FULL and p > 0.5 for c, p in zip(found.configurations, found.membership, strict=True))


def test_without_compressed_caches_the_frontier_is_that_of_full_ones() -> None:
    plain = cache_template(4, POLICIES[:1], (16, 4))
    full = posterior_of([cache_truth(seed, DATA) for seed in (1, 2, 3)], plain)
    found, expected = frontier(POSTERIOR, compressed=False), frontier(full)
    assert {c.kv_policy for c in found.configurations} == {FULL}
    assert len(found.configurations) == len(expected.configurations)
    assert len(frontier(POSTERIOR).configurations) > len(found.configurations)


@pytest.mark.parametrize("memory", [2.5, 6.0, 40.0])
def test_the_recommended_cache_fits_and_is_the_best_that_does(memory) -> None:
    found = recommend(POSTERIOR, memory * GIB)
    fits = {c: a for c, a in everything(1, budget_grid(POSTERIOR)).items() if c.memory <= memory * GIB}
    best_on_grid = max(a.mean() for a in fits.values())
    assert found.accuracy[:, 0].mean() >= best_on_grid - 1e-9, "budgets between those of the grid are allowed, too"
    for option in found.options:
        needed = memory_of(option.model, option.weight_bits, str(option.kv_policy), option.token_budget)
        assert option.memory == pytest.approx(needed, rel=1e-12)
        assert needed <= memory * GIB * (1 + 1e-12)
        assert option.token_budget > (option.kv_policy.retain or 0)
    arms = {(c.model, c.weight_bits, c.kv_policy) for c in fits}
    assert {(c.model, c.weight_bits, c.kv_policy) for c in found.options} == arms
    assert found.p_best.sum() == pytest.approx(1.0)


def test_an_evicting_cache_may_think_on_when_it_is_full() -> None:
    """What it keeps fits, what a full cache of as many tokens takes does not."""
    memory = memory_of("Qwen3-8B", 16, "rkv:2048", 16000) + 1.0
    assert memory < memory_of("Qwen3-8B", 16, "full", 2500)
    found = {(c.weight_bits, c.kv_policy): c for c in recommend(POSTERIOR, memory).options if c.model == "Qwen3-8B"}
    evicted, full = found[16, parse_kv_policy("rkv:2048")], found[16, FULL]
    assert evicted.token_budget > 2048 >= full.token_budget


def test_random_eviction_is_no_contender() -> None:
    drawn, kept = parse_kv_policy("random:2048"), parse_kv_policy("rkv:2048")
    posterior = replace(POSTERIOR, policies=tuple(drawn if p == kept else p for p in DATA.kv_policies))
    arms = posterior.family_arms("checkpoint", compressed=True)
    assert [a.policy for a in arms].count(drawn) == 4
    assert posterior.contenders("checkpoint") == [a for a in arms if a.policy != drawn]


@pytest.mark.parametrize("command", [frontier_command, recommend_command])
def test_the_commands_name_the_cache(command, monkeypatch, capsys) -> None:
    monkeypatch.setattr(command, "posteriors", lambda fit, task: [POSTERIOR])
    asked = {"memory": ["6GiB"]} if command is recommend_command else {"min_probability": 0.0}
    command.command("fit.nc", as_json=True, **asked)
    assert '"kv_policy": "rkv:2048+quantized:2"' in capsys.readouterr().out
    command.command("fit.nc", **asked)
    words = capsys.readouterr().out
    assert "KV cache" in words


def test_the_figure_has_only_arms_with_a_full_cache() -> None:
    n_arms, budgets = len(POSTERIOR.arms), POSTERIOR.budgets
    probes = np.full((n_arms, len(budgets)), 20.0)
    view = TaskView(POSTERIOR, np.full_like(probes, 0.5), probes, np.zeros((1, *probes.shape)), {}, ())
    figure = memory_accuracy(view, frontier(POSTERIOR, compressed=False), 1)
    (ax,) = [ax for each in figure.subfigs for ax in each.axes]
    full = len(POSTERIOR.family_arms("checkpoint"))
    assert len(ax.lines) == full + 1, "a curve an arm, and the frontier"
    points = [c for c in ax.collections if type(c).__name__ == "PathCollection"]
    assert sum(len(c.get_offsets()) for c in points) == 2 * full * len(budgets), "each on a white one"
