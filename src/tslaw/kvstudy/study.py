"""The files of a study of KV compression: full caches, compressed ones, and those with the prompt pinned."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tslaw.dataset import open_dataset
from tslaw.family import load_family
from tslaw.kvstudy.bootstrap import folds, problem_weights
from tslaw.kvstudy.configurations import CacheBytes, Configurations, Held, configurations, formula, joined

if TYPE_CHECKING:
    import xarray as xr

COUNTINGS = ("formula", "held")
"""How caches are counted: `configurations.formula` and `configurations.Held`."""


@dataclass(frozen=True)
class Study:
    """One task.

    `kind` (problem,) says what sort each problem is of. `plain` and `pinned` hold its configurations by how caches are
    counted, full ones in both. `buffer` tokens are held beyond those kept; rounding begins at `rounded_from` tokens.
    `weights` and `partition` (draw, problem) are the draws, as `bootstrap` makes them.
    """

    task: str
    kind: np.ndarray
    plain: dict[str, Configurations]
    pinned: dict[str, Configurations]
    buffer: int
    rounded_from: int
    weights: np.ndarray
    partition: np.ndarray


def prompt_tokens(family: str, task: str, seed: int, problems: int) -> np.ndarray:
    """Lengths of the prompts (problem,): every model of a family shares its tokenizer."""
    from tslaw.measure.tasks import load_task
    from tslaw.measure.thinking import bind, get_format, load_tokenizer

    ref = load_family(family).models[0]
    form = bind(get_format(ref.thinking_format), load_tokenizer(ref.source))
    return np.array([len(form.render(p.prompt)) for p in load_task(task).problems(problems, seed)])


def load_study(folder: Path, task: str, draws: int, seed: int) -> Study:
    """Read a task's full, compressed and pinned measurements, on the problems and budgets of the compressed ones."""
    full, compressed, pinned = (open_dataset(folder / part / f"{task}.nc") for part in ("", "kv", "kv/pinned"))
    plan = json.loads(compressed.attrs["provenance"])["plan"]
    options = plan["kv_options"]
    (source,) = (t for t in plan["tasks"] if t["name"] == task)
    problems, budgets = compressed["problem"].values.tolist(), compressed["budget"].values.tolist()
    prompt = prompt_tokens(plan["family"], task, source["seed"], len(problems))
    held = Held(prompt, options["buffer"], options["residual"], options["group"])
    countings: dict[str, CacheBytes] = {"formula": formula, "held": held}

    def table(ds: xr.Dataset, count: CacheBytes, is_pinned: bool = False) -> Configurations:
        return configurations(ds, count, problems, budgets, is_pinned)

    base = {name: table(full, count) for name, count in countings.items()}
    rng = np.random.default_rng([seed, *task.encode()])  # tasks have other problems, so other draws
    return Study(
        task,
        np.array([str(level).rpartition("-")[2] for level in compressed["level"].values]),
        {name: joined([base[name], table(compressed, count)]) for name, count in countings.items()},
        {name: joined([base[name], table(pinned, count, True)]) for name, count in countings.items()},
        options["buffer"],
        options["residual"] + options["group"],
        problem_weights(draws, len(problems), rng),
        folds(draws, len(problems), rng),
    )
