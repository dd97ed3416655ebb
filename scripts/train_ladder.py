"""Train the whole ladder: python scripts/train_ladder.py --out build/ladder

All sizes train at once, spread over the GPUs there are, on the same rows from fixed seeds; each is then evaluated by a
simple sampler. Resumable: a size whose checkpoint (or evaluation) exists under --out is skipped, and one that has done
its first stage goes on from there. Two H100s take about ten minutes. The options ending in -seconds cap the stages: a
learning rate then decays in time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
SOURCES = [str(HERE), str(HERE.parent / "src")]  # a GPU machine need not have tslaw installed
sys.path[:0] = SOURCES

from ladder.architecture import SIZES, Size, parameter_count  # noqa: E402
from ladder.train import FINISH_STEPS  # noqa: E402


def share_out(sizes: list[Size], n_devices: int) -> dict[str, int]:
    """Size -> GPU: the largest first, each to the GPU with the least work so far."""
    load, where = [0.0] * max(1, n_devices), {}
    for size in sorted(sizes, key=parameter_count, reverse=True):
        device = load.index(min(load))
        where[size.name] = device
        load[device] += size.steps * (parameter_count(size) / 1e6 + 3)  # small ones are bound by launches
    return where


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, logs and evaluation")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--steps", type=float, default=1.0, help="times the planned steps")
    parser.add_argument("--train-seconds", type=float, default=0, help="main stage over by then (0: no cap)")
    parser.add_argument("--finish-seconds", type=float, default=0, help="finishing stage over by then")
    parser.add_argument("--evaluate-seconds", type=float, default=0, help="no evaluation starts after that")
    parser.add_argument("--stop-seconds", type=float, default=0, help="everything is stopped then")
    parser.add_argument("--samples", type=int, default=16, help="samples a problem in the evaluation")
    parser.add_argument("--largest-budget", type=int, default=1536, help="of the evaluation, in tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-compile", action="store_true")
    return parser.parse_args()


def start(command: list[str], log: Path, device: int | None = None) -> subprocess.Popen[bytes]:
    """A child with its own log."""
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(SOURCES), PYTHONUNBUFFERED="1", OMP_NUM_THREADS="2")
    env["TORCHINDUCTOR_COMPILE_THREADS"] = "4"
    if device is not None:
        env["CUDA_VISIBLE_DEVICES"] = str(device)
    with log.open("ab") as f:
        return subprocess.Popen([sys.executable, "-m", *command], env=env, stdout=f, stderr=subprocess.STDOUT)


def main() -> int:
    began, a = time.time(), arguments()
    (a.out / "logs").mkdir(parents=True, exist_ok=True)
    sizes = [SIZES[name] for name in a.sizes]
    steps = {s.name: max(1, int(s.steps * a.steps)) for s in sizes}
    where = share_out(sizes, torch.cuda.device_count())
    shared_memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=shared_memory, prefix="ladder-pool-") as pool:
        cap = {key: str(began + value if value else 0) for key, value in
               (("--train-until", a.train_seconds), ("--finish-until", a.finish_seconds),
                ("--evaluate-until", a.evaluate_seconds))}  # fmt: skip
        children, finish_steps = [], str(max(1, int(FINISH_STEPS * a.steps)))
        unfinished = [s for s in sizes if not (a.out / s.name).exists()]
        if unfinished:
            fresh = [steps[s.name] for s in unfinished if not (a.out / "stage-1" / s.name).exists()]
            main_steps = max(fresh, default=0)
            children.append(start(["ladder.pool", pool, str(main_steps), finish_steps], a.out / "logs/pool.log"))
        for size in sizes:
            command = ["ladder.job", size.name, "--pool", pool, "--out", str(a.out), "--steps", str(steps[size.name]),
                       "--finish-steps", finish_steps, "--seed", str(a.seed), "--samples", str(a.samples),
                       "--largest-budget", str(a.largest_budget),
                       *(x for pair in cap.items() for x in pair)]  # fmt: skip
            command += ["--no-compile"] if a.no_compile else []
            children.append(start(command, a.out / f"logs/{size.name}.log", where[size.name]))
        while any(c.poll() is None for c in children):
            time.sleep(0.5)
            if a.stop_seconds and time.time() - began > a.stop_seconds:
                print("out of time: stopping what still runs")
                for child in children:
                    child.kill()
    failed = [c.args for c in children if c.wait() != 0]
    print(f"{len(sizes)} sizes in {time.time() - began:.0f} s; {len(failed)} failed; logs under {a.out / 'logs'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
