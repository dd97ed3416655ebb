"""How far `tslaw fit --quick` is from NUTS: `python scripts/quick_beside_nuts.py [TASK ...] [--out FOLDER]`.

The measurement of every shipped fit is fitted anew by the program with --quick, and what both fits report is compared
(tslaw.calibrate.beside). Fits go into FOLDER; one that is there already is not made again. Prints the tables, and
writes them into --table. Two or three minutes a task on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tslaw.atomic import replacing
from tslaw.errors import TslawError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xarray as xr

    from tslaw.calibrate.beside import Compared, Summary

ROOT = Path(__file__).resolve().parents[1]
LEAST = 0.01
"""Probabilities that are nearer to each other than this are not shown."""
SUMMARY = ("what", "n", "medians apart", "most", "of", "width", "least", "of", "most", "of")
QUANTITY = ("what", "quantity", "NUTS [90%]", "quick [90%]", "medians apart", "width")
INTRODUCTION = """\
Made by `python scripts/quick_beside_nuts.py`; [../quick.md](../quick.md) says what to make of it.

**Medians apart**: quick's minus NUTS's, in standard deviations of NUTS's draws (without sign where several are
summarised, by the middle one and the one that is furthest off). **Width**: of quick's 90% highest-density interval,
NUTS's being 1. Crossovers are compared as logs, draws beyond the measured sizes counted at the end that they passed.
*Unseen* are models that nobody ran, as `tslaw predict` predicts them.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=["math", "knowledge"])
    parser.add_argument("--fits", default="fits/ladder-{task}.nc", help="where a task's NUTS fit is")
    parser.add_argument("--data", default="measurements/ladder-{task}.nc", help="where its measurement is")
    parser.add_argument("--out", type=Path, default=ROOT / "out/quick", help="folder of the quick fits")
    parser.add_argument("--table", type=Path, default=ROOT / "docs/calibration/quick.md")
    options = parser.parse_args()
    parts = [INTRODUCTION]
    for task in options.tasks:
        data, nuts = (ROOT / name.format(task=task) for name in (options.data, options.fits))
        quick = options.out / f"{task}.nc"
        record = fitted(data, quick)
        parts.append(section(nuts, quick, data, record))
        print(parts[-1], flush=True)
    options.table.write_text("\n".join(parts))
    return 0


def fitted(data: Path, out: Path) -> dict[str, Any]:
    """Make the quick fit with the program, as a user does, unless it is there; how long that took, and where."""
    from tslaw.calibrate.machine import this_machine

    record = out.with_suffix(".json")
    if out.exists() and record.exists():
        return json.loads(record.read_text())
    command, machine = ["fit", str(data), "--out", str(out), "--quick", "--overwrite"], this_machine()
    print(f"tslaw {' '.join(command)}", file=sys.stderr, flush=True)
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "tslaw", *command], check=True, stdout=sys.stderr)
    found = {"seconds": round(time.perf_counter() - started, 1), "machine": machine.as_dict()}
    with replacing(record) as temporary:
        temporary.write_text(json.dumps(found))
    return found


def section(nuts: Path, quick: Path, data: Path, record: Mapping[str, Any]) -> str:
    """All that is said of one task."""
    from tslaw.calibrate.beside import compared, reported, summaries
    from tslaw.calibrate.machine import Machine
    from tslaw.fit.fit_file import load_posterior, open_fit

    trees = [open_fit(path) for path in (nuts, quick)]
    check_origin(trees, data)
    its, mine = (load_posterior(tree) for tree in trees)
    from_nuts, from_quick = reported(its), reported(mine)
    found = compared(from_nuts.quantities, from_quick.quantities)
    how = json.loads(trees[1].attrs["provenance"])["sampling"]
    settings = ", ".join(f"{name} {how[name]}" for name in ("steps", "pairs", "samples", "seed"))
    within = json.loads(trees[1].attrs["diagnostics"])[mine.task]["seconds"]
    lines = [
        f"## {its.task}\n",
        f"`tslaw fit {data.name} --quick` ({settings}) took **{record['seconds']:.0f} s**, compilation included: "
        f"{within:.0f} s for the approximation, the rest for imports, LOO, replicated accuracies and writing. "
        f"{Machine(**record['machine']).in_words()}. NUTS beside it: {its.n_draws:,} draws, "
        f"{nuts_seconds(trees[0])}.\n",
        table(SUMMARY, map(summary_row, summaries(found))),
        probabilities_apart(from_nuts.probabilities, from_quick.probabilities),
        "All quantities:\n",
        table(QUANTITY, map(quantity_row, found)),
    ]
    return "\n".join(lines)


