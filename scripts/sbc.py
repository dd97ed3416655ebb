"""Simulation-based calibration of the fit: `python scripts/sbc.py [--replicates N] [--jobs N] [--out FILE]`.

Every replicate draws a truth from the prior, simulates trajectories with flips at nested budgets, fits them and ranks
the truth (tslaw.calibrate.sbc): some minutes of a core. A replicate is a line of JSON in FILE, appended when it is
done, and not done again when the script is run again. `--report` prints the table of FILE and puts it,
and the rank histograms, beside it.

Two short chains sometimes disagree, and what they say is then not the posterior. `--again 1.02 --warmup 500 --samples
2000` runs the replicates with a larger R-hat anew, with longer chains; a replicate's last line counts. Which ones these
are depends on the chains alone and not on where the truth lay among them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=200)
    parser.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), help="replicates at once, a core each"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs/calibration/sbc.jsonl")
    parser.add_argument("--warmup", type=int, default=250, help="iterations a chain spends adapting; two chains")
    parser.add_argument("--samples", type=int, default=650, help="draws kept from every chain")
    parser.add_argument(
        "--again", type=float, metavar="RHAT", help="run those of FILE anew whose chains disagreed by more than this"
    )
    parser.add_argument("--report", action="store_true", help="no fits: the table and the figure of what is there")
    options = parser.parse_args()
    if options.report:
        report(options.out)
        return 0
    done = rows(options.out)
    if options.again:
        seeds = disagreed(done, options.again, options.samples)
    else:
        seeds = sorted(set(range(options.replicates)) - {row["seed"] for row in done})
    options.out.parent.mkdir(parents=True, exist_ok=True)
    run(seeds, options)
    return 0


def rows(path: Path) -> list[dict[str, Any]]:
    """What was done so far, by seed; of a replicate that was run anew the last."""
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    last = {row["seed"]: row for row in found}
    return [last[seed] for seed in sorted(last)]


def disagreed(done: list[dict[str, Any]], rhat: float, samples: int) -> list[int]:
    """The seeds of replicates with a larger R-hat, or none, that were not run with so many samples yet, the worst
    first."""
    worst = [row for row in done if not row["rhat"] <= rhat and row.get("samples", 0) < samples]
    return [row["seed"] for row in sorted(worst, key=lambda row: -np.nan_to_num(row["rhat"], nan=np.inf))]


def run(seeds: list[int], options: argparse.Namespace) -> None:
    """Do the replicates in processes of their own, and append each to the file."""
    from rich.progress import track

    spawn = multiprocessing.get_context("spawn")
    cores = spawn.SimpleQueue()
    for i in range(options.jobs):
        cores.put(sorted(os.sched_getaffinity(0))[i % len(os.sched_getaffinity(0))])
    with (
        ProcessPoolExecutor(options.jobs, mp_context=spawn, initializer=own_core, initargs=(cores,)) as pool,
        options.out.open("a") as file,
    ):
        jobs = [pool.submit(one, seed, options.warmup, options.samples) for seed in seeds]
        for job in track(as_completed(jobs), "replicates", total=len(jobs), disable=not sys.stderr.isatty()):
            try:
                row = job.result()
            except Exception as error:  # one replicate that fails must not end the others, but it must be seen
                print(f"a replicate failed: {error!r}", file=sys.stderr, flush=True)
                continue
            print(json.dumps(row), file=file, flush=True)


def own_core(cores: Any) -> None:
    """One core and one thread for this process, so that replicates do not get in each other's way."""
    os.sched_setaffinity(0, {cores.get()})
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["OMP_NUM_THREADS"] = "1"
    from tslaw.fit.infer import prepare_jax

    prepare_jax(1)


def one(seed: int, warmup: int, samples: int) -> dict[str, Any]:
    """One replicate in this process."""
    from dataclasses import replace

    import jax

    from tslaw.calibrate.sbc import SAMPLING, replicate

    row = replicate(seed, sampling=replace(SAMPLING, warmup=warmup, samples=samples))
    jax.clear_caches()  # every replicate's data are compiled in
    return {**row, "warmup": warmup, "samples": samples}


def report(path: Path) -> None:
    """Print the table of `path`, write it into the .md beside it, and draw the ranks into the .png."""
    from tslaw.calibrate.sbc import calibration
    from tslaw.plots.calibration import rank_histograms

    done = rows(path)
    found = calibration(done)
    worst = sum(c.p_uniform < 0.01 for c in found)
    slow, stuck = sum(r["rhat"] > 1.05 for r in done), sum(r["rhat"] != r["rhat"] for r in done)
    anew = len(path.read_text().splitlines()) - len(done)
    lines = [
        f"{len(done)} replicates, {anew} of them run anew with longer chains because theirs disagreed; p < 0.01 for "
        f"{worst} of {len(found)} quantities; mean coverage {sum(c.coverage for c in found) / len(found):.1%}. "
        f"R-hat > 1.05 for some parameter in {slow} replicates, chains that did not move in {stuck}.",
        "",
        "| quantity | p (uniform ranks) | covered by the 90% interval | 90% interval of that |",
        "| --- | --- | --- | --- |",
    ]
    for c in found:
        low, high = c.coverage_interval
        lines.append(f"| {c.name} | {c.p_uniform:.3f} | {c.coverage:.1%} | {low:.1%} to {high:.1%} |")
    text = "\n".join(lines) + "\n"
    print(text, end="")
    path.with_suffix(".md").write_text(text)
    rank_histograms(found).savefig(path.with_suffix(".png"))


if __name__ == "__main__":
    sys.exit(main())
