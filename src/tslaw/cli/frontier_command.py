"""`tslaw frontier`: the configurations worth their memory, with probabilities."""

from __future__ import annotations

import json
from typing import Annotated

import numpy as np
import typer

from tslaw.cli.options import AccountingName, AsJson, Batch, FitFile, Task, console, posteriors


def command(
    fit: FitFile,
    batch: Batch = 1,
    task: Task = None,
    accounting: AccountingName = "checkpoint",
    min_probability: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out configurations less likely than this to be on the frontier.")
    ] = 0.2,
    as_json: AsJson = False,
) -> None:
    """List the accuracy-memory Pareto frontier: every measured configuration with its probability of being on it.

    Compressed KV caches count where the fit holds any (tslaw fit --compressed-kv).

    For example: `tslaw frontier fits/ladder.nc --task ladder-math --batch 4`
    """
    from tslaw.fit.frontier import frontier
    from tslaw.memory import GIB

    answers = []
    for posterior in posteriors(fit, task):
        found = frontier(posterior, batch, accounting, posterior.budgets)
        interval = np.quantile(found.accuracy, [0.5, 0.05, 0.95], axis=0)
        rows = [
            {
                "model": c.model,
                "weight_bits": c.weight_bits,
                "kv_policy": str(c.kv_policy),
                "token_budget": c.token_budget,
                "memory_gib": c.memory / GIB,
                "accuracy": float(interval[0, i]),
                "interval": [float(interval[1, i]), float(interval[2, i])],
                "p_frontier": float(found.membership[i]),
            }
            for i, c in enumerate(found.configurations)
            if found.membership[i] >= min_probability
        ]
        described = {"task": found.task, "approximate": posterior.approximate, "batch": batch, "accounting": accounting}
        answers.append(described | {"configurations": rows})
    if as_json:
        print(json.dumps(answers, indent=2))
        return
    for answer in answers:
        print_table(answer)


def print_table(answer: dict) -> None:
    """One task's frontier as a table."""
    from rich.table import Table

    from tslaw.fit.posterior import marked
    from tslaw.memory import GIB
    from tslaw.units import format_bytes

    task = marked(answer["task"], answer["approximate"])
    table = Table(title=f"{task}: frontier at batch {answer['batch']:g}", title_justify="left")
    compressed = any(r["kv_policy"] != "full" for r in answer["configurations"])
    cache = ("KV cache",) if compressed else ()
    for name in ("memory", "model", "weight bits", *cache, "tokens", "accuracy", "90% interval", "P(frontier)"):
        table.add_column(name, justify="left" if name in ("model", "KV cache") else "right")
    for r in answer["configurations"]:
        low, high = r["interval"]
        arm = (r["model"], f"{r['weight_bits']:g}", *([r["kv_policy"]] if compressed else []))
        cells = (f"{r['token_budget']}", f"{r['accuracy']:.3f}", f"{low:.3f} to {high:.3f}", f"{r['p_frontier']:.2f}")
        table.add_row(format_bytes(r["memory_gib"] * GIB), *arm, *cells)
    console().print(table)
