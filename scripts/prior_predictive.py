"""What the default prior says before any data: `python scripts/prior_predictive.py [--draws N] [--out FOLDER]`.

Families are drawn from the prior for the design of the ladder's maths sweep, and asked questions that a user can judge.
Prints a table, and writes it and a figure into FOLDER.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/calibration")
    options = parser.parse_args()
    from tslaw.fit.infer import prepare_jax

    prepare_jax(1)
    from tslaw.calibrate.prior_predictive import prior_statements
    from tslaw.dataset import open_dataset
    from tslaw.fit.data import tasks_data
    from tslaw.fit.model import Prior
    from tslaw.plots.calibration import statement_histograms

    data = tasks_data([open_dataset(ROOT / "measurements/ladder-math.nc")])[0]
    found = prior_statements(data, Prior(), options.draws)
    lines = [f"| {options.draws} draws, in points | {' | '.join(f'{p:.0%}' for p in LEVELS)} |"]
    lines.append("| --- " * (len(LEVELS) + 1) + "|")
    for name, values in found.items():
        lines.append(f"| {name} | {' | '.join(f'{q:.1f}' for q in np.quantile(values, LEVELS))} |")
    text = "\n".join(lines) + "\n"
    print(text, end="")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "prior_predictive.md").write_text(text)
    statement_histograms(found).savefig(options.out / "prior_predictive.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
