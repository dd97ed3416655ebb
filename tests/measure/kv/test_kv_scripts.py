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
    given = ("kv_benchmark.py", "--tiny", "--tokens=64", "--buffer=32", f"--out={tmp_path}", "rkv:64@160x3")
    said, file = run(*given), tmp_path / "kv_benchmark.jsonl"
    (row,) = map(json.loads, file.read_text().splitlines())
    assert row["steps"] == 64
    assert row["tokens_per_second"] == pytest.approx(3000 / row["step_ms"], rel=0.01)
    # 28 layers' worth in a real shape, 2 here: (160 - 64) / 32 evictions of a prompt, 2 or 3 of what follows
    assert row["evictions"] in (2 * 3 * 5, 2 * 3 * 6)
    assert {"device", "engine", "torch", "date"} <= set(row)
    assert "| `rkv:64` | 160 | 3 |" in said
    assert f"in {file} already" in run(*given)
    assert len(file.read_text().splitlines()) == 1


def test_the_benchmarks_table_compares_with_the_full_cache_at_the_same_size(tmp_path):
    def row(policy: str, sequences: int, rate: float, device: str = "GPU") -> str:
        made = {
            "run": f"{policy}@8x{sequences}",
            "policy": policy,
            "context": 8,
            "sequences": sequences,
            "device": device,
        }
        sizes = {"step_ms": 1.0, "cache_gib": 2.0, "prefill_seconds": 3.0, "engine": "vllm 0", "date": "2026-01-02T"}
        return json.dumps({**made, **sizes, "tokens_per_second": rate, "tokens": 4, "buffer": 1, "graphs": False})

    rows = [row("full", 2, 99), row("full", 2, 100), row("rkv:8", 2, 150), row("rkv:8", 4, 150)]
    (tmp_path / "rows.jsonl").write_text("\n".join([*rows, row("streaming:8", 2, 7, "another")]))
    lines = run("kv_benchmark.py", f"--table={tmp_path / 'rows.jsonl'}").splitlines()
    assert lines[2:6] == [
        "| `full` | 8 | 2 | 100 | 1.00 | 1.0 | 2.0 | 3 |",
        "| `rkv:8` | 8 | 2 | 150 | 1.50 | 1.0 | 2.0 | 3 |",
        "| `streaming:8` | 8 | 2 | 7 |  | 1.0 | 2.0 | 3 |",
        "| `rkv:8` | 8 | 4 | 150 |  | 1.0 | 2.0 | 3 |",
    ]
    assert lines[-2:] == ["GPU, vllm 0, 2026-01-02", "another, vllm 0, 2026-01-02"]


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
