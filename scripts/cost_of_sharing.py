"""What one trajectory for all budgets saves: the same arms measured that way and with one run per budget.

    python scripts/cost_of_sharing.py ladder-cpu --models ladder-0.4M,ladder-1.7M

Native weights, tslaw's own engine, thinking and probes; one engine a model, one after the other, both ways in the same
engine. Starting the engine is not counted: it would be paid once by either way. Prints one table row an arm and task.
Without --problems and --samples the plan's own are used.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from tslaw.measure.engine import EngineSettings, open_engine, prepare_environment
from tslaw.measure.plan import Plan, load_plan
from tslaw.measure.tasks import load_task
from tslaw.measure.thinking import bind, get_format, load_tokenizer
from tslaw.measure.trajectory import longest_request, probe, run_to_budget, think
from tslaw.measure.units import fetch_model


def seconds_of(work: Callable[..., Any], engine: Any, *arguments: Any) -> float:
    """How long `work(engine, *arguments)` takes from an empty prefix cache."""
    engine.reseed(0)
    start = time.monotonic()
    work(engine, *arguments)
    return time.monotonic() - start


def share(engine: Any, prompts: Any, samples: int, budgets: Any, fmt: Any) -> None:
    """One trajectory for all budgets, as `tslaw measure` does it."""
    probe(engine, think(engine, prompts, samples, budgets[-1], fmt), budgets, fmt)


def compare(plan: Plan, name: str, problems: int | None, samples: int) -> list[str]:
    """One model, both ways on every task: a table row each."""
    prepare_environment()
    (ref,) = [ref for ref in plan.model_refs if ref.name == name]
    folder = fetch_model(ref.source)
    fmt = bind(get_format(ref.thinking_format), load_tokenizer(folder))
    prompts = {
        task.name: [fmt.render(p.prompt) for p in load_task(task.name).problems(problems or task.problems, task.seed)]
        for task in plan.tasks
    }
    settings = EngineSettings(
        model=folder,
        max_model_len=max(longest_request(prompts[task.name], task.budgets[-1], fmt) for task in plan.tasks),
        temperature=plan.temperature,
        top_p=plan.top_p,
        seed=plan.seed,
        **plan.engine.model_dump(),
    )
    rows = []
    with open_engine(settings) as engine:
        for task in plan.tasks:
            some, budgets = prompts[task.name], task.budgets
            run_to_budget(engine, some[:1], samples, budgets[0], fmt)  # the first steps of an engine are slow
            one = seconds_of(share, engine, some, samples, budgets, fmt)
            many = sum(seconds_of(run_to_budget, engine, some, samples, b, fmt) for b in budgets)
            tokens = [n * len(some) * samples for n in (budgets[-1], sum(budgets))]
            rows.append(
                f"| {name} | {task.name} | {tokens[0]:,}, {one:.1f} | {tokens[1]:,}, {many:.1f} "
                f"| {tokens[1] / tokens[0]:.2f} x | {many / one:.2f} x |"
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", help="a plan's YAML file or a shipped plan")
    parser.add_argument("--models", required=True, help="members of the family, with commas between")
    parser.add_argument("--problems", type=int)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)  # one model, in a process of its own
    options = parser.parse_args()
    plan = load_plan(options.plan)
    if options.alone:
        print(json.dumps(compare(plan, options.models, options.problems, options.samples or plan.samples)))
        return
    print("| model | task | shared: tokens, s | one run a budget: tokens, s | tokens saved | time saved |")
    print("| --- | --- | --- | --- | --- | --- |")
    for model in options.models.split(","):
        given = [f"--{key}={getattr(options, key)}" for key in ("problems", "samples") if getattr(options, key)]
        command = [sys.executable, __file__, options.plan, "--alone", "--models", model, *given]
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        print("\n".join(json.loads(said.splitlines()[-1])), flush=True)


if __name__ == "__main__":
    main()
