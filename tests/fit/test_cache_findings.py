"""What compressed caches add at every memory budget, against looking at every configuration one by one."""

from __future__ import annotations

import numpy as np
import pytest
from cache_truths import cache_template, cache_truth
from simulated import posterior_of, template

from tslaw.cli.findings_command import as_text, caches
from tslaw.errors import TslawError
from tslaw.fit.cache_findings import (
    KINDS,
    cache_frontier,
    evicted_against_rounded,
    eviction_threshold,
    kind_name,
)
from tslaw.fit.predict import predict_accuracy
from tslaw.memory import kv_bytes, total_bytes, weight_bytes
from tslaw.policy import ANY_BITS, FULL, parse_kv_policy

POLICIES = ("full", "quantized:4", "quantized:2", "rkv:2048", "rkv:4096", "streaming:2048", "rkv:2048+quantized:4")
DATA = cache_template(5, POLICIES, (16, 4))
TRUTHS = [cache_truth(seed, DATA) for seed in (1, 2, 3)]
POSTERIOR = posterior_of(TRUTHS, DATA)
TOKENS = np.unique(np.concatenate([np.geomspace(1000, 16000, 40), DATA.budgets]))


@pytest.mark.slow
def test_the_best_of_every_kind_is_that_of_the_configurations_that_fit() -> None:
    found = cache_frontier(POSTERIOR, batch=2)
    expected = {kind: np.full((3, len(found.memory)), -1.0) for kind in KINDS}
    for arm in POSTERIOR.family_arms("checkpoint", compressed=True):
        shape, accuracy = DATA.shapes[arm.model], POSTERIOR.arm_accuracy(arm, TOKENS)
        for k, tokens in enumerate(TOKENS):
            if arm.policy.retain is not None and tokens <= arm.policy.retain:
                continue  # nothing was evicted yet
            cost = total_bytes(shape, arm.weight_bits, tokens, 1, arm.policy, 2, "checkpoint")
            best, fits = expected[kind_name(arm.policy)], found.memory >= cost * (1 - 1e-9)
            best[:, fits] = np.maximum(best[:, fits], accuracy[:, [k]])
    assert set(found.best) == set(KINDS)
    for kind in KINDS:
        assert found.best[kind] == pytest.approx(expected[kind], abs=1e-6), kind
    gain = found.gain()
    assert (gain >= 0).all()
    assert (gain >= found.gain(("eviction",)) - 1e-12).all()
    assert gain.max() > 0.02, "4-bit caches cost little in these truths and save much"
    assert sum(found.p_best().values()) == pytest.approx(np.ones(len(found.memory)))
    with pytest.raises(TslawError, match="batch"):
        cache_frontier(POSTERIOR, batch=0.5)


def test_eviction_and_rounding_have_the_same_memory() -> None:
    contrasts = evicted_against_rounded(POSTERIOR)
    assert len(contrasts) == 4
    assert [c.weight for c in contrasts] == sorted(c.weight for c in contrasts)
    for c in contrasts:
        shape = DATA.shapes[c.model]
        assert c.weight == weight_bytes(shape, c.weight_bits, "checkpoint")
        assert c.kept.tolist() == [2048, 4096]
        for r, kept in enumerate(c.kept):
            memory, best = kv_bytes(shape, kept), {"rounding": -np.ones(3), "eviction": -np.ones(3)}
            for arm in POSTERIOR.family_arms("checkpoint", compressed=True):
                kind = kind_name(arm.policy)
                if (arm.model, arm.weight_bits) != (c.model, c.weight_bits) or kind not in best:
                    continue
                fits = np.array([kv_bytes(shape, t, 1, arm.policy) <= memory * (1 + 1e-9) for t in TOKENS])
                best[kind] = np.maximum(best[kind], POSTERIOR.arm_accuracy(arm, TOKENS)[:, fits].max(axis=1))
            assert c.difference[:, r] == pytest.approx(best["eviction"] - best["rounding"], abs=1e-6)


