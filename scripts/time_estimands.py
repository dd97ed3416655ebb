"""How long every estimand of a fit takes: `python scripts/time_estimands.py [FIT ...] [--draws N] [--out FILE]`.

Each is asked as the commands ask it (tslaw.calibrate.timing), of N draws: those of the fit over and over if it has
fewer. Prints a row when it is done, and writes the page into FILE when all are. A few minutes on two cores; what else
runs there makes the numbers larger, so the load average stands beside them.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tslaw.calibrate.timing import Timing

ROOT = Path(__file__).resolve().parents[1]
GOAL = 5.0
"""Seconds that an estimand may take."""
CONTENDED = 0.2
"""From which share of the cores in others' hands on seconds are remarked upon."""
HEADER = "| estimand | draws | first call, s | again, s | others |\n| --- | --- | --- | --- | --- |"
INTRODUCTION = f"""\
# How long the estimands take

What a fit is asked for, timed by itself: the crossover W+ (over continuous sizes, and among the family's models only)
at every measured weight bit width, the onset of parallel scaling (from which memory and size on more than one sample
pays, by majority votes), the probability that weight bits are best, the Pareto frontier, the regret of every option at
a memory that all fit into, a size nobody ran, and, where a fit holds compressed KV caches (which are on its frontier
and among its options then), what these gain and above which size eviction is no better than rounding. They are the
functions that `tslaw crossover`, `findings`, `frontier`, `recommend` and `predict` call, in the same precision. The
goal is less than {GOAL:g} s.

**First call** includes all compilation: nothing that an earlier row compiled is used. **Again** is the shortest of some
more calls, and **others** the share of the machine's cores that other processes had during it: where that is not small,
the seconds are too many. Starting Python and reading the fit are in neither.

This page is made by
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fits", nargs="*", default=["fits/ladder-math.nc", "fits/kv-knowledge.nc"], metavar="FIT")
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3, help="calls after the first; the shortest counts")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/timings.md")
    options = parser.parse_args()
    from tslaw.calibrate.machine import this_machine

    machine = this_machine()  # before there is any load of one's own
    print(f"{machine.in_words()}\n", flush=True)
    found = [part for fit in options.fits for part in sections(fit, options.draws, options.repeats)]
    command = shlex.join(["python", f"scripts/{Path(__file__).name}", *sys.argv[1:]])
    options.out.write_text("\n".join([INTRODUCTION, f"    {command}\n", f"{machine.in_words()}.\n", *found]))
    return 0


def sections(fit: str, draws: int, repeats: int) -> list[str]:
    """The sections of a fit, one a task; rows are printed as they are done."""
    started = time.perf_counter()
    from tslaw.calibrate.timing import estimands, timed, with_draws
    from tslaw.fit.fit_file import load_posterior, open_fit, task_names

    tree, found = open_fit(ROOT / fit), []
    for task in task_names(tree):
        stored = load_posterior(tree, task)
        posterior = with_draws(stored, draws)
        n_problems = posterior.params["difficulty"].shape[1]
        lines = [
            f"## {posterior.title}\n",
            f"`{fit}`: {n_problems} problems, {len(posterior.arms)} arms, {len(posterior.budgets)} budgets, "
            f"{stored.n_draws:,} draws stored, {posterior.n_draws:,} used; read in "
            f"{time.perf_counter() - started:.1f} s, imports included.\n",
            HEADER,
        ]
        print("\n".join(lines), flush=True)
        rows = []
        for each in timed(estimands(posterior), repeats):
            rows.append(each)
            print(row(each), flush=True)
        lines += [*map(row, rows), "", verdict(rows), ""]
        print(f"\n{verdict(rows)}\n", flush=True)
        found.append("\n".join(lines))
        started = time.perf_counter()
    return found


def row(found: Timing) -> str:
    """A line of the table."""
    return f"| {found.name} | {found.draws:,} | {found.first:.2f} | {found.again:.2f} | {found.others:.0%} |"


def verdict(rows: list[Timing]) -> str:
    """Which rows miss the goal."""
    late = [r for r in rows if r.again >= GOAL]
    first = [r for r in rows if r.first >= GOAL > r.again]
    said = [f"{GOAL:g} s or more: {named(late)}." if late else f"All take less than {GOAL:g} s once compiled."]
    if first:
        said.append(f"{GOAL:g} s or more for the first call only: {named(first)}.")
    elif not late:
        said = [f"All take less than {GOAL:g} s, the first call too."]
    return " ".join(said)


def named(rows: list[Timing]) -> str:
    """Rows in a sentence, with a remark where the machine was not this process's own."""
    remark = {True: f" (others had {CONTENDED:.0%} of the cores or more)", False: ""}
    return "; ".join(f"{r.name}, {r.draws:,} draws{remark[r.others >= CONTENDED]}" for r in rows)


if __name__ == "__main__":
    sys.exit(main())
