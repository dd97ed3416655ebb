"""The raw work of a sweep on disk: one folder a unit, one file a batch of problems, written whole or not at all.

OUT/<plan>.work/runner.lock           held while a runner is at work
                units/<key>/unit.json what the key hashes
                units/<key>/batch-0003.json
                logs/<arm>.log        what a worker printed
                manifest.json         written last: the outputs and their hashes
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tslaw.atomic import flush_to_disk, replacing
from tslaw.errors import TslawError


def write_json(path: Path, content: Any) -> None:
    """Write a file that appears whole or not at all, and survives a crash once this returns."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
        flush_to_disk(temporary)


def read_json(path: Path) -> Any:
    """A JSON file's content, or None where there is no such file or it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def exclusive(path: Path, wait: bool, what: str) -> Iterator[None]:
    """Hold a lock file; the system gives it back when the process ends, however it ends.

    Raises TslawError, naming the holder, when it is taken and `wait` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise TslawError(f"{what} ({holder}).", where=str(path), fix="wait for it to end, or stop it") from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


@dataclass(frozen=True)
class UnitStore:
    """The results of one unit."""

    folder: Path

    def batch_path(self, batch: int) -> Path:
        """Where a batch's results are or will be."""
        return self.folder / f"batch-{batch:04d}.json"

    def missing(self, n_batches: int) -> list[int]:
        """Batches that have no readable results yet."""
        return [batch for batch in range(n_batches) if self.read(batch) is None]

    def read(self, batch: int) -> Any:
        """A batch's results, None if there are none."""
        return read_json(self.batch_path(batch))

    def write(self, batch: int, content: Any) -> None:
        """Store a batch's results."""
        write_json(self.batch_path(batch), content)


@dataclass(frozen=True)
class SweepStore:
    """The work folder of one plan in one output folder."""

    out: Path
    plan_name: str

    @property
    def work(self) -> Path:
        """OUT/<plan>.work"""
        return self.out / f"{self.plan_name}.work"

    @property
    def manifest_path(self) -> Path:
        """Written last; its presence with `complete` says that the outputs are all there."""
        return self.work / "manifest.json"

    def unit(self, key: str) -> UnitStore:
        """The results of the unit with this key."""
        return UnitStore(self.work / "units" / key)

    def log_path(self, arm_name: str) -> Path:
        """Where the worker of an arm writes what it prints."""
        return self.work / "logs" / f"{arm_name.replace(':', '_').replace('/', '_')}.log"

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Only one runner at a time works on a sweep."""
        return exclusive(self.work / "runner.lock", False, "Another tslaw measure is at work on this sweep")
