"""A sweep with KV policies from plan to dataset, and one whose policy would have nothing to do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tslaw.dataset import open_dataset

pytestmark = pytest.mark.vllm


def run(folder: Path, **changes) -> subprocess.CompletedProcess[str]:
    plan = {
        "name": "kv",
        "family": "ladder",
        "models": ["ladder-0.4M"],
        "tasks": [{"name": "ladder-math", "problems": 3, "seed": 1, "budgets": [32, 100]}],
        "kv_options": {"buffer": 32, "residual": 32, "group": 32},
        "engine": {"dtype": "float32", "max_num_seqs": 8, "kv_cache_gib": 0.05},
        **changes,
    }
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    command = [sys.executable, "-m", "tslaw", "measure", str(folder / "plan.yaml"), "--out", str(folder / "out")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_sweep_marks_what_is_simulated_and_says_what_took_effect(tmp_path):
    done = run(tmp_path, kv_policies=["rkv:32", "rkv:32+quantized:4"])
    assert done.returncode == 0, done.stderr
    ds = open_dataset(tmp_path / "out" / "ladder-math.nc")
    assert ds["kv_policy"].values.tolist() == ["rkv:32", "rkv:32+quantized:4"]
    assert ds["kv_simulated"].values.tolist() == [0, 1]
    assert ds["kv_retain"].values.tolist() == [32, 32]
    assert (ds["correct"].values >= 0).all()
    effects = json.loads(ds.attrs["provenance"])["kv_effects"]
    assert [e["blocks_freed"] > 0 for e in effects.values()] == [True, True]
    assert [e["changed"] > 0 for e in effects.values()] == [False, True]


def test_a_policy_that_would_have_nothing_to_do_stops_the_sweep_before_it_starts(tmp_path):
    done = run(tmp_path, kv_policies=["full", "rkv:2048"])
    assert done.returncode == 2
    assert "would change nothing" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("*.nc"))
