"""Train one size, then have a first look at it; what exists already is left alone. Started by train_ladder.py."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ladder.architecture import SIZES
from ladder.evaluate import evaluate
from ladder.train import Run, train


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--train-until", type=float, default=0)
    parser.add_argument("--finish-until", type=float, default=0)
    parser.add_argument("--evaluate-until", type=float, default=0)
    parser.add_argument("--finish-steps", type=int, required=True)
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--largest-budget", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-compile", action="store_true")
    a = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size, folder, stage_1, results = SIZES[a.size], a.out / a.size, a.out / "stage-1" / a.size, a.out / "evaluation"
    if not folder.exists():
        if not stage_1.exists():
            run = Run(size, device, a.steps, a.train_until, seed=a.seed, compiled=not a.no_compile)
            train(run, a.pool / "main", stage_1)
        run = Run(size, device, a.finish_steps, a.finish_until, finishing=True, seed=a.seed, compiled=not a.no_compile)
        train(run, a.pool / "finish", folder, stage_1)
    if not (results / f"{a.size}.npz").exists():
        results.mkdir(parents=True, exist_ok=True)
        evaluate(folder, results / a.size, device, a.evaluate_until, a.samples, a.largest_budget)


if __name__ == "__main__":
    main()
