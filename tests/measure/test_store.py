"""Files that appear whole or not at all, and locks that end with their process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from tslaw.errors import TslawError
from tslaw.measure.store import SweepStore, UnitStore, exclusive, read_json, write_json


def test_a_batch_is_missing_until_it_is_written_whole(tmp_path):
    store = UnitStore(tmp_path / "unit")
    assert store.missing(3) == [0, 1, 2]
    store.write(1, {"problems": []})
    assert store.missing(3) == [0, 2]
    store.batch_path(2).write_text('{"problems": [')  # what a torn write would look like
    assert store.missing(3) == [0, 2]


def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, [1])
    with pytest.raises(TypeError):
        write_json(path, [object()])
    assert read_json(path) == [1]
    assert list(tmp_path.iterdir()) == [path]


HOLD = """
import sys, time
from pathlib import Path
from tslaw.measure.store import exclusive
with exclusive(Path(sys.argv[1]), False, "held"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_names_its_holder_and_ends_with_the_process(tmp_path):
    path = tmp_path / "runner.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(TslawError, match=f"process {holder.pid}"), exclusive(path, False, "Busy"):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with exclusive(path, False, "Busy"):
        assert json.dumps(path.read_text())


def test_two_runners_do_not_work_on_one_sweep(tmp_path):
    store = SweepStore(tmp_path, "plan")
    with store.lock(), pytest.raises(TslawError, match="Another tslaw measure"), store.lock():
        pass
