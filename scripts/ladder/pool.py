"""The pool of training rows, made once from fixed seeds and read by every size in the same order."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import numpy as np

from ladder import mixture, rows

PER_STEP = (4, 24, 600)  # rows of each length in a training step: about 33,000 tokens
LENGTHS = (rows.LONG, rows.SHORT, rows.DRILL)
NAMES = ("long", "short", "drill")
VALIDATION_ROWS = (8, 96, 1024)
CHUNK_STEPS = 100  # steps made from one seed, so that the rows do not depend on the number of workers
SEED, FINISH_SEED = 20_251_000, 20_252_000


def open_pool(folder: Path, mode: str = "r") -> list[np.ndarray]:
    """The three arrays of rows, memory-mapped."""
    return [np.load(folder / f"{name}.npy", mmap_mode=mode) for name in NAMES]  # type: ignore[arg-type]


def validation_rows() -> tuple[np.ndarray, ...]:
    """Rows that are in no pool."""
    return mixture.make_rows(SEED - 1, *VALIDATION_ROWS, True, *rows.tables())


def _write_chunk(job: tuple[Path, int, bool]) -> None:
    folder, chunk, finish = job
    seed = (FINISH_SEED if finish else SEED) + chunk
    made = mixture.make_rows(seed, *(CHUNK_STEPS * n for n in PER_STEP), finish, *rows.tables())
    for target, n, part in zip(open_pool(folder, "r+"), PER_STEP, made, strict=True):
        start = chunk * CHUNK_STEPS * n
        target[start : start + len(part)] = part[: len(target) - start]


def make_pool(folder: Path, steps: int, workers: int, finish: bool) -> None:
    """Write rows for ``steps`` steps of the main stage or the finishing stage; DONE is written last."""
    began = time.time()
    if (folder / "DONE").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    steps = -(-steps // CHUNK_STEPS) * CHUNK_STEPS
    for name, n, length in zip(NAMES, PER_STEP, LENGTHS, strict=True):
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint16, (n * steps, length))
    mixture.make_rows(0, 1, 1, 1, finish, *rows.tables())  # compiles once, before the workers are forked
    jobs = [(folder, chunk, finish) for chunk in range(steps // CHUNK_STEPS)]
    with multiprocessing.get_context("fork").Pool(workers) as workers_pool:
        workers_pool.map(_write_chunk, jobs, chunksize=1)
    (folder / "DONE").touch()
    print(f"pool of {steps} steps in {time.time() - began:.0f} s", flush=True)


def wait_for_pool(folder: Path, seconds: float = 300) -> None:
    """Return when the pool is complete."""
    began = time.time()
    while not (folder / "DONE").exists():
        if time.time() - began > seconds:
            raise SystemExit(f"{folder}: no complete pool of training rows after {seconds:.0f} s")
        time.sleep(0.3)


if __name__ == "__main__":
    import sys

    cores = max(1, (os.cpu_count() or 2) // 2)
    for stage, n_steps in zip(("main", "finish"), map(int, sys.argv[2:4]), strict=True):
        if n_steps:
            make_pool(Path(sys.argv[1]) / stage, n_steps, cores, finish=stage == "finish")
