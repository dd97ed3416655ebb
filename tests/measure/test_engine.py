"""Real vLLM against itself and against a plain transformers loop, in float32 at temperature 0: token for token."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tslaw.errors import TslawError

SESSION = Path(__file__).parent / "engine_session.py"
TASKS = ("ladder-math", "ladder-knowledge")

pytestmark = [pytest.mark.vllm, pytest.mark.xdist_group("engine")]  # one engine session for all


@pytest.fixture(scope="session")
def session(tmp_path_factory):
    """The results of one engine, run in its own process."""
    out = tmp_path_factory.mktemp("engine") / "session.json"
    done = subprocess.run([sys.executable, str(SESSION), str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(out.read_text())


@pytest.mark.parametrize("task", TASKS)
def test_a_probe_on_the_long_trajectory_is_a_run_forced_to_stop_there(session, task):
    found = session[task]
    assert [list(answers) for answers in zip(*found["separate"], strict=True)] == found["nested"]


@pytest.mark.parametrize("task", TASKS)
def test_thinking_and_answers_are_those_of_a_plain_transformers_loop(session, task):
    found = session[task]
    assert found["thinking"] == found["transformers"]["thinking"]
    assert found["natural_length"] == found["transformers"]["natural_length"]
    assert found["nested"] == found["transformers"]["answers"]


def test_the_session_saw_forced_continuations_right_answers_and_exact_budgets(session):
    assert any(length >= 0 for length in session["ladder-knowledge"]["natural_length"])
    assert sum(map(sum, session["ladder-math"]["transformers"]["correct"])) > 0
    for task, budget in (("ladder-math", 120), ("ladder-knowledge", 28)):
        assert {len(thinking) for thinking in session[task]["thinking"]} == {budget}


def test_the_observed_cache_has_the_bytes_that_the_shape_says(session):
    from tslaw.family import load_family
    from tslaw.memory import kv_bytes_per_token

    shape = load_family("ladder").models[2].shape
    assert session["kv_bytes_per_token"] == 2 * kv_bytes_per_token(shape)  # float32 in place of 16 bits


def test_a_cache_type_that_is_not_known_to_work_is_refused_before_anything_starts():
    from tslaw.measure.engine import EngineSettings, open_engine

    settings = EngineSettings("nowhere", "float32", 64, 1, 0.1, 0.0, 1.0, 0, kv_cache_dtype="int4_per_token_head")
    with pytest.raises(TslawError, match="not known to work"), open_engine(settings):
        pass
