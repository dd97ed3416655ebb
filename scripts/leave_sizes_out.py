"""Fit the sweep without some sizes and predict them: `python scripts/leave_sizes_out.py [TASK ...] [--out FILE]`.

Left out in turn: the largest size, the two largest, the smallest. Every fold is a line of JSON in FILE, appended when
it is done and skipped when the script is run again, but for `--again`; one that was interrupted goes on where it was.
`--report` prints the table of FILE and puts it, and the figure, beside it.
A fold of the shipped sweep takes a quarter of an hour on two cores, a few minutes on a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
FOLDS = {"the largest": slice(-1, None), "the two largest": slice(-2, None), "the smallest": slice(0, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=["math", "knowledge"])
    parser.add_argument("--out", type=Path, default=ROOT / "docs/calibration/leave_sizes_out.jsonl")
    parser.add_argument("--data", default="measurements/ladder-{task}.nc", help="where a task's measurement is")
    parser.add_argument("--fold", choices=FOLDS, action="append", help="only this one; may be repeated")
    parser.add_argument("--beside", help="a task that is whole, and pooled with the one that sizes are left out of")
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--target-accept", type=float, default=0.9)
    parser.add_argument("--again", action="store_true", help="run failed folds of FILE anew; the last counts")
    parser.add_argument("--report", action="store_true", help="no fits: the table and the figure of what is there")
    options = parser.parse_args()
    if options.report:
        report(options.out)
        return 0
    from tslaw.fit.infer import prepare_jax
    from tslaw.fit.unfinished import remove_unfinished

    prepare_jax(options.chains)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    done = {which(row) for row in rows(options.out) if row["diagnosis"]["passed"] or not options.again}
    for task in options.tasks:
        for name in options.fold or FOLDS:
            if (task, name, options.beside) not in done:
                row = fold(task, name, options)
                with options.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                remove_unfinished(options.out, [unfinished(task, name, options)])
                print(summary(row), flush=True)
    return 0


def which(row: dict[str, Any]) -> tuple[str, str, str | None]:
    """The fold that a row is of."""
    return row["task"], row["left_out"], row.get("beside")


def rows(path: Path) -> list[dict[str, Any]]:
    """What was done so far; of a fold that was run anew the last."""
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return list({which(row): row for row in found}.values())


def unfinished(task: str, name: str, options: argparse.Namespace) -> str:
    """What the unfinished run of a fold is called."""
    return "-".join(filter(None, (task, name, options.beside)))


def fold(task: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Fit one task without some sizes, and compare."""
    from tslaw.calibrate.leave_out import INTERVAL, by_size, held_out, split
    from tslaw.calibrate.sbc import as_posterior
    from tslaw.dataset import open_dataset
    from tslaw.fit.data import tasks_data
    from tslaw.fit.diagnostics import diagnose
    from tslaw.fit.fit_tasks import provenance
    from tslaw.fit.infer import Sampling, run_nuts
    from tslaw.fit.model import Prior
    from tslaw.fit.pooling import run_pooled
    from tslaw.fit.unfinished import checkpoint_beside

    files = [ROOT / options.data.format(task=each) for each in (task, options.beside) if each]
    data, *beside = tasks_data([open_dataset(file) for file in files])
    left_out = by_size(data)[FOLDS[name]]
    print(f"{task} without {', '.join(left_out)}", file=sys.stderr, flush=True)
    fitted, held = split(data, left_out)
    sampling = Sampling(options.chains, options.warmup, options.samples, target_accept=options.target_accept)
    kept = checkpoint_beside(options.out, unfinished(task, name, options), sampling, fitted, *beside, Prior())
    if beside:
        draws = run_pooled([fitted, *beside], [Prior(), Prior()], sampling, checkpoint=kept)[0]
    else:
        draws = run_nuts(fitted, Prior(), sampling, kept)
    flat = {k: v.reshape(-1, *v.shape[2:]) for k, v in draws.posterior.items()}
    found = held_out(as_posterior(flat, fitted), fitted, held)
    diagnosis, _ = diagnose(draws, fitted)
    low, middle, high = np.quantile(found.predicted, [INTERVAL[0], 0.5, INTERVAL[1]], axis=0)
    return {
        "task": task,
        "left_out": name,
        "beside": options.beside,
        "models": left_out,
        "model": found.model,
        "weight_bits": found.weight_bits.tolist(),
        "budgets": found.budgets.tolist(),
        **{k: np.round(v, 5).tolist() for k, v in (("measured", found.measured), ("power_law", found.power_law))},
        **{k: np.round(v, 5).tolist() for k, v in (("low", low), ("median", middle), ("high", high))},
        "covered": found.covered.tolist(),
        "diagnosis": diagnosis.as_dict(),
        "provenance": provenance({}, sampling, Prior(), draws.seconds),
    }


def summary(row: dict[str, Any]) -> str:
    """A line of the table for one fold."""
    left_out = f"{row['left_out']} ({', '.join(row['models'])})"
    return line(row["task"], left_out, row.get("beside") or "", [row], "yes" if row["diagnosis"]["passed"] else "no")


def total(done: list[dict[str, Any]]) -> str:
    """The line for the cells of all folds of tasks that were fitted alone."""
    alone = [row for row in done if not row.get("beside")]
    passed = sum(row["diagnosis"]["passed"] for row in alone)
    return line("both", f"all {len(alone)} folds", "", alone, f"{passed} of {len(alone)}")


def line(task: str, left_out: str, beside: str, folds: list[dict[str, Any]], passed: str) -> str:
    """A line of the table: coverage, mean absolute errors, root mean squares over the cells of `folds`."""
    measured, median, law, covered = (
        np.concatenate([np.ravel(fold[k]) for fold in folds]) for k in ("measured", "median", "power_law", "covered")
    )
    surface, baseline = median - measured, law - measured
    return (
        f"| {task} | {left_out} | {beside} | {covered.mean():.0%} | "
        f"{np.abs(surface).mean():.3f} | {np.abs(baseline).mean():.3f} | {np.sqrt((surface**2).mean()):.3f} | "
        f"{np.sqrt((baseline**2).mean()):.3f} | {passed} |"
    )


def report(path: Path) -> None:
    """Print the table of `path`, write it into the .md beside it, and draw measured and predicted curves into the
    .png."""
    from tslaw.plots.calibration import held_out_curves

    done = rows(path)
    columns = (
        "task",
        "left out",
        "pooled with",
        "cells in the 90% interval",
        "mean absolute error",
        "of the power law",
    )
    columns += ("rms error", "of the power law", "diagnostics passed")
    text = (
        "\n".join([f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|", *map(summary, done), total(done)])
        + "\n"
    )
    print(text, end="")
    path.with_suffix(".md").write_text(text)
    held_out_curves(done).savefig(path.with_suffix(".png"))


if __name__ == "__main__":
    sys.exit(main())
