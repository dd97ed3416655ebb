"""Whole sweeps on real vLLM: interrupted, killed, resumed, refused; and an arm that cannot run beside one that can."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from tslaw.dataset import open_dataset
from tslaw.family import load_family
from tslaw.measure.quantize import ensure_quantized

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

SOURCE = load_family("ladder").models[0].source
NAME = load_family("ladder").models[0].name
# Where the tests run in the background, the shell has SIGINT ignored, and children inherit that.
HEED_SIGINT = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
TSLAW = [sys.executable, "-c", f"{HEED_SIGINT}; from tslaw.cli.app import main; main()"]


def write_plan(folder: Path, **changes) -> Path:
    """Six batches of one problem each, in float32 at temperature 0."""
    plan = {
        "name": "small",
        "family": "ladder",
        "models": [NAME],
        "tasks": [{"name": "ladder-math", "problems": 6, "seed": 1, "budgets": [16, 64, 200]}],
        "samples": 1,
        "temperature": 0.0,
        "engine": {"dtype": "float32", "max_num_seqs": 1, "kv_cache_gib": 0.1},
        **changes,
    }
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan))
    return path


def start(plan: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [*TSLAW, "measure", str(plan), "--out", str(out), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out + err


def batches(out: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in out.glob("*.work/units/*/batch-*.json")}


def wait_for_batches(out: Path, n: int) -> None:
    until = time.monotonic() + 200
    while len(batches(out)) < n:
        assert time.monotonic() < until
        time.sleep(0.01)


def workers_of(out: Path) -> list[str]:
    """Command lines of the workers at work under `out`."""
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listing.splitlines() if "tslaw.measure.worker" in line and str(out) in line]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert finish(start(write_plan(folder), folder / "out"))[0] == 0
    return folder / "out"


@pytest.mark.xdist_group("sweep")
def test_ctrl_c_and_kill_lose_nothing_and_a_resume_does_only_what_is_missing(uninterrupted, tmp_path):
    plan, out = write_plan(tmp_path), tmp_path / "out"
    runner = start(plan, out)
    wait_for_batches(out, 1)
    runner.send_signal(signal.SIGINT)
    status, said = finish(runner)
    assert status == 130
    assert "Traceback" not in said
    assert workers_of(out) == []
    first = batches(out)

    status, said = finish(start(plan, out))
    assert status == 2  # without --resume the results are neither used nor lost
    assert "--resume" in said

    runner = start(plan, out, "--resume")
    wait_for_batches(out, len(first) + 1)
    runner.kill()
    finish(runner)
    time.sleep(0.5)
    assert workers_of(out) == []
    second = batches(out)
    assert len(second) < 6
    assert first.items() <= second.items()

    assert finish(start(plan, out, "--resume"))[0] == 0
    assert second.items() <= batches(out).items()
    resumed = open_dataset(out / "ladder-math.nc")
    whole = open_dataset(uninterrupted / "ladder-math.nc")
    for name in ("answer", "correct", "thinking_tokens", "probe_tokens", "natural_length", "answers", "problem"):
        np.testing.assert_array_equal(resumed[name].values, whole[name].values)


@pytest.mark.xdist_group("sweep")
def test_a_finished_sweep_is_neither_repeated_nor_overwritten(uninterrupted, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(uninterrupted, out)
    before = {p: p.stat().st_mtime_ns for p in out.glob("*.nc")}
    status, said = finish(start(write_plan(tmp_path), out))
    assert status == 2
    assert "not overwritten" in said
    assert finish(start(write_plan(tmp_path), out, "--resume"))[0] == 0
    assert {p: p.stat().st_mtime_ns for p in out.glob("*.nc")} == before


def test_an_output_of_another_sweep_is_not_overwritten_by_a_resume(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "ladder-math.nc").write_text("precious")
    status, said = finish(start(write_plan(tmp_path), out, "--resume"))
    assert status == 2
    assert "not overwritten" in said
    assert (out / "ladder-math.nc").read_text() == "precious"


def test_an_arm_that_fails_is_named_and_the_others_are_kept(tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(SOURCE, broken)
    os.chmod(broken, 0o755)
    (broken / "model.safetensors").unlink()
    (broken / "model.safetensors").write_bytes(b"not weights")
    family = {"name": "pair", "thinking_format": "ladder"}
    family["models"] = [{"name": "broken", "source": str(broken)}, {"name": NAME, "source": SOURCE}]
    (tmp_path / "pair.yaml").write_text(yaml.safe_dump(family))
    plan = write_plan(tmp_path, family="pair.yaml", models=None, engine={"max_num_seqs": 8, "kv_cache_gib": 0.1})
    status, said = finish(start(plan, tmp_path / "out"))
    assert status == 2
    assert "broken:w16:full" in said
    assert "Traceback" not in said.split("error:")[-1] or "last lines" in said
    ds = open_dataset(tmp_path / "out" / "pair-ladder-math.nc")
    assert list(ds.arm.values) == [f"{NAME}:w16:full"]


def test_prompts_that_do_not_fit_the_model_are_refused_before_anything_runs(tmp_path):
    task = {"name": "ladder-math", "problems": 2, "seed": 1, "budgets": [100_000]}
    status, said = finish(start(write_plan(tmp_path, tasks=[task]), tmp_path / "out"))
    assert status == 2
    assert "holds at most" in said
    assert batches(tmp_path / "out") == {}


def test_quantized_arms_are_marked_and_their_weights_cached(tmp_path):
    plan = write_plan(tmp_path, weight_bits=[8, 4], engine={"max_num_seqs": 8, "kv_cache_gib": 0.1})
    assert finish(start(plan, tmp_path / "out"))[0] == 0
    ds = open_dataset(tmp_path / "out" / "ladder-math.nc")
    assert list(ds.weight_format.values) == ["gptq-g128-dequantized", "gptq-g128"]
    assert list(ds.weights_simulated.values) == [1, 0]
    changes = [r["relative_weight_change"] for r in json.loads(ds.attrs["provenance"])["quantization"].values()]
    assert 0.001 < changes[0] < 0.03 < changes[1] < 0.3
    job = json.loads(next((tmp_path / "out" / "small.work" / "jobs").glob("*w4*.json")).read_text())
    started: list[str] = []
    folder, record = ensure_quantized(
        job["model"], "ladder", **job["quantization"], on_start=lambda: started.append("again")
    )
    assert started == []
    assert record["weight_format"] == "gptq-g128"
    assert (Path(folder) / "model.safetensors").exists()


def test_weights_that_quantization_did_not_change_are_refused(tmp_path):
    from tslaw.errors import TslawError
    from tslaw.measure.quantize import check_changed

    unchanged = tmp_path / "unchanged"
    shutil.copytree(SOURCE, unchanged)
    os.chmod(unchanged, 0o755)
    config = json.loads((unchanged / "config.json").read_text())
    os.chmod(unchanged / "config.json", 0o644)
    (unchanged / "config.json").write_text(json.dumps({**config, "quantization_config": {"bits": 4}}))
    with pytest.raises(TslawError, match="changed no weight"):
        check_changed(Path(SOURCE), unchanged, 4)


@pytest.mark.xdist_group("sweep")
def test_a_sweep_killed_while_it_writes_its_outputs_is_resumed(uninterrupted, tmp_path):
    """What is on disk then: the batches, an output, and a manifest that says it was being written."""
    out = tmp_path / "out"
    shutil.copytree(uninterrupted, out)
    manifest = {"plan": "small", "complete": False, "writing": ["ladder-math.nc"]}
    (out / "small.work" / "manifest.json").write_text(json.dumps(manifest))
    assert finish(start(write_plan(tmp_path), out, "--resume"))[0] == 0
    assert json.loads((out / "small.work" / "manifest.json").read_text())["complete"]
