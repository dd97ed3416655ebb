"""Every policy in a real engine: against a slow reference on random tensors, against itself scheduled in other ways.

The matrix policy x check: reference match, the same tokens however scheduled, takes effect, blocks given back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SESSION = Path(__file__).parent / "session.py"
sys.path.insert(0, str(Path(__file__).parent))
from session import MEMORY_MODEL, MEMORY_POLICIES, POLICIES, RUN_POLICIES  # noqa: E402

# slow: one session of about a minute serves all
pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.xdist_group("kv-engine")]

PAGINGS = ("whole prompt", "chunked prefill", "decoded", "events side by side", "unequal batch", "preempted and reused")
SCHEDULES = ("alone", "chunked and preempted", "replayed")
BITING = [name for name in RUN_POLICIES if name != "full"]
EVICTING = [name for name in BITING if not name.startswith("quantized")]

STOCK = """
import json, sys
sys.path.insert(0, {folder!r})
from session import generate, open_llm, prompts
if __name__ == "__main__":
    llm = open_llm({{"block_size": 32}})
    open({out!r}, "w").write(json.dumps(generate(llm, prompts())))
"""


@pytest.fixture(scope="session")
def session(tmp_path_factory):
    out = tmp_path_factory.mktemp("kv") / "session.json"
    done = subprocess.run([sys.executable, str(SESSION), str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


@pytest.mark.parametrize("paging", PAGINGS)
@pytest.mark.parametrize("policy", POLICIES)
def test_outputs_on_random_tensors_are_the_references(session, policy, paging):
    found = session["reference"][policy]
    assert found["ways"][paging] < 1e-4
    assert found["heads_per_kv_head"] == 2


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "full"])
def test_the_reference_is_not_that_of_the_full_cache(session, policy):
    assert session["reference"][policy]["changed"] > 1e-3


def test_the_full_cache_through_this_backend_gives_vllms_own_tokens(session):
    tokens = session["tokens"]
    assert tokens["full"]["together"] == tokens["native"]


def test_a_full_arm_is_not_compressed_by_what_the_environment_names(session):
    assert session["tokens"]["after"] == session["tokens"]["native"]


def test_more_sequences_fit_at_once_where_memory_is_really_saved(session):
    crowd = session["crowd"]
    assert {name for name, preemptions in crowd.items() if preemptions == 0} == {"rkv"}


def test_in_half_precision_the_full_cache_has_vllms_own_log_probabilities(session):
    half = session["bfloat16"]
    for ours, native in zip(half["full"], half["native"], strict=True):
        assert ours == pytest.approx(native, abs=1e-3)


@pytest.mark.parametrize("policy", ["streaming", "rkv", "quantized-4"])
def test_in_half_precision_outputs_are_the_references_but_for_rounding(session, policy):
    found = session["bfloat16"]["reference"][policy]
    assert max(found["ways"].values()) < min(0.05, found["changed"] / 4)


# a token of ladder-0.4M in bfloat16: keys and values, 2 layers, 2 KV heads, 64 channels, 2 bytes each
TOKEN_BYTES = 2 * 2 * 2 * 64 * 2


def most_blocks(policy: str, size: int) -> int:
    """Blocks of `size` tokens that a sequence holds at most, token after token; the last that is said is not stored."""
    held, most = 0, 0
    for _ in range(479):
        held += 1
        most = max(most, -(-held // size))
        if ":128" in policy and held == 128 + 32:
            held = 128
    return most


@pytest.mark.parametrize("policy", MEMORY_POLICIES)
def test_the_memory_report_sees_the_blocks_that_the_schedule_leaves(session, policy):
    seen = session["memory"][policy]
    size = 128 if policy == "full" else 32  # of vLLM's own engine on a CPU, and of the backend's
    most = most_blocks(policy, size)
    assert seen["observed_bytes"] == most * size * TOKEN_BYTES
    blocks = int(0.02 * 2**30) // (size * TOKEN_BYTES) - 1  # vLLM keeps one for itself
    assert seen["fits"] == blocks // most
    assert seen["simulated"] == ("quantized" in policy)
    entry = (4 + 16 / 64) / 16 if "quantized" in policy else 1
    assert seen["formula_bytes"] == pytest.approx((128 if ":128" in policy else 480) * TOKEN_BYTES * entry)


def test_the_memory_reports_table_comes_from_processes_of_its_own(session, monkeypatch, capsys):
    from tslaw.measure.kv import memory_report

    monkeypatch.setattr(memory_report, "POLICIES", ("streaming:128",))
    memory_report.main([MEMORY_MODEL])
    heading, _, row = capsys.readouterr().out.strip().splitlines()
    assert "at once in 20 MiB" in heading
    fits = session["memory"]["streaming:128"]["fits"]
    assert row == f"| streaming:128 | 128 | 160 | {fits} | real |"


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("policy", RUN_POLICIES)
def test_tokens_do_not_depend_on_batching_chunking_preemption_or_replay(session, policy, schedule):
    tokens = session["tokens"][policy]
    assert tokens[schedule] == tokens["together"][-len(tokens[schedule]) :]


@pytest.mark.parametrize("policy", RUN_POLICIES)
def test_the_tight_engine_did_preempt(session, policy):
    assert session["effects"][policy]["preemptions"] > 0


@pytest.mark.parametrize("policy", BITING)
def test_a_policy_changes_what_the_model_says_and_is_seen_to(session, policy):
    assert session["tokens"][policy]["together"] != session["tokens"]["native"]
    effects = session["effects"][policy]
    assert (effects["evictions"] > 0) == (policy in EVICTING)
    assert (effects["changed"] > 0) == ("quantized" in policy)


@pytest.mark.parametrize("policy", EVICTING)
def test_eviction_caps_the_blocks_that_a_sequence_holds(session, policy):
    effects = session["effects"][policy]
    # 64 kept + 32 of buffer + a step of at most 48 tokens, in blocks of 32, and one block begun; 11 without eviction
    assert 4 <= effects["most_blocks"] <= 6
    assert effects["blocks_freed"] > 0


def test_random_eviction_draws_by_the_tokens_that_the_model_was_given(session):
    places, wanted = session["draws"]["places"], session["draws"]["reference"]
    assert places == wanted
    assert places[0] == places[3]
    assert len({json.dumps(one) for one in places}) == 3


@pytest.mark.parametrize("name", ["rkv", "random"])
def test_the_environment_alone_makes_a_stock_engine_compress(session, tmp_path, name):
    """As `vllm serve` would: nothing of tslaw is imported by hand, and the engine runs in a process of its own."""
    policy, options = POLICIES[name]
    script, out = tmp_path / "stock.py", tmp_path / "tokens.json"
    script.write_text(STOCK.format(folder=str(SESSION.parent), out=str(out)))
    env = os.environ | {
        "TSLAW_KV_POLICY": policy,
        "TSLAW_KV_OPTIONS": json.dumps(options),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(out.read_text()) == session["tokens"][name]["together"]