def test_the_threshold_is_censored_where_one_kind_always_wins() -> None:
    contrasts = evicted_against_rounded(POSTERIOR)
    found = eviction_threshold(contrasts)
    assert found is not None
    useless_eviction = {f"{term}_{e}": np.asarray(9.0) for term in ("found", "loss") for e in ("rkv", "streaming")}
    useless_rounding = {"delta_kv": np.asarray(30.0), "kappa_kv": np.asarray(1e-3)}
    below, above = (
        eviction_threshold(evicted_against_rounded(posterior_of([truth | useless for truth in TRUTHS], DATA)))
        for useless in (useless_eviction, useless_rounding)
    )
    assert below is not None
    assert above is not None
    assert (below.median, below.p_below) == (-np.inf, 1.0)
    assert (above.median, above.p_above) == (np.inf, 1.0)
    assert eviction_threshold(contrasts[:1]) is None


def test_the_command_says_both_findings() -> None:
    found = caches(POSTERIOR, 4, "checkpoint")
    assert set(found["average_gain"]) == {"any", "rounding", "eviction", "both"}
    middle = {name: gain["median_and_hdi"][0] for name, gain in found["average_gain"].items()}
    assert middle["any"] >= middle["rounding"] > 0
    assert len(found["eviction_minus_rounding"]) == 4
    empty = {"task": "t", "approximate": False, "batch": 4, "accounting": "checkpoint", "crossover": [], "voters": None}
    empty["weight_bits"] = {"p_best": [], "share_of_memory_range": {}}
    text = as_text(empty | {"kv_compression": found})
    for part in (
        "5. Does KV compression advance",
        "any allowed: +",
        "6. Above which",
        "P(ahead)",
        "P(below all)",
        "tslaw show",
    ):
        assert part in text
    assert "5.-6. not asked" in as_text(empty | {"kv_compression": None})


def test_predictions_know_what_a_cache_costs_and_how_unsure_that_is() -> None:
    many = posterior_of([TRUTHS[0]] * 300, DATA)
    tokens = np.array([16000.0])
    found = {p: predict_accuracy(many, 4e9, 16.0, tokens, policy=parse_kv_policy(p)) for p in ("rkv:3000", "rkv:1000")}
    full = predict_accuracy(many, 4e9, 16.0, tokens)
    assert (full == predict_accuracy(many, 4e9, 16.0, tokens, policy=FULL)).all()
    assert np.median(full) > np.median(found["rkv:3000"]) > np.median(found["rkv:1000"])
    sure = posterior_of([TRUTHS[0] | dict.fromkeys(("sd_kv", "sd_kv_own", "sd_kv_cut"), np.asarray(1e-9))] * 300, DATA)
    certain = predict_accuracy(sure, 4e9, 16.0, tokens, policy=parse_kv_policy("rkv:1000"))
    assert found["rkv:1000"].std() > certain.std()
    with pytest.raises(TslawError, match="random"):
        predict_accuracy(many, 4e9, 16.0, tokens, policy=parse_kv_policy("random:64"))
    plain = template(4)
    with pytest.raises(TslawError, match="--compressed-kv"):
        posterior_of([cache_truth(1, plain)], plain).cache_draws(parse_kv_policy("rkv:64"), 0.0, {})


def test_bits_between_the_measured_ones_are_predicted_between_them() -> None:
    """Without what such a cache may be off the curve."""
    sure = posterior_of([TRUTHS[0] | dict.fromkeys(("sd_kv", "sd_kv_own", "sd_kv_cut"), np.asarray(1e-9))] * 50, DATA)
    tokens = np.array([16000.0])
    middle = [
        np.median(predict_accuracy(sure, 4e9, 16.0, tokens, policy=parse_kv_policy(f"quantized:{bits}", ANY_BITS)))
        for bits in (2, 3, 4, 6, 8)
    ]
    assert all(np.diff(middle) > 0)
