"""What compressed KV caches change on the ladder, as probabilities: tables, and with --out figures.

    python scripts/kv_findings.py --out docs/figures > docs/kv_findings.txt

Reads ladder-TASK.nc (full caches), kv/ladder-TASK.nc and kv/pinned/ladder-TASK.nc from --measurements: the problems and
budgets that all of them have. Method: src/tslaw/kvstudy. Needs transformers for the lengths of the prompts.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tslaw.kvstudy import tables
from tslaw.kvstudy.advance import Advance, advance
from tslaw.kvstudy.configurations import joined
from tslaw.kvstudy.control import against_random, draws_of, rounding_cost
from tslaw.kvstudy.kinds import EVICTION, KindContrast, kind_contrasts, slope, threshold
from tslaw.kvstudy.study import COUNTINGS, Study, load_study

TASKS = ("ladder-math", "ladder-knowledge")
BATCHES = (1.0, 4.0, 16.0)
ROWS = 8  # memory budgets of a frontier's table
SHOWN = ("full", "quantized:4", "streaming:32", "streaming:128", "rkv:128", "random:128")  # by kind of problem


def show(text: str) -> None:
    """Print a paragraph, which a blank line ends."""
    print(f"{text}\n")


def advances(study: Study) -> Iterator[tuple[tuple[str, str, float, str], Advance]]:
    """Every question about the frontier: (counting, weight bits, batch, what is allowed) and its answer."""
    for counting in COUNTINGS:
        table, pinned = study.plain[counting], study.pinned[counting]
        allowed = {
            "any": np.full(len(table), True),
            "rounding": table.kind == "quantized",
            "eviction": np.isin(table.kind, (*EVICTION, "random")),
            "hybrid": np.char.find(table.kind, "+") >= 0,
        }
        for batch in BATCHES:
            for name, mask in allowed.items():
                yield (counting, "all", batch, name), advance(table, study.weights, study.partition, batch, mask)
            for bits in (16.0, 8.0, 4.0):
                some = table.where(table.weight_bits == bits)
                yield (counting, f"{bits:g}", batch, "any"), advance(some, study.weights, study.partition, batch)
            native = pinned.where(pinned.weight_bits == 16)
            found = advance(native, study.weights, study.partition, batch)
            yield (counting, "16", batch, "eviction, prompt pinned"), found


def say_frontier(study: Study) -> dict[tuple[str, str, float, str], Advance]:
    found = dict(advances(study))
    show("### The area between the frontiers")
    rows = [tables.area_row([k[0], k[1], f"{k[2]:g}", k[3]], a) for k, a in found.items()]
    show(tables.markdown(tables.AREA_HEADER, rows))
    for counting in COUNTINGS:
        table = study.plain[counting]
        shown = {batch: found[counting, "all", batch, "any"] for batch in BATCHES}
        for batch, a in shown.items():
            show(f"### The frontier, cache as {counting}, batch {batch:g}")
            places = np.linspace(0, len(a.memory) - 1, ROWS).round().astype(int)
            show(tables.frontier_table(a, table, places.tolist()))
        show(f"### Policies on the frontier, cache as {counting}: P(anywhere); part of the log memory range [90%]")
        show(tables.policy_table([(f"batch {b:g}", a) for b, a in shown.items()], table))
    return found


def say_kinds(study: Study) -> dict[str, list[KindContrast]]:
    found = {}
    for counting in COUNTINGS:
        contrasts = kind_contrasts(study.plain[counting], study.weights, study.partition)
        found[counting] = contrasts
        show(f"### Eviction minus rounding at the memory of so many kept tokens, cache as {counting}")
        show(tables.kind_table(contrasts))
        show(f"### The effective size above which rounding is no worse, cache as {counting}")
        rows = []
        for bits in ("all", 16.0, 8.0, 4.0):
            own = [c for c in contrasts if bits in ("all", c.weight_bits)]
            for kept in (*own[0].kept, None):
                label = "mean" if kept is None else f"{kept}"
                name = bits if isinstance(bits, str) else f"{bits:g}"
                rows.append(tables.threshold_row([name, label], threshold(own, kept), slope(own, kept)))
        show(tables.markdown(tables.THRESHOLD_HEADER, rows))
        rounded = study.plain[counting].kind == "quantized"
        both = joined([study.plain[counting].where(rounded), study.pinned[counting]])
        show(f"### The same with the prompt pinned, cache as {counting}")
        show(tables.kind_table(kind_contrasts(both, study.weights, study.partition)))
    return found


def say_control(study: Study) -> dict[tuple[str, str], np.ndarray]:
    found = {}
    for name, table in (("not pinned", study.plain["formula"]), ("pinned", study.pinned["formula"])):
        cells = against_random(table, study.buffer, EVICTION)
        draws = draws_of(cells, study.weights)
        show(f"### Chosen minus random tokens, prompt {name}")
        show(tables.cell_table(cells, draws))
        for kind in EVICTION:
            found[name, kind] = draws[:, [c.policy == kind for c in cells]]
    show("### Over all cells")
    rows = [tables.overall_row(key, draws) for key, draws in found.items()]
    show(tables.markdown(["prompt", "policy", *tables.OVERALL_HEADER], rows))
    return found


def say_rounding(study: Study) -> None:
    cells = rounding_cost(study.plain["formula"], study.rounded_from)
    show(f"### Rounded minus full caches at equal budgets of at least {study.rounded_from} tokens")
    show(tables.cell_table(cells, draws_of(cells, study.weights)))


def say_problems(study: Study) -> None:
    table = study.plain["formula"]
    table = table.where(table.weight_bits == 16)
    largest = list(dict.fromkeys(table.model[np.argsort(table.weights)].tolist()))[-2:]
    show("### Accuracy by kind of problem and budget, the two largest models, 16-bit weights")
    show(tables.problem_table(table, study.kind, largest, SHOWN))


def say_together(answers: dict[str, dict]) -> None:
    """Both tasks at once; their problems differ, so their draws are independent."""
    show("## Both tasks")
    rows = []
    for key in answers[TASKS[0]]:
        draws = np.concatenate([answers[task][key] for task in TASKS], axis=1)
        both = np.minimum(*(answers[task][key].mean(axis=1) for task in TASKS))
        rows.append([*tables.overall_row(key, draws), tables.probability(both)])
    header = ["prompt", "policy", *tables.OVERALL_HEADER, "P(mean > 0 in both tasks)"]
    show(tables.markdown(header, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measurements", type=Path, default=Path("measurements"))
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of the figures")
    options = parser.parse_args()
    frontiers, contrasts, control = {}, {}, {}
    for task in TASKS:
        study = load_study(options.measurements, task, options.draws, options.seed)
        show(f"## {task}")
        found = say_frontier(study)
        frontiers |= {(task, b): found["formula", "all", b, "any"] for b in (BATCHES[0], BATCHES[-1])}
        contrasts |= {(task, counting): c for counting, c in say_kinds(study).items()}
        control[task] = say_control(study)
        say_rounding(study)
        say_problems(study)
    say_together(control)
    if options.out:
        draw(options.out, frontiers, contrasts)


def draw(out: Path, frontiers: dict, contrasts: dict) -> None:
    from tslaw.kvstudy import figures
    from tslaw.plots.write import write_all

    with figures.settings():
        pictures = {
            "kv_frontier.png": figures.png(figures.frontier_figure(frontiers)),
            "kv_kinds.png": figures.png(figures.kinds_figure(contrasts)),
        }
    write_all({out / name: content for name, content in pictures.items()})


if __name__ == "__main__":
    main()