def check_origin(trees: Sequence[xr.DataTree], data: Path) -> None:
    """Raise TslawError unless both fits rest on `data` alone."""
    expected = [hashlib.sha256(data.read_bytes()).hexdigest()]
    for tree, what in zip(trees, ("NUTS", "quick"), strict=True):
        if list(json.loads(tree.attrs["provenance"])["inputs"].values()) != expected:
            raise TslawError(
                f"The {what} fit is of other data.",
                where=str(data),
                fix="remove the quick fit, or run scripts/remake.sh",
            )


def nuts_seconds(tree: xr.DataTree) -> str:
    """How long a sampled fit took, and on what."""
    origin = json.loads(tree.attrs["provenance"])
    return f"{origin['seconds']:.0f} s on an {origin['device']}"


def table(header: Sequence[str], rows: Any) -> str:
    """A markdown table and the blank line after it."""
    lines = [f"| {' | '.join(header)} |", "| --- " * len(header) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def summary_row(found: Summary) -> list[str]:
    """Medians apart without sign, in standard deviations of NUTS; widths as shares of NUTS's."""
    shifts = [_number(found.middle_shift), _number(found.worst_shift), found.worst]
    widths = [_number(found.narrowest_width), found.narrowest, _number(found.widest_width), found.widest]
    return [found.kind, f"{found.n}", *shifts, _number(found.middle_width), *widths]


def quantity_row(found: Compared) -> list[str]:
    """One quantity; a crossover's medians and intervals as sizes, with < and > where they lie beyond."""
    fits = ((found.nuts, found.nuts_interval), (found.quick, found.quick_interval))
    said = [in_words(found, middle, interval) for middle, interval in fits]
    return [found.kind, found.name, *said, _number(found.shift, "+"), _number(found.width)]


def in_words(found: Compared, middle: float, interval: tuple[float, float]) -> str:
    """A median with its interval."""
    from tslaw.calibrate.beside import CROSSOVER
    from tslaw.units import format_bytes

    def one(value: float) -> str:
        beyond = "< " if value <= found.ends[0] else "> " if value >= found.ends[1] else ""
        return beyond + (format_bytes(float(np.exp(value))) if found.kind == CROSSOVER else f"{value:.4g}")

    return f"{one(middle)} [{one(interval[0])}, {one(interval[1])}]"


def _number(value: float, sign: str = "") -> str:
    """Two decimals, or that it is not known."""
    return "not known" if np.isnan(value) else format(value, f"{sign}.2f")


def probabilities_apart(nuts: Mapping[str, float], quick: Mapping[str, float]) -> str:
    """How many probabilities differ by more than `LEAST`, and a table of those, the furthest apart first."""
    apart = {name: quick[name] - p for name, p in nuts.items()}
    shown = sorted((name for name in apart if abs(apart[name]) > LEAST), key=lambda name: -abs(apart[name]))
    said = f"Of {len(apart)} probabilities {len(shown)} are more than {LEAST:g} apart"
    if not shown:
        return f"{said}.\n"
    rows = [[name, f"{nuts[name]:.3f}", f"{quick[name]:.3f}", f"{apart[name]:+.3f}"] for name in shown]
    header = ("P that", "NUTS", "quick", "apart")
    return f"{said}, at most {abs(apart[shown[0]]):.3f}:\n\n{table(header, rows)}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TslawError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
