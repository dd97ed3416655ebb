"""Worker processes: at most so many at once, their events gathered in one place, all of them gone at the end."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tslaw.measure.worker import MARK

TAIL_LINES = 6


@dataclass(frozen=True)
class WorkerTask:
    """One worker to start: the arm it measures, its job file, where what it prints goes."""

    arm: str
    job_path: Path
    log_path: Path


Events = Callable[[str, dict[str, Any]], None]


def run_pool(tasks: Sequence[WorkerTask], workers: int, on_event: Events) -> dict[str, str]:
    """Run every task in a process of its own, at most `workers` at once.

    `on_event(arm, event)` is called in this thread for everything a worker reports. Returns what went wrong: arm ->
    message; one worker's end does not touch the others. Whatever leaves this function (Ctrl-C too), no worker is left
    running.
    """
    events: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()
    waiting = list(enumerate(tasks))
    running: dict[int, tuple[subprocess.Popen[str], int]] = {}
    failures: dict[str, str] = {}
    free_slots = list(range(workers))[::-1]
    try:
        while waiting or running:
            while waiting and free_slots:
                number, task = waiting.pop(0)
                slot = free_slots.pop()
                running[number] = (_start(task, slot, number, events), slot)
            number, event = events.get()
            arm = tasks[number].arm
            if event["event"] == "ended":
                process, slot = running.pop(number)
                free_slots.append(slot)
                if status := process.wait():
                    failures.setdefault(arm, _last_words(tasks[number], status))
            elif event["event"] == "error":
                failures[arm] = event["message"]
            on_event(arm, event)
    finally:
        for process, _ in running.values():
            process.kill()
        for process, _ in running.values():
            process.wait()
    return failures


def _start(
    task: WorkerTask, slot: int, number: int, events: queue.Queue[tuple[int, dict[str, Any]]]
) -> subprocess.Popen[str]:
    task.log_path.parent.mkdir(parents=True, exist_ok=True)
    with open(task.log_path, "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tslaw.measure.worker", str(task.job_path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # Ctrl-C reaches the runner alone, which then ends its workers
            env=_environment(slot),
        )
    threading.Thread(target=_listen, args=(process, number, events, task.log_path), daemon=True).start()
    return process


def _environment(slot: int) -> dict[str, str]:
    """The worker's environment: on a machine with GPUs, one of them, in turn."""
    env = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    if gpus := _gpus():
        env["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    return env


def _gpus() -> list[str]:
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [g for g in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if g]
    if shutil.which("nvidia-smi") is None:
        return []
    listing = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False).stdout
    return [str(i) for i in range(len(listing.splitlines()))]


def _listen(
    process: subprocess.Popen[str], number: int, events: queue.Queue[tuple[int, dict[str, Any]]], log_path: Path
) -> None:
    """Pass a worker's events on; other lines that libraries print go to its log."""
    assert process.stdout is not None
    with open(log_path, "a", encoding="utf-8") as log, process.stdout:
        for line in process.stdout:
            if line.startswith(MARK):
                events.put((number, json.loads(line.removeprefix(MARK))))
            else:
                log.write(line)
    process.wait()
    events.put((number, {"event": "ended"}))


def _last_words(task: WorkerTask, status: int) -> str:
    """The end of a failed worker's log."""
    lines = [line.rstrip() for line in task.log_path.read_text(errors="replace").splitlines() if line.strip()]
    how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
    tail = "\n".join(f"      {line[:200]}" for line in lines[-TAIL_LINES:])
    return f"its process ended ({how}); last lines of {task.log_path}:\n{tail}"
