"""What one trajectory for all budgets saves: the same arms measured that way and with one run per budget.

    python scripts/cost_of_sharing.py ladder-cpu --models ladder-0.4M,ladder-1.7M --weight-bits 16 --out out/cost

Both go through `tslaw measure` on this machine, one arm at a time; prints one table row an arm and task. Without
--problems and --samples the plan's own are used. Results of an earlier run in the same folder are used again.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tslaw.dataset import open_dataset
from tslaw.measure.plan import Plan, load_plan
from tslaw.measure.runner import measure


@dataclass(frozen=True)
class Cost:
    """Thinking tokens decoded, and the seconds they and the probes took."""

    tokens: int
    seconds: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.tokens + other.tokens, self.seconds + other.seconds)


def costs(plan: Plan, out: Path) -> dict[tuple[str, str], Cost]:
    """Measure `plan` into `out`: what every (arm, task) cost."""
    found = {}
    for path in measure(plan, out, resume=True).outputs:
        ds = open_dataset(path)
        per_arm = int(ds["budget"].values[-1]) * ds.sizes["problem"] * ds.sizes["sample"]
        seconds = ds["thinking_seconds"].values + ds["probe_seconds"].values
        for arm, spent in zip(ds["arm"].values.astype(str), seconds, strict=True):
            found[arm, ds.attrs["task"]] = Cost(per_arm, float(spent))
    return found


def changed(plan: Plan, **changes: Any) -> Plan:
    """The plan with some keys replaced, checked again; a plain copy would keep what the old one has looked up."""
    return Plan.model_validate({**{name: getattr(plan, name) for name in Plan.model_fields}, **changes})


def only_budget(plan: Plan, number: int) -> Plan:
    """The plan with every task at its `number`-th budget alone (tasks that have fewer are left out)."""
    tasks = tuple(
        task.model_copy(update={"budgets": (task.budgets[number],)})
        for task in plan.tasks
        if number < len(task.budgets)
    )
    return changed(plan, tasks=tasks, name=f"{plan.name}-budget{number}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", help="a plan's YAML file or a shipped plan")
    parser.add_argument("--models", required=True, help="members of the family, with commas between")
    parser.add_argument("--weight-bits", type=int, default=16, choices=(16, 8, 4))
    parser.add_argument("--problems", type=int)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    plan = load_plan(options.plan)
    tasks = tuple(t.model_copy(update={"problems": options.problems or t.problems}) for t in plan.tasks)
    plan = changed(
        plan,
        name="shared",
        models=tuple(options.models.split(",")),
        weight_bits=(options.weight_bits,),
        samples=options.samples or plan.samples,
        tasks=tasks,
        workers=1,  # arms that run side by side would slow each other down unevenly
    )
    shared = costs(plan, options.out / "shared")
    alone: dict[tuple[str, str], Cost] = {}
    for number in range(int(np.max([len(task.budgets) for task in plan.tasks]))):
        for key, cost in costs(only_budget(plan, number), options.out / f"budget{number}").items():
            alone[key] = alone.get(key, Cost(0, 0.0)) + cost
    print("| arm | task | shared: tokens, s | one run a budget: tokens, s | tokens saved | time saved |")
    print("| --- | --- | --- | --- | --- | --- |")
    for (arm, task), one in shared.items():
        many = alone[arm, task]
        print(
            f"| {arm} | {task} | {one.tokens:,}, {one.seconds:.1f} | {many.tokens:,}, {many.seconds:.1f} "
            f"| {many.tokens / one.tokens:.2f} x | {many.seconds / one.seconds:.2f} x |"
        )


if __name__ == "__main__":
    main()
