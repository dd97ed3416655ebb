"""A wrong surface must look wrong: data simulated from each surface, fitted with both, compared.

    python scripts/wrong_surface.py --out out/wrong_surface

Prints a table row for each surface fitted to each data set, the best elpd first. What is finished is kept in --out and
not done again: stopped, it goes on from there. `elpd` differences are LOO's with their standard errors; `weight` is the
stacking weight; `in 90%` the share of accuracies inside their 90% predictive intervals, and `losses` that of the shares
of trajectories which are right at a budget and wrong at the next.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tslaw.fit.infer import Sampling, prepare_jax

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS / "fit"), str(TESTS)]  # the truths are the tests'

SURFACES = ("mechanistic", "plain")
HEADER = "| truth | seed | fitted | elpd difference | weight | p_loo | k > 0.7 | in 90% | rms misfit | losses in 90% "
HEADER += "| rms misfit of losses | seconds | diagnostics |"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for what is finished")
    parser.add_argument("--truth", choices=SURFACES, action="append", help="only data of this one; may be repeated")
    parser.add_argument("--problems", type=int, default=24)
    parser.add_argument("--trajectories", type=int, default=16, help="for each arm and problem")
    parser.add_argument("--seeds", type=int, default=2, help="data sets from each truth")
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=400)
    parser.add_argument("--samples", type=int, default=800)
    return parser.parse_args()


def one_case(truth: str, seed: int, args: argparse.Namespace, sampling: Sampling) -> dict[str, Any]:
    """Simulate, fit both, compare."""
    from surface_truths import simulated_from

    from tslaw.fit.compare import compare_surfaces
    from tslaw.fit.surfaces.registry import load_surfaces

    data = simulated_from(truth, args.problems, args.trajectories, seed)
    found = compare_surfaces(load_surfaces(SURFACES), data, sampling, lambda text: print(text, file=sys.stderr))
    return found.as_dict()


def kept_case(truth: str, seed: int, args: argparse.Namespace, sampling: Sampling) -> dict[str, Any]:
    """The case from --out if it was done there with the same settings, and otherwise done now and stored."""
    settings = {k: v for k, v in asdict(sampling).items() if k != "progress"}
    settings |= {"problems": args.problems, "trajectories": args.trajectories}
    path = args.out / f"{truth}-{seed}.json"
    if path.exists():
        stored = json.loads(path.read_text())
        if stored["settings"] == settings:
            return stored["comparison"]
    print(f"truth {truth}, seed {seed}", file=sys.stderr)
    comparison = one_case(truth, seed, args, sampling)
    args.out.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"settings": settings, "comparison": comparison}, indent=2))
    os.replace(temporary, path)
    return comparison


def line(truth: str, seed: int, row: dict[str, Any]) -> str:
    """One row of the table."""
    difference = f"{row['elpd_diff']:.1f} ± {row['elpd_diff_se']:.1f}" if row["elpd_diff_se"] else "best"
    return (
        f"| {truth} | {seed} | {row['surface']} | {difference} | {row['weight']:.2f} | {row['p_loo']:.1f} "
        f"| {row['bad_pareto_k']:.1%} | {row['coverage']:.0%} | {row['rms_misfit']:.4f} | {row['lost_coverage']:.0%} "
        f"| {row['lost_rms_misfit']:.4f} | {row['seconds']:.0f} | {'passed' if row['passed'] else 'FAILED'} |"
    )


def main() -> int:
    """Every truth and seed, one after the other."""
    args = arguments()
    prepare_jax(args.chains)
    print(HEADER, flush=True)
    print("|" + " --- |" * (HEADER.count("|") - 1), flush=True)
    for truth in args.truth or SURFACES:
        for seed in range(args.seeds):
            sampling = Sampling(chains=args.chains, warmup=args.warmup, samples=args.samples, seed=seed)
            for row in kept_case(truth, seed, args, sampling)["surfaces"]:
                print(line(truth, seed, row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
