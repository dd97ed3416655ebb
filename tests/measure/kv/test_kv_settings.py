"""Policies by name and options, the plugin's silence, and arms that would or did change nothing."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from types import SimpleNamespace

import pytest

from tslaw.errors import TslawError
from tslaw.measure.kv.effect_check import check_it_did_bite, check_it_will_bite
from tslaw.measure.kv.effects import Effects
from tslaw.measure.kv.engine_check import check_engine, check_layer
from tslaw.measure.kv.settings import KVSettings, known_options, read_each, read_environment, write_environment
from tslaw.policy import EVICTORS, FULL


def test_full_is_no_policy_at_all():
    settings = KVSettings.read("full")
    assert (settings.policy, settings.evictor, settings.quantizer) == (FULL, None, None)
    assert settings.schedule.bites_at is None
    assert not settings.simulated("cpu")


def test_defaults_are_those_of_the_sources():
    settings = KVSettings.read("rkv:2048")
    assert settings.options == {"buffer": 128, "mix": 0.1, "pin": 0, "window": 8, "kernel": 7, "threshold": 0.5}
    assert settings.schedule.bites_at == 2048 + 128
    assert KVSettings.read("quantized:4").options == {"group": 64, "residual": 128}
    assert KVSettings.read("streaming:64").options["sinks"] is None


def test_rounding_is_simulated_and_eviction_is_not():
    for policy, simulated_on in (("quantized:2", ["cpu"]), ("rkv:64+quantized:4", ["cpu", "cuda"]), ("rkv:64", [])):
        settings = KVSettings.read(policy)
        assert [platform for platform in ("cpu", "cuda") if settings.simulated(platform)] == simulated_on


@pytest.mark.parametrize("name", EVICTORS)
def test_every_evictor_file_makes_a_policy(name):
    evictor = KVSettings.read(f"{name}:64", {"buffer": 32}).evictor
    assert evictor.retain == 64
    assert evictor.n_queries >= 0


@pytest.mark.parametrize(
    ("policy", "options", "named"),
    [
        ("rkv:64", {"residual": 3}, "no option 'residual'"),
        ("rkv:63", {}, "keeps 63 tokens"),
        ("rkv:64", {"buffer": 0}, "buffer of 0"),
        ("rkv:64", {"kernel": 4}, "kernel 4"),
        ("rkv:64", {"window": 0}, "window 0"),
        ("rkv:64", {"pin": True}, "cannot be True"),
        ("random:64", {"pin": -1}, "pin -1"),
        ("snapkv:64", {}, "not known"),
        ("full", {"buffer": 32}, "no option 'buffer'"),
    ],
)
def test_bad_policies_and_options_are_refused(policy, options, named):
    with pytest.raises(TslawError, match=named):
        KVSettings.read(policy, options)


def test_the_environment_carries_a_policy_and_its_options(monkeypatch):
    monkeypatch.delenv("TSLAW_KV_POLICY", raising=False)
    monkeypatch.delenv("TSLAW_KV_OPTIONS", raising=False)
    assert read_environment() is None
    settings = read_each("rkv:64+quantized:4", {"buffer": 32, "pin": 5, "residual": 32, "sinks": 4})
    write_environment(settings)
    assert read_environment() == settings
    monkeypatch.setenv("TSLAW_KV_OPTIONS", "{buffer")
    with pytest.raises(TslawError, match="not JSON"):
        read_environment()
    monkeypatch.delenv("TSLAW_KV_POLICY")


def test_the_options_of_all_policies_are_known():
    assert {"buffer", "pin", "mix", "sinks", "residual", "group", "seed"} <= known_options()


def test_the_plugin_is_an_entry_point_of_vllm_and_silent_unless_asked(monkeypatch):
    (plugin,) = (e for e in entry_points(group="vllm.general_plugins") if e.name == "tslaw_kv")
    assert plugin.value == "tslaw.measure.kv.plugin:load"
    code = (
        "import sys, tslaw.measure.kv.plugin as p; p.load(); print([m for m in ('vllm', 'torch') if m in sys.modules])"
    )
    monkeypatch.delenv("TSLAW_KV_POLICY", raising=False)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_arm_that_would_change_nothing_is_refused_before_it_runs():
    settings = KVSettings.read("rkv:2048")
    check_it_will_bite(settings, 2177, "task")
    with pytest.raises(TslawError, match=r"longer than 2176 tokens.*only 2176"):
        check_it_will_bite(settings, 2176, "task")
    check_it_will_bite(KVSettings.read("full"), 1, "task")


@pytest.mark.parametrize(
    ("policy", "effects", "named"),
    [
        ("rkv:64", Effects(), "evicted nothing"),
        ("rkv:64", Effects(evictions=3, evicted=9), "gave no block back"),
        ("quantized:4", Effects(roundings=3), "rounded nothing"),
        ("rkv:64+quantized:4", Effects(evictions=1, evicted=1, blocks_freed=1), "rounded nothing"),
    ],
)
def test_an_arm_that_changed_nothing_is_an_error(policy, effects, named):
    with pytest.raises(TslawError, match=named):
        check_it_did_bite(KVSettings.read(policy), effects)


def test_an_arm_that_took_effect_passes():
    check_it_did_bite(KVSettings.read("rkv:64"), Effects(evictions=1, evicted=1, blocks_freed=1))
    check_it_did_bite(KVSettings.read("full"), Effects())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"enable_prefix_caching": True}, "cannot share cached prefixes"),
        ({"block_size": 128}, "whole blocks of 128"),
        ({"cache_dtype": "fp8"}, "KV cache type 'fp8'"),
    ],
)
def test_an_engine_that_would_make_a_policy_wrong_is_refused(changes, named):
    cache = {"enable_prefix_caching": False, "block_size": 32, "cache_dtype": "auto", **changes}
    config = SimpleNamespace(cache_config=SimpleNamespace(**cache), speculative_config=None)
    with pytest.raises(TslawError, match=named):
        check_engine(KVSettings.read("rkv:64"), config)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sliding_window": 128}, "a sliding window"),
        ({"alibi_slopes": [1.0]}, "ALiBi"),
        ({"kv_sharing_target_layer_name": "layers.0"}, "shared between layers"),
        ({"attn_type": "encoder"}, "type encoder"),
    ],
)
def test_a_layer_that_is_not_plain_attention_is_refused(changes, named):
    plain = {"sliding_window": -1, "alibi_slopes": None, "kv_sharing_target_layer_name": None, "attn_type": "decoder"}
    check_layer(KVSettings.read("rkv:64"), SimpleNamespace(**plain))
    with pytest.raises(TslawError, match=named):
        check_layer(KVSettings.read("rkv:64"), SimpleNamespace(**plain | changes))
