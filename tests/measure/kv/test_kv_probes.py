"""A probe at budget T sees the compressed cache of that moment: against one run per budget, and against a reference."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SESSION = Path(__file__).parent / "probe_session.py"
sys.path.insert(0, str(Path(__file__).parent))
from probe_session import BUDGETS, POLICIES  # noqa: E402

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.xdist_group("kv-probes")]


@pytest.fixture(scope="session")
def session(tmp_path_factory):
    out = tmp_path_factory.mktemp("probes") / "session.json"
    done = subprocess.run([sys.executable, str(SESSION), str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


@pytest.mark.parametrize("policy", POLICIES)
def test_a_probe_on_the_long_trajectory_is_a_run_forced_to_stop_there(session, policy):
    found = session[policy]
    assert [list(answers) for answers in zip(*found["separate"], strict=True)] == found["nested"]


@pytest.mark.parametrize("policy", POLICIES)
def test_answers_are_those_of_a_plain_model_with_the_reference_as_its_attention(session, policy):
    found = session[policy]
    assert found["reference"] == found["nested"][: len(found["reference"])]


def test_policies_think_differently_and_every_trajectory_has_its_budget(session):
    assert len({json.dumps(found["thinking"]) for found in session.values()}) == len(POLICIES)
    assert {len(t) for found in session.values() for t in found["thinking"]} == {BUDGETS[-1]}
