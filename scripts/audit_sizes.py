"""scaling-audit's leave-one-group-out score beside the surface's errors: `python scripts/audit_sizes.py [--out FILE]`.

Every size of the ladder is left out in turn and predicted by two regressions (tslaw.calibrate.audit); beside them
stands the root mean square error of the surface where scripts/leave_sizes_out.py left the same single size out.
Seconds. Needs the extra `audit` (make install has it). Prints the table and writes it to FILE.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=["math", "knowledge"])
    parser.add_argument("--data", default="measurements/ladder-{task}.nc", help="where a task's measurement is")
    parser.add_argument("--folds", type=Path, default=ROOT / "docs/calibration/leave_sizes_out.jsonl")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/calibration/audit.md")
    options = parser.parse_args()
    from tslaw.calibrate.audit import audit_sizes
    from tslaw.calibrate.leave_out import by_size
    from tslaw.dataset import open_dataset
    from tslaw.fit.data import tasks_data

    surface = surface_errors(options.folds)
    header = ("task", "left out", "distance", "logit, quadratic", "forest", "the surface")
    lines = [f"| {' | '.join(header)} |", "| --- " * len(header) + "|"]
    for task in options.tasks:
        data = tasks_data([open_dataset(ROOT / options.data.format(task=task))])[0]
        found = audit_sizes(data).set_index(["group", "estimator"])
        for model in by_size(data):
            scores = [f"{found.loc[(model, name), 'score']:.3f}" for name in header[3:5]]
            own = f"{surface[task, model]:.3f}" if (task, model) in surface else "not fitted"
            distance = f"{found.loc[(model, header[3]), 'mahalanobis']:.1f}"
            lines.append(f"| {' | '.join([task, model, distance, *scores, own])} |")
    text = "\n".join(lines) + "\n"
    print(text, end="")
    options.out.write_text(text)
    return 0


def surface_errors(path: Path) -> dict[tuple[str, str], float]:
    """The surface's root mean square errors by task and model, of the folds in `path` that left out one model."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    single = [row for row in rows if len(row["models"]) == 1]
    return {
        (row["task"], row["models"][0]): float(np.sqrt(np.mean((np.array(row["median"]) - row["measured"]) ** 2)))
        for row in single
    }


if __name__ == "__main__":
    sys.exit(main())
