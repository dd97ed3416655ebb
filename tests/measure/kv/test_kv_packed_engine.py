"""A real engine on a packed cache says what the simulation says. See `packed_session`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.xdist_group("kv-packed")]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    pytest.importorskip("vllm")
    out = tmp_path_factory.mktemp("packed") / "session.json"
    script = Path(__file__).parent / "packed_session.py"
    environment = {**os.environ, "TSLAW_KV_POLICY": "", "TSLAW_KV_OPTIONS": ""}
    done = subprocess.run([sys.executable, str(script), str(out)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


@pytest.mark.parametrize("way", ["together", "replayed", "preempted"])
def test_it_says_what_the_simulation_says_however_it_runs(found, way):
    assert found[way] == found["simulated"]


def test_it_was_put_to_the_test(found):
    assert found["preemptions"] > 0
    assert found["effects"]["changed"] > 0
    assert found["packed blocks"] > 4 * found["simulated blocks"]
