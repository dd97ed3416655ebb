"""`tslaw recommend`: the best configuration for a memory budget."""

from __future__ import annotations

import json
from typing import Annotated

import numpy as np
import typer

from tslaw.cli.options import AccountingName, AsJson, Batch, FitFile, Task, posteriors


def command(
    fit: FitFile,
    memory: Annotated[
        list[str],
        typer.Option(help="Memory a generation may take, such as 24GiB or 2MiB; may be repeated.", show_default=False),
    ],
    batch: Batch = 1,
    task: Task = None,
    accounting: AccountingName = "checkpoint",
    as_json: AsJson = False,
) -> None:
    """Recommend a model, weight bits and token budget for a memory budget, with the chance that it is the best choice.

    Compressed KV caches are among the options where the fit holds any (tslaw fit --compressed-kv). The expected regret
    is the accuracy one expects to lose by taking this one instead of the (unknown) best. For example:

    `tslaw recommend fits/ladder.nc --memory 2MiB --memory 4MiB`
    """
    from tslaw.fit.frontier import recommend
    from tslaw.memory import GIB
    from tslaw.units import parse_bytes

    limits = [parse_bytes(m) for m in memory]
    answers = []
    for posterior in posteriors(fit, task):
        for limit in limits:
            found = recommend(posterior, limit, batch, accounting)
            interval = np.quantile(found.accuracy, [0.5, 0.05, 0.95], axis=0)
            options = [
                {
                    "model": c.model,
                    "weight_bits": c.weight_bits,
                    "kv_policy": str(c.kv_policy),
                    "token_budget": c.token_budget,
                    "memory_gib": c.memory / GIB,
                    "accuracy": float(interval[0, i]),
                    "interval": [float(interval[1, i]), float(interval[2, i])],
                    "p_best": float(found.p_best[i]),
                    "expected_regret": float(found.expected_regret[i]),
                }
                for i, c in enumerate(found.options)
            ]
            described = {"task": posterior.task, "approximate": posterior.approximate}
            answers.append(described | {"memory_budget_gib": limit / GIB, "options": options})
    print(json.dumps(answers, indent=2) if as_json else "\n".join(as_text(a) for a in answers))


def as_text(answer: dict) -> str:
    """The best option in words, and the runner-up."""
    from tslaw.fit.posterior import marked
    from tslaw.memory import GIB
    from tslaw.units import format_bytes

    best, *others = answer["options"]
    limit = format_bytes(answer["memory_budget_gib"] * GIB)
    low, high = best["interval"]
    task = marked(answer["task"], answer["approximate"])
    lines = [
        f"{task}, {limit} a generation: {_name(best)}: accuracy {best['accuracy']:.3f} "
        f"[{low:.3f}, {high:.3f}], P(best) {best['p_best']:.2f}, expected regret {best['expected_regret']:.3f}"
    ]
    if others:
        second = others[0]
        lines.append(f"  next: {_name(second)}: accuracy {second['accuracy']:.3f}, P(best) {second['p_best']:.2f}")
    return "\n".join(lines)


def _name(option: dict) -> str:
    cache = "" if option["kv_policy"] == "full" else f", KV cache {option['kv_policy']}"
    return f"{option['model']} at {option['weight_bits']:g} bits{cache}, {option['token_budget']} tokens"
