"""The scripts made for a GPU, in small on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "scripts"

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.xdist_group("kv-scripts")]


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_the_benchmark_times_steps_in_which_all_sequences_decode(tmp_path):
    said = run("kv_benchmark.py", "--tiny", "--tokens=40", "--buffer=32", f"--out={tmp_path}", "rkv:64@160x3")
    (row,) = json.loads((tmp_path / "kv_benchmark.json").read_text())
    assert row["tokens_per_second"] > 0
    assert row["evictions"] > 0
    assert row["steps"] >= 40
    assert "| rkv:64 | 160 | 3 |" in said
    assert "rkv:64@160x3" in (tmp_path / "kv_benchmark.csv").read_text()


def test_the_gpus_checks_pass_on_the_cpu(tmp_path):
    said = run("gpu_kv_check.py", f"--out={tmp_path}", "--only=streaming", "--prompts=3")
    assert "PASS  streaming:32: takes effect" in said
    assert "FAIL" not in said
    report = json.loads((tmp_path / "kv_check.json").read_text())
    assert len(report["checks"]) == 4
    assert all(check["passed"] for check in report["checks"])


def test_a_stage_that_fails_is_a_failed_check_and_no_end(tmp_path):
    command = [sys.executable, str(SCRIPTS / "gpu_kv_check.py"), f"--out={tmp_path}", "--only", "memory:full", "full"]
    broken = {"PATH": "/nowhere", "PYTHONPATH": "/nowhere", "TSLAW_KV_POLICY": "no such policy"}
    done = subprocess.run(command, env=broken, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "FAIL" in done.stdout
